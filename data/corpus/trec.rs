//! TREC collections: documents between `<doc>` and `</doc>`, topics between `<top>` and `</top>`.
//!
//! The files are SGML more than XML: there need be no root, a tag of a topic need not be closed, and a `<` may stand for
//! itself. So only the tags of interest are looked for.

use std::path::Path;

use quick_xml::escape::unescape;

use super::Fault;
use super::ir::{Entries, Entry, IrDocument, IrQuery, one_line};
use crate::Result;
use crate::text_file::{LineRead, Lines, not_utf8, too_long};

/// Bytes of the longest entity looked for.
const MAX_ENTITY: usize = 12;
const TOPIC_TAGS: [&str; 5] = ["<num>", "<title>", "<desc>", "<narr>", "</top>"];

struct TrecEntries {
    lines: Lines,
    limit: usize,
    /// What stands after the end of the last record on its line.
    rest: Option<String>,
    record: Option<Record>,
}

struct Record {
    line: u64,
    topic: bool,
    text: String,
    fault: Option<String>,
}

impl Record {
    fn add(&mut self, text: &str, limit: usize) {
        if self.text.len() + text.len() > limit {
            self.fault.get_or_insert(format!("the record is longer than max_line_bytes = {limit}"));
        } else {
            self.text.push_str(text);
            self.text.push('\n');
        }
    }

    fn entry(self) -> Result<Entry, Fault> {
        let Record { line, topic, text: record, fault } = self;
        let refuse = |reason: &str| Err(Fault::Row { line, reason: reason.to_owned() });
        if let Some(reason) = fault {
            return refuse(&reason);
        }
        let lower = record.to_ascii_lowercase();
        let part = |name: &str, label: &str| {
            let text = one_line(&fields(&record, &lower, name));
            text.strip_prefix(label).map(|text| text.trim_start().to_owned()).unwrap_or(text)
        };
        if topic {
            let (id, title, description) =
                (part("num", "Number:"), part("title", "Topic:"), part("desc", "Description:"));
            let text = if title.is_empty() { description } else { title };
            if id.is_empty() || text.is_empty() {
                return refuse("the topic has no <num> or neither <title> nor <desc>");
            }
            return Ok(Entry::Query { line, query: IrQuery { id, text } });
        }
        let id = part("docno", "");
        if id.is_empty() {
            return refuse("the document has no <docno>");
        }
        let document = IrDocument { id, title: part("title", ""), text: part("text", "") };
        Ok(Entry::Document { line, document })
    }
}

/// What stands within all tags of a name, entities decoded.
fn fields(record: &str, lower: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut found = String::new();
    let mut at = 0;
    while let Some(start) = lower[at..].find(&open).map(|start| at + start + open.len()) {
        let end = match lower[start..].find(&close) {
            Some(end) => start + end,
            // topics leave tags open: up to the next one
            None => TOPIC_TAGS
                .iter()
                .filter_map(|tag| lower[start..].find(tag))
                .min()
                .map_or(lower.len(), |end| start + end),
        };
        decode(&record[start..end], &mut found);
        found.push('\n');
        at = end;
    }
    found
}

/// Appends `raw` with its entities decoded; an `&` that begins none stands for itself.
fn decode(raw: &str, out: &mut String) {
    let mut rest = raw;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity =
            rest.bytes().take(MAX_ENTITY).position(|byte| byte == b';').map_or("", |end| &rest[..=end]);
        match unescape(entity) {
            Ok(decoded) if !entity.is_empty() => {
                out.push_str(&decoded);
                rest = &rest[entity.len()..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}

/// Documents and topics, in their order.
pub(super) fn entries(path: &Path, limit: usize) -> Result<Entries> {
    Ok(Box::new(TrecEntries { lines: Lines::open(path, limit)?, limit, rest: None, record: None }))
}

impl TrecEntries {
    /// The next line, or what is left of one; nothing at the end of the file.
    fn line(&mut self) -> Result<Option<Result<String, String>>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(Ok(rest)));
        }
        let mut buffer = Vec::new();
        Ok(Some(match self.lines.next_line(&mut buffer)? {
            LineRead::End => return Ok(None),
            LineRead::TooLong { bytes } => Err(too_long(bytes, self.limit)),
            LineRead::Line => String::from_utf8(buffer).map_err(|error| not_utf8(error.utf8_error())),
        }))
    }

    /// Takes in a line; a record that it ends.
    fn take(&mut self, content: Result<String, String>) -> Option<Result<Entry, Fault>> {
        let line = self.lines.line();
        let text = match (content, &mut self.record) {
            (Ok(text), _) => text,
            (Err(reason), Some(record)) => {
                record.fault.get_or_insert(format!("its line {line}: {reason}"));
                return None;
            }
            (Err(reason), None) => return Some(Err(Fault::Row { line, reason })),
        };
        let lower = text.to_ascii_lowercase();
        let opening = [("<doc>", false), ("<top>", true)];
        let opening = opening.iter().filter_map(|(tag, topic)| Some((lower.find(tag)?, *topic))).min();
        let closing = self.record.as_ref().and_then(|record| {
            let tag = if record.topic { "</top>" } else { "</doc>" };
            lower.find(tag).map(|at| at + tag.len())
        });
        match (opening, closing) {
            (opening, Some(end)) if opening.is_none_or(|(start, _)| end <= start) => {
                let mut record = self.record.take()?;
                record.add(&text[..end], self.limit);
                self.rest = Some(text[end..].to_owned()).filter(|rest| !rest.trim().is_empty());
                Some(record.entry())
            }
            (Some((start, topic)), _) => {
                // the tag itself is left out of what is looked at next
                self.rest = Some(text[start + "<doc>".len()..].to_owned());
                let new = Record { line, topic, text: String::new(), fault: None };
                let unclosed = self.record.replace(new)?;
                let reason = "the record is not closed where the next one begins".to_owned();
                Some(Err(Fault::Row { line: unclosed.line, reason }))
            }
            _ => {
                if let Some(record) = &mut self.record {
                    record.add(&text, self.limit);
                }
                None
            }
        }
    }
}

impl Iterator for TrecEntries {
    type Item = Result<Entry, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.line() {
                Err(error) => return Some(Err(error.into())),
                Ok(None) => {
                    let record = self.record.take()?;
                    let reason = "the file ends within the record".to_owned();
                    return Some(Err(Fault::Row { line: record.line, reason }));
                }
                Ok(Some(content)) => {
                    if let Some(entry) = self.take(content) {
                        return Some(entry);
                    }
                }
            }
        }
    }
}
