//! Evaluation files as the texts in them, for what must not be learnt.

use std::path::Path;

use super::ir::{self, Entry};
use super::sts::StsRows;
use super::{Fault, Format, json};
use crate::text_file::MAX_LINE_BYTES;
use crate::{Error, Result};

/// What an evaluation file may be besides lines of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Structure {
    Sts,
    Trec,
    Smart,
    Json,
}

impl Structure {
    /// How it is called in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Structure::Sts => "scored sentence pairs",
            Structure::Trec => "a TREC collection",
            Structure::Smart => "a SMART collection",
            Structure::Json => "JSON",
        }
    }
}

/// How far a file is what it was read as.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Records with a text.
    pub(crate) sound: u64,
    /// Those that are none.
    pub(crate) unsound: u64,
    /// Why the first of these is none.
    pub(crate) fault: Option<Error>,
}

impl Reading {
    fn refuse(&mut self, error: Error) {
        self.unsound += 1;
        self.fault.get_or_insert(error);
    }
}

type Records = Box<dyn Iterator<Item = Result<Vec<String>, Fault>>>;

/// Calls `each` with every text of a file that is read as `structure`: both sides of a pair; of a document title, text and
/// both together; a query; every string of JSON. What is not of that structure is counted and passed over.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn read_as(path: &Path, structure: Structure, each: &mut dyn FnMut(&str)) -> Result<Reading> {
    let mut reading = Reading::default();
    for record in records(path, structure)? {
        match record {
            Ok(texts) => {
                reading.sound += u64::from(texts.iter().any(|text| !text.trim().is_empty()));
                texts.iter().for_each(|text| each(text));
            }
            Err(Fault::Row { line, reason }) => {
                reading.refuse(Error::Line { path: path.to_owned(), line, reason });
            }
            // nothing of the structure follows, or the file is cut short
            Err(Fault::Fatal(error @ Error::Layout { .. })) => {
                reading.refuse(error);
                break;
            }
            Err(Fault::Fatal(error)) => return Err(error),
        }
    }
    Ok(reading)
}

fn records(path: &Path, structure: Structure) -> Result<Records> {
    Ok(match structure {
        Structure::Sts => {
            let rows = StsRows::with_limit(path, MAX_LINE_BYTES)?;
            Box::new(rows.map(|row| row.map(|row| row.texts)))
        }
        Structure::Trec => collection(path, Format::Trec)?,
        Structure::Smart => collection(path, Format::Smart)?,
        Structure::Json => {
            // evaluation files are few and trusted: an element may be as long as a book
            let values = json::values(path, 64 * MAX_LINE_BYTES)?;
            Box::new(values.map(|value| value.map(|(_, value)| json::strings(&value))))
        }
    })
}

fn collection(path: &Path, format: Format) -> Result<Records> {
    let texts = |entry: Entry| match entry {
        Entry::Document { document, .. } => {
            let both = format!("{} {}", document.title, document.text);
            vec![document.title, document.text, both]
        }
        Entry::Query { query, .. } => vec![query.text],
    };
    let entries = ir::entries(path, format, 16 * MAX_LINE_BYTES)?;
    Ok(Box::new(entries.map(move |entry| entry.map(texts))))
}

/// The strings of a file of JSON values that go over lines as they like; `None` where it is something else.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn strings_of_whole(path: &Path) -> Result<Option<Vec<String>>> {
    let reader = crate::text_file::open(path)?;
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_reader(reader).into_iter::<serde_json::Value>() {
        match value {
            Ok(value) => found.extend(json::strings(&value)),
            Err(error) if error.is_io() => {
                let line = error.line() as u64;
                return Err(Error::Read { path: path.to_owned(), line, source: error.into() });
            }
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(found))
}
