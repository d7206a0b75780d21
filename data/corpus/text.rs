//! Plain text: a text a line, or a paragraph.

use std::path::Path;

use super::{CorpusConfig, Fault, Row};
use crate::Result;
use crate::text_file::{LineRead, Lines, not_utf8, too_long};

/// Lines or paragraphs of a text file.
pub(super) struct TextRows {
    lines: Lines,
    limit: usize,
    paragraphs: bool,
}

impl TextRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<TextRows> {
        let limit = config.max_line_bytes;
        Ok(TextRows { lines: Lines::open(path, limit)?, limit, paragraphs: config.paragraphs })
    }

    /// The next line; nothing at the end of the file.
    fn line(&mut self) -> Option<Result<Row, Fault>> {
        let mut buffer = Vec::new();
        let read = self.lines.next_line(&mut buffer);
        let line = self.lines.line();
        let reason = match read {
            Err(error) => return Some(Err(error.into())),
            Ok(LineRead::End) => return None,
            Ok(LineRead::TooLong { bytes }) => too_long(bytes, self.limit),
            Ok(LineRead::Line) => match String::from_utf8(buffer) {
                Ok(text) => return Some(Ok(Row { line, texts: vec![text], group: None })),
                Err(error) => not_utf8(error.utf8_error()),
            },
        };
        Some(Err(Fault::Row { line, reason }))
    }

    /// Lines up to an empty one. A bad line spoils its whole paragraph.
    fn paragraph(&mut self) -> Option<Result<Row, Fault>> {
        let mut paragraph: Option<Row> = None;
        let mut bytes = 0;
        let mut fault = None;
        loop {
            let row = match self.line() {
                None => break,
                Some(Err(Fault::Fatal(error))) => return Some(Err(Fault::Fatal(error))),
                Some(Err(bad)) => {
                    fault.get_or_insert(bad);
                    continue;
                }
                Some(Ok(row)) => row,
            };
            let length = row.texts.iter().map(String::len).sum::<usize>();
            let blank = row.texts.iter().all(|text| text.trim().is_empty());
            if blank && paragraph.is_none() && fault.is_none() {
                continue;
            }
            if blank {
                break;
            }
            match &mut paragraph {
                None => paragraph = Some(row),
                Some(paragraph) if bytes <= self.limit => {
                    paragraph.texts.push("\n".into());
                    paragraph.texts.extend(row.texts);
                }
                Some(_) => {}
            }
            bytes += length + 1;
        }
        if let Some(fault) = fault {
            return Some(Err(fault));
        }
        let mut row = paragraph?;
        if bytes > self.limit + 1 {
            let reason =
                format!("the paragraph has {bytes} bytes, more than max_line_bytes = {}", self.limit);
            return Some(Err(Fault::Row { line: row.line, reason }));
        }
        row.texts = vec![row.texts.concat()];
        Some(Ok(row))
    }
}

impl Iterator for TextRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.paragraphs { self.paragraph() } else { self.line() }
    }
}
