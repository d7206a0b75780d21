//! JSON: an object a line, or one array of objects, with text under given keys.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Column, CorpusConfig, Fault, GroupBy, Row};
use crate::text_file::{self, LineRead, Lines, not_utf8, too_long};
use crate::{Error, Result};

/// Which keys of a value are text, and which names its group.
struct Keys {
    text: Vec<String>,
    group: Option<String>,
}

impl Keys {
    fn new(config: &CorpusConfig) -> Keys {
        let group = match config.grouping() {
            GroupBy::Column(column) => Some(key(&column)),
            _ => None,
        };
        Keys { text: config.text_columns().iter().map(key).collect(), group }
    }

    /// A value that is a string is itself the text. `null` is an empty text, a list gives a text for each element.
    fn row(&self, line: u64, value: &Value) -> Result<Row, Fault> {
        if let Value::String(text) = value {
            return Ok(Row { line, texts: vec![text.clone()], group: None });
        }
        let refuse = |reason: String| Fault::Row { line, reason };
        if !value.is_object() {
            return Err(refuse(format!("an object was expected, this is {}", kind(value))));
        }
        let mut texts = Vec::new();
        for key in &self.text {
            match find(value, key) {
                Some(Value::String(text)) => texts.push(text.clone()),
                Some(Value::Null) => {}
                Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                    texts.extend(items.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                Some(other) => return Err(refuse(format!("{key:?} is {}, not a text", kind(other)))),
                None => return Err(refuse(format!("there is no key {key:?}"))),
            }
        }
        let group = match self.group.as_ref().map(|key| (key, find(value, key))) {
            None => None,
            Some((_, Some(Value::String(text)))) => Some(text.clone()),
            Some((_, Some(other))) if !other.is_null() => Some(other.to_string()),
            Some((key, _)) => return Err(refuse(format!("there is no value for the group's key {key:?}"))),
        };
        Ok(Row { line, texts, group })
    }
}

pub(super) fn key(column: &Column) -> String {
    match column {
        Column::Name(name) => name.clone(),
        Column::Number(number) => number.to_string(),
    }
}

/// The value of a key, or of keys between dots.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).or_else(|| {
        let (first, rest) = key.split_once('.')?;
        find(value.get(first)?, rest)
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn parse(line: u64, bytes: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Row { line, reason: not_utf8(error) })?;
    serde_json::from_str(text).map_err(|error| Fault::Row { line, reason: format!("no JSON: {error}") })
}

/// The values of a file with one a line; empty lines are passed over.
pub(super) struct JsonLines {
    lines: Lines,
    limit: usize,
}

impl JsonLines {
    pub(super) fn open(path: &Path, limit: usize) -> Result<JsonLines> {
        Ok(JsonLines { lines: Lines::open(path, limit)?, limit })
    }
}

impl Iterator for JsonLines {
    type Item = Result<(u64, Value), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let read = self.lines.next_line(&mut buffer);
            let line = self.lines.line();
            return Some(match read {
                Err(error) => Err(error.into()),
                Ok(LineRead::End) => return None,
                Ok(LineRead::TooLong { bytes }) => {
                    Err(Fault::Row { line, reason: too_long(bytes, self.limit) })
                }
                Ok(LineRead::Line) if buffer.trim_ascii().is_empty() => continue,
                Ok(LineRead::Line) => parse(line, &buffer).map(|value| (line, value)),
            });
        }
    }
}

/// Rows of a file with an object a line.
pub(super) struct LineRows {
    values: JsonLines,
    keys: Keys,
}

impl LineRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<LineRows> {
        Ok(LineRows { values: JsonLines::open(path, config.max_line_bytes)?, keys: Keys::new(config) })
    }
}

impl Iterator for LineRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.values.next()?.and_then(|(line, value)| self.keys.row(line, &value)))
    }
}

/// The elements of one JSON array, of which one at a time is in memory.
struct ArrayElements {
    reader: Box<dyn BufRead + Send>,
    path: PathBuf,
    line: u64,
    limit: usize,
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Before,
    Within,
    After,
}

impl ArrayElements {
    fn open(path: &Path, limit: usize) -> Result<ArrayElements> {
        let reader = text_file::open(path)?;
        Ok(ArrayElements { reader, path: path.to_owned(), line: 1, limit, place: Place::Before })
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        loop {
            match self.reader.fill_buf() {
                Ok(chunk) => {
                    let first = chunk.first().copied();
                    self.line += u64::from(first == Some(b'\n'));
                    self.reader.consume(usize::from(first.is_some()));
                    return Ok(first);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { path: self.path.clone(), line: self.line, source }),
            }
        }
    }

    fn layout(&self, reason: &str) -> Fault {
        let reason = format!("line {}: {reason}", self.line);
        Fault::Fatal(Error::Layout { path: self.path.clone(), reason })
    }

    fn element(&mut self) -> Result<Option<(u64, Value)>, Fault> {
        let first = loop {
            match (self.place, self.byte()?) {
                (_, Some(b' ' | b'\t' | b'\r' | b'\n')) => {}
                // a byte order mark
                (Place::Before, Some(0xef | 0xbb | 0xbf)) => {}
                (Place::Before, Some(b'[')) => self.place = Place::Within,
                (Place::Before, _) => {
                    return Err(
                        self.layout("this is no JSON array (for an object a line, the format is jsonl)")
                    );
                }
                (Place::Within, Some(b',')) => {}
                (Place::Within, Some(b']')) => self.place = Place::After,
                (Place::Within, Some(byte)) => break byte,
                (Place::Within, None) => {
                    return Err(self.layout("the file ends within the array: it is cut short"));
                }
                (Place::After, None) => return Ok(None),
                (Place::After, Some(_)) => return Err(self.layout("something follows the array")),
            }
        };
        self.rest_of_element(first).map(Some)
    }

    /// Reads up to the comma or bracket that ends the element.
    fn rest_of_element(&mut self, first: u8) -> Result<(u64, Value), Fault> {
        let line = self.line;
        let (mut bytes, mut length) = (Vec::new(), 0u64);
        let (mut depth, mut string, mut escaped) = (0u32, false, false);
        let mut byte = first;
        loop {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if string => escaped = true,
                b'"' => string = !string,
                _ if string => {}
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b',' | b']' if depth == 0 => {
                    self.place = if byte == b']' { Place::After } else { Place::Within };
                    break;
                }
                _ => {}
            }
            length += 1;
            if length <= self.limit as u64 {
                bytes.push(byte);
            }
            byte = self
                .byte()?
                .ok_or_else(|| self.layout(&format!("the file ends within the element of line {line}")))?;
        }
        if length > self.limit as u64 {
            let reason = format!("the element has {length} bytes, more than max_line_bytes = {}", self.limit);
            return Err(Fault::Row { line, reason });
        }
        parse(line, &bytes).map(|value| (line, value))
    }
}

impl Iterator for ArrayElements {
    type Item = Result<(u64, Value), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        self.element().transpose()
    }
}

/// Rows of a JSON array.
pub(super) struct ArrayRows {
    elements: ArrayElements,
    keys: Keys,
}

impl ArrayRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<ArrayRows> {
        Ok(ArrayRows { elements: ArrayElements::open(path, config.max_line_bytes)?, keys: Keys::new(config) })
    }
}

impl Iterator for ArrayRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.elements.next()?.and_then(|(line, value)| self.keys.row(line, &value)))
    }
}

/// The values of a file with the lines at which they begin.
pub(super) type Values = Box<dyn Iterator<Item = Result<(u64, Value), Fault>>>;

/// The values of a JSON file, be it an array or a value a line, each of at most so many bytes.
pub(super) fn values(path: &Path, limit: usize) -> Result<Values> {
    let array = {
        let mut reader = text_file::open(path)?;
        let mut bytes = std::io::Read::bytes(&mut reader);
        let first = bytes.find(|byte| !matches!(byte, Ok(b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf)));
        matches!(first, Some(Ok(b'[')))
    };
    Ok(if array {
        Box::new(ArrayElements::open(path, limit)?)
    } else {
        Box::new(JsonLines::open(path, limit)?)
    })
}

/// Every string within a value.
pub(super) fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(map) => map.values().flat_map(strings).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}
