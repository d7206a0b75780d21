//! Tables: TSV, CSV and the arXiv archive's files, with text in columns given by name or by number.

use std::path::Path;

use super::record::{Dialect, Record, Records};
use super::{Column, CorpusConfig, Fault, Format, GroupBy, Row};
use crate::{Error, Result};

/// The rows of a table.
pub(super) struct TableRows {
    records: Records,
    text: Vec<usize>,
    group: Option<usize>,
    /// Fields of the header, where there is one: every row must have as many.
    width: Option<usize>,
}

impl TableRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<TableRows> {
        let delimiter = if config.format == Format::Csv { b',' } else { b'\t' };
        let dialect = Dialect { delimiter, quotes: config.has_quotes() };
        let mut records = Records::open(path, dialect, config.max_line_bytes)?;
        let header = if config.has_header() { Some(header(path, &mut records)?) } else { None };
        let find = |column: &Column| match (column, &header) {
            (Column::Number(number), None) => Ok(*number),
            (Column::Number(number), Some(header)) if *number < header.len() => Ok(*number),
            (Column::Name(name), Some(header)) => header
                .iter()
                .position(|field| field.trim() == name)
                .ok_or_else(|| no_column(path, column, header)),
            (_, header) => Err(no_column(path, column, header.as_deref().unwrap_or_default())),
        };
        let text = config.text_columns().iter().map(find).collect::<Result<_>>()?;
        let group = match config.grouping() {
            GroupBy::Column(column) => Some(find(&column)?),
            _ => None,
        };
        Ok(TableRows { records, text, group, width: header.map(|header| header.len()) })
    }

    fn row(&self, record: Record) -> Result<Row, Fault> {
        let Record { line, mut fields } = record;
        if let Some(width) = self.width
            && fields.len() != width
        {
            let reason = format!("the row has {} columns, the header has {width}", fields.len());
            return Err(Fault::Row { line, reason });
        }
        let needed = self.text.iter().chain(&self.group).max().copied().unwrap_or(0);
        if fields.len() <= needed {
            let reason = format!(
                "the row has {} columns, column {needed} (counted from 0) is asked for",
                fields.len()
            );
            return Err(Fault::Row { line, reason });
        }
        let group = self.group.map(|column| fields[column].clone()).filter(|value| !value.trim().is_empty());
        let texts = self.text.iter().map(|&column| std::mem::take(&mut fields[column])).collect();
        Ok(Row { line, texts, group })
    }
}

/// The first record.
fn header(path: &Path, records: &mut Records) -> Result<Vec<String>> {
    match records.next_record() {
        None => Err(Error::EmptyFile { path: path.to_owned(), what: "header" }),
        Some(Ok(record)) => Ok(record.fields),
        Some(Err(Fault::Fatal(error))) => Err(error),
        Some(Err(Fault::Row { line, reason })) => {
            let reason = format!("the header cannot be read: {reason}");
            Err(Error::Line { path: path.to_owned(), line, reason })
        }
    }
}

fn no_column(path: &Path, column: &Column, header: &[String]) -> Error {
    let found: Vec<String> = header.iter().enumerate().map(|(i, name)| format!("{i} {name:?}")).collect();
    Error::NoColumn { path: path.to_owned(), column: column.to_string(), found: found.join(", ") }
}

impl Iterator for TableRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.records.next_record()?;
        Some(record.and_then(|record| self.row(record)))
    }
}
