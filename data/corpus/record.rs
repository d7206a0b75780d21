//! Records of tables: fields between tabs or commas, with or without quotes.

use std::collections::VecDeque;
use std::path::Path;

use super::Fault;
use crate::Result;
use crate::text_file::{LineRead, Lines, not_utf8, too_long};

/// A quoted field that is still open after so many lines was never closed: the quote is a stray one.
const MAX_RECORD_LINES: usize = 256;

/// How fields are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) quotes: bool,
}

/// A record with the line at which it begins.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) line: u64,
    pub(super) fields: Vec<String>,
}

/// The records of a file. Empty lines between records are passed over.
pub(super) struct Records {
    lines: Lines,
    dialect: Dialect,
    parser: csv_core::Reader,
    max_bytes: usize,
    /// Lines read ahead for a quoted field that did not close: each is a record of its own after all.
    ahead: VecDeque<Line>,
}

struct Line {
    number: u64,
    content: Result<String, String>,
}

impl Records {
    pub(super) fn open(path: &Path, dialect: Dialect, max_bytes: usize) -> Result<Records> {
        let parser = csv_core::ReaderBuilder::new().delimiter(dialect.delimiter).build();
        let lines = Lines::open(path, max_bytes)?;
        Ok(Records { lines, dialect, parser, max_bytes, ahead: VecDeque::new() })
    }

    fn line(&mut self) -> Result<Option<Line>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut buffer = Vec::new();
        let content = match self.lines.next_line(&mut buffer)? {
            LineRead::End => return Ok(None),
            LineRead::TooLong { bytes } => Err(too_long(bytes, self.max_bytes)),
            LineRead::Line => String::from_utf8(buffer).map_err(|error| not_utf8(error.utf8_error())),
        };
        Ok(Some(Line { number: self.lines.line(), content }))
    }

    /// The next record; nothing at the end of the file.
    pub(super) fn next_record(&mut self) -> Option<Result<Record, Fault>> {
        loop {
            let Line { number: line, content } = match self.line() {
                Err(error) => return Some(Err(error.into())),
                Ok(None) => return None,
                Ok(Some(line)) => line,
            };
            let text = match content {
                Err(reason) => return Some(Err(Fault::Row { line, reason })),
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => text,
            };
            if !self.dialect.quotes || !text.contains('"') {
                let fields = text.split(char::from(self.dialect.delimiter)).map(str::to_owned).collect();
                return Some(Ok(Record { line, fields }));
            }
            return Some(self.quoted(line, text));
        }
    }

    /// A record with quotes, which may go on over lines.
    fn quoted(&mut self, line: u64, first: String) -> Result<Record, Fault> {
        let mut parse = Parse::default();
        self.parser.reset();
        let mut bytes = first.len();
        let mut read: Vec<Line> = Vec::new();
        let mut done = parse.feed(&mut self.parser, &first);
        while !done && bytes <= self.max_bytes && read.len() < MAX_RECORD_LINES {
            let Some(next) = self.line()? else { break };
            let Ok(text) = &next.content else {
                read.push(next);
                break;
            };
            bytes += text.len() + 1;
            done = parse.feed(&mut self.parser, text);
            read.push(next);
        }
        if done && bytes <= self.max_bytes {
            // whole lines of UTF-8 went in, cut at ASCII bytes only
            return match parse.fields() {
                Some(fields) => Ok(Record { line, fields }),
                None => Err(Fault::Row { line, reason: "a field is no UTF-8".into() }),
            };
        }
        for next in read.into_iter().rev() {
            self.ahead.push_front(next);
        }
        let reason =
            "a quoted field begins here that does not end (within the file, max_line_bytes and 256 lines)"
                .into();
        Err(Fault::Row { line, reason })
    }
}

/// The fields of a record while it is being parsed.
#[derive(Default)]
struct Parse {
    output: Vec<u8>,
    written: usize,
    ends: Vec<usize>,
    fields: usize,
}

impl Parse {
    /// Parses a line; true where the record ends with it.
    fn feed(&mut self, parser: &mut csv_core::Reader, line: &str) -> bool {
        let mut input = line.as_bytes();
        let mut newline_fed = false;
        // unquoting never makes a field longer
        self.output.resize(self.written + line.len() + 1, 0);
        loop {
            if self.ends.len() < self.fields + 8 {
                self.ends.resize(self.fields + 64, 0);
            }
            let (result, used, written, ends) =
                parser.read_record(input, &mut self.output[self.written..], &mut self.ends[self.fields..]);
            self.written += written;
            self.fields += ends;
            input = &input[used..];
            match result {
                csv_core::ReadRecordResult::Record => return true,
                csv_core::ReadRecordResult::End => return false,
                csv_core::ReadRecordResult::OutputFull => self.output.resize(self.output.len() + 64, 0),
                csv_core::ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() + 64, 0),
                csv_core::ReadRecordResult::InputEmpty if newline_fed => return false,
                csv_core::ReadRecordResult::InputEmpty => {
                    input = b"\n";
                    newline_fed = true;
                }
            }
        }
    }

    fn fields(&self) -> Option<Vec<String>> {
        let mut start = 0;
        let ends = self.ends.get(..self.fields)?;
        ends.iter()
            .map(|&end| {
                let field = self.output.get(start..end)?;
                start = end;
                Some(std::str::from_utf8(field).ok()?.to_owned())
            })
            .collect()
    }
}
