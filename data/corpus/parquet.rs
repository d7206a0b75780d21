//! Parquet: text in columns given by name, of which a few hundred rows at a time are in memory.
//!
//! Columns are read by themselves and put together row by row; those that are not asked for are not read. A file's
//! `line` is its row, counted from 1.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fs_err as fs;
use parquet::basic::{ConvertedType, LogicalType, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::Type;

use super::json::key;
use super::{CorpusConfig, Fault, GroupBy, Row};
use crate::{Error, Result};

/// Rows of one column that are decoded at once.
const BATCH_ROWS: usize = 256;

/// The rows of a Parquet file.
pub(super) struct ParquetRows {
    reader: SerializedFileReader<std::fs::File>,
    path: PathBuf,
    /// Leaves of the schema, by number: the text columns, and behind them that of the group, if there is one.
    leaves: Vec<usize>,
    grouped: bool,
    limit: usize,
    /// The next row group.
    next: usize,
    row: u64,
    rows_left: usize,
    columns: Vec<Column>,
}

/// What a leaf holds in one row: values, a list giving several.
type Cell = Vec<Option<Value>>;

/// One leaf within one row group.
struct Column {
    reader: ColumnReader,
    /// Definition level of a value that is there.
    defined: i16,
    is_list: bool,
    cells: VecDeque<Cell>,
}

/// A value as far as a corpus needs it.
enum Value {
    Bytes(ByteArray),
    /// Of another type; written out, to name a group.
    Other(String),
}

impl ParquetRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<ParquetRows> {
        let file = fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        if bytes == 0 {
            return Err(Error::EmptyFile { path: path.to_owned(), what: "Parquet" });
        }
        let reader = sound(|| SerializedFileReader::new(file.into_parts().0));
        let reader = reader.map_err(|error| damaged(path, &error))?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let mut names = Vec::new();
        for field in schema.root_schema().get_fields() {
            name_leaves(field, "", &mut names);
        }
        if names.len() != schema.num_columns() {
            return Err(damaged(path, "its schema is no tree"));
        }
        let find = |name: &str| {
            names.iter().position(|there| there == name).ok_or_else(|| {
                let found: Vec<String> = names
                    .iter()
                    .enumerate()
                    .map(|(i, name)| format!("{name:?} ({})", kind(schema.column(i).self_type())))
                    .collect();
                Error::NoColumn {
                    path: path.to_owned(),
                    column: format!("{name:?}"),
                    found: found.join(", "),
                }
            })
        };
        let mut leaves = Vec::new();
        for column in config.text_columns() {
            let name = key(&column);
            let leaf = find(&name)?;
            let of = schema.column(leaf);
            if !is_text(of.self_type()) {
                let reason = format!("the column {name:?} holds {}, not text", kind(of.self_type()));
                return Err(Error::Layout { path: path.to_owned(), reason });
            }
            leaves.push(leaf);
        }
        let grouping = match config.grouping() {
            GroupBy::Column(column) => Some(find(&key(&column))?),
            _ => None,
        };
        leaves.extend(grouping);
        Ok(ParquetRows {
            reader,
            path: path.to_owned(),
            leaves,
            grouped: grouping.is_some(),
            limit: config.max_line_bytes,
            next: 0,
            row: 0,
            rows_left: 0,
            columns: Vec::new(),
        })
    }

    /// Goes to the next row group that has rows; false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        while self.rows_left == 0 {
            if self.next == self.reader.num_row_groups() {
                return Ok(false);
            }
            let refuse = |error: ParquetError| damaged(&self.path, &error);
            let group = sound(|| self.reader.get_row_group(self.next)).map_err(refuse)?;
            let schema = self.reader.metadata().file_metadata().schema_descr();
            let rows = usize::try_from(group.metadata().num_rows());
            self.rows_left = rows.map_err(|_| damaged(&self.path, "it has a negative number of rows"))?;
            self.columns.clear();
            for &leaf in &self.leaves {
                let of = schema.column(leaf);
                self.columns.push(Column {
                    reader: sound(|| {
                        require_offsets(group.metadata().column(leaf))?;
                        group.get_column_reader(leaf)
                    })
                    .map_err(refuse)?,
                    defined: of.max_def_level(),
                    is_list: of.max_rep_level() > 0,
                    cells: VecDeque::new(),
                });
            }
            self.next += 1;
        }
        Ok(true)
    }

    fn row(&mut self) -> Result<Option<Row>, Fault> {
        if !self.advance()? {
            return Ok(None);
        }
        self.row += 1;
        self.rows_left -= 1;
        let line = self.row;
        let (mut texts, mut group, mut fault) = (Vec::new(), None, None);
        let text_columns = self.columns.len() - usize::from(self.grouped);
        for (i, column) in self.columns.iter_mut().enumerate() {
            let cell = column.next().map_err(|error| damaged(&self.path, &error))?;
            // every column moves on, also where the row is of no use
            for value in cell.into_iter().flatten() {
                match value.text(self.limit) {
                    Ok(text) if i < text_columns => texts.push(text),
                    Ok(text) => group = Some(text),
                    Err(reason) => fault = fault.or(Some(reason)),
                }
            }
        }
        if self.grouped && group.is_none() {
            fault = fault.or(Some("there is no value in the group's column".into()));
        }
        match fault {
            Some(reason) => Err(Fault::Row { line, reason }),
            None => Ok(Some(Row { line, texts, group })),
        }
    }
}

impl Iterator for ParquetRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}

impl Column {
    fn next(&mut self) -> Result<Cell, ParquetError> {
        if self.cells.is_empty() {
            sound(|| self.fill())?;
        }
        let short = || ParquetError::General("a column has fewer rows than its row group".into());
        self.cells.pop_front().ok_or_else(short)
    }

    fn fill(&mut self) -> Result<(), ParquetError> {
        let (defined, is_list) = (self.defined, self.is_list);
        macro_rules! read {
            ($reader:expr, $value:expr) => {
                read($reader, defined, is_list, $value)?
            };
        }
        self.cells = match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => read!(reader, Value::Bytes),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                read!(reader, |value| Value::Bytes(ByteArray::from(value)))
            }
            ColumnReader::BoolColumnReader(reader) => read!(reader, other),
            ColumnReader::Int32ColumnReader(reader) => read!(reader, other),
            ColumnReader::Int64ColumnReader(reader) => read!(reader, other),
            ColumnReader::Int96ColumnReader(reader) => read!(reader, other),
            ColumnReader::FloatColumnReader(reader) => read!(reader, other),
            ColumnReader::DoubleColumnReader(reader) => read!(reader, other),
        };
        Ok(())
    }
}

thread_local! {
    /// Whether this thread is within [`sound`].
    static READING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Whether a panic of this thread, now, is no bug of ours: it will be told as damage of the file that is being read.
pub fn panic_is_damage() -> bool {
    READING.get()
}

/// What the library does with a file, a panic of its own taken for damage: it asserts what a sound file holds.
fn sound<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    // what was begun with is not used again after an error
    READING.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    READING.set(false);
    done.unwrap_or_else(|_| Err(ParquetError::General("its pages or their description are damaged".into())))
}

/// Refuses a chunk that would begin before its file, which the library takes for impossible.
fn require_offsets(chunk: &ColumnChunkMetaData) -> Result<(), ParquetError> {
    let dictionary = chunk.dictionary_page_offset().unwrap_or(0);
    if [chunk.data_page_offset(), dictionary, chunk.compressed_size()].into_iter().all(|number| number >= 0) {
        return Ok(());
    }
    Err(ParquetError::General("a column lies before the beginning of the file".into()))
}

/// The next rows of a column.
fn read<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    defined: i16,
    is_list: bool,
    value: impl Fn(T::T) -> Value,
) -> Result<VecDeque<Cell>, ParquetError> {
    let (mut definitions, mut repetitions, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (_, _, levels) =
        reader.read_records(BATCH_ROWS, Some(&mut definitions), Some(&mut repetitions), &mut values)?;
    let mut cells: VecDeque<Cell> = VecDeque::new();
    let mut values = values.into_iter();
    for level in 0..levels {
        let there = defined == 0 || definitions.get(level) == Some(&defined);
        let one = if there { values.next().map(&value) } else { None };
        let goes_on = is_list && repetitions.get(level).is_some_and(|&repetition| repetition > 0);
        match cells.back_mut() {
            Some(cell) if goes_on => cell.push(one),
            _ => cells.push_back(vec![one]),
        }
    }
    Ok(cells)
}

fn other(value: impl std::fmt::Display) -> Value {
    Value::Other(value.to_string())
}

impl Value {
    fn text(self, limit: usize) -> Result<String, String> {
        match self {
            Value::Other(text) => Ok(text),
            Value::Bytes(bytes) if bytes.len() > limit => {
                Err(format!("the text has {} bytes, more than max_line_bytes = {limit}", bytes.len()))
            }
            Value::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                Ok(text) => Ok(text.to_owned()),
                Err(error) => Err(format!("invalid UTF-8 at byte {} of the text", error.valid_up_to() + 1)),
            },
        }
    }
}

/// Names the leaves below a type in the order of the columns: keys between dots, lists having no part of their own.
fn name_leaves(of: &Type, above: &str, names: &mut Vec<String>) {
    let name = match above {
        "" => of.name().to_owned(),
        above => format!("{above}.{}", of.name()),
    };
    name_leaves_as(of, name, names);
}

fn name_leaves_as(of: &Type, name: String, names: &mut Vec<String>) {
    if of.is_primitive() {
        names.push(name);
        return;
    }
    match (is_list(of), of.get_fields()) {
        // `optional group NAME (LIST) { repeated group list { optional X element } }`
        (true, [repeated]) => match repeated.is_group().then(|| repeated.get_fields()) {
            Some([element]) if repeated.name() != "array" => name_leaves_as(element, name, names),
            _ => name_leaves_as(repeated, name, names),
        },
        (_, fields) => fields.iter().for_each(|field| name_leaves(field, &name, names)),
    }
}

fn is_list(of: &Type) -> bool {
    let info = of.get_basic_info();
    info.converted_type() == ConvertedType::LIST || info.logical_type_ref() == Some(&LogicalType::List)
}

fn is_text(of: &Type) -> bool {
    use ConvertedType::{ENUM, JSON, NONE, UTF8};
    // writers of old leave the annotation out
    of.get_physical_type() == Physical::BYTE_ARRAY
        && matches!(of.get_basic_info().converted_type(), UTF8 | ENUM | JSON | NONE)
}

fn kind(of: &Type) -> String {
    let converted = of.get_basic_info().converted_type();
    match converted {
        ConvertedType::UTF8 => "text".into(),
        ConvertedType::NONE => of.get_physical_type().to_string(),
        _ => format!("{} {converted}", of.get_physical_type()),
    }
}

fn damaged(path: &Path, reason: impl ToString) -> Error {
    Error::Parquet { path: path.to_owned(), reason: reason.to_string() }
}
