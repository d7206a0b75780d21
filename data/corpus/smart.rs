//! Field files of the SMART system (CISI, MED and others): `.I` begins a record, `.T` its title, `.W` its text; other
//! fields (`.A` authors, `.B` bibliography, `.X` citations, ...) are passed over.

use std::path::Path;

use super::Fault;
use super::ir::{Entries, Entry, IrDocument, IrQuery, one_line};
use crate::Result;
use crate::text_file::{LineRead, Lines, not_utf8, too_long};

struct SmartEntries {
    lines: Lines,
    limit: usize,
    queries: bool,
    record: Option<Record>,
}

struct Record {
    line: u64,
    id: String,
    field: char,
    title: String,
    text: String,
    fault: Option<String>,
}

/// Documents, or queries where the file's ending is `.QRY`.
pub(super) fn entries(path: &Path, limit: usize) -> Result<Entries> {
    let queries = path.file_name().is_some_and(|name| name.to_string_lossy().to_lowercase().contains(".qry"));
    Ok(Box::new(SmartEntries { lines: Lines::open(path, limit)?, limit, queries, record: None }))
}

/// The letter of a line that is nothing but `.X`.
fn field_of(line: &str) -> Option<char> {
    match line.trim_end().as_bytes() {
        [b'.', letter @ b'A'..=b'Z'] => Some(char::from(*letter)),
        _ => None,
    }
}

impl SmartEntries {
    fn entry(&self, record: Record) -> Result<Entry, Fault> {
        let Record { line, id, title, text, fault, .. } = record;
        if let Some(reason) = fault {
            return Err(Fault::Row { line, reason });
        }
        let (title, text) = (one_line(&title), one_line(&text));
        Ok(if self.queries {
            Entry::Query { line, query: IrQuery { id, text } }
        } else {
            Entry::Document { line, document: IrDocument { id, title, text } }
        })
    }

    /// Adds a line to the record; lines before the first record belong to nothing.
    fn add(&mut self, content: Result<String, String>) -> Result<(), Fault> {
        let line = self.lines.line();
        let Some(record) = &mut self.record else {
            return match content {
                Ok(text) if text.trim().is_empty() => Ok(()),
                Ok(_) => Err(Fault::Row { line, reason: "text before the first .I".into() }),
                Err(reason) => Err(Fault::Row { line, reason }),
            };
        };
        let text = match content {
            Ok(text) => text,
            Err(reason) => {
                record.fault.get_or_insert(format!("its line {line}: {reason}"));
                return Ok(());
            }
        };
        if let Some(field) = field_of(&text) {
            record.field = field;
            return Ok(());
        }
        let part = match record.field {
            'T' => &mut record.title,
            'W' => &mut record.text,
            _ => return Ok(()),
        };
        if part.len() + text.len() > self.limit {
            record.fault.get_or_insert(format!("the record is longer than max_line_bytes = {}", self.limit));
        } else {
            part.push_str(&text);
            part.push('\n');
        }
        Ok(())
    }
}

impl Iterator for SmartEntries {
    type Item = Result<Entry, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let content = match self.lines.next_line(&mut buffer) {
                Err(error) => return Some(Err(error.into())),
                Ok(LineRead::End) => {
                    let record = self.record.take()?;
                    return Some(self.entry(record));
                }
                Ok(LineRead::TooLong { bytes }) => Err(too_long(bytes, self.limit)),
                Ok(LineRead::Line) => std::str::from_utf8(&buffer).map(str::to_owned).map_err(not_utf8),
            };
            if let Ok(text) = &content
                && let Some(id) = text.strip_prefix(".I ")
            {
                let (id, line) = (id.trim().to_owned(), self.lines.line());
                let (title, text) = (String::new(), String::new());
                let fault = id.is_empty().then(|| "the record has no id".to_owned());
                let before = self.record.replace(Record { line, id, field: ' ', title, text, fault });
                match before {
                    Some(record) => return Some(self.entry(record)),
                    None => continue,
                }
            }
            if let Err(fault) = self.add(content) {
                return Some(Err(fault));
            }
        }
    }
}
