//! A recipe before it is typed: a tree of values, each knowing where it was written.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Value;
use toml::de::{DeTable, DeValue};

use crate::{Error, Result};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said it.
    Default,
    /// A line of a file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// `--set`, with its argument.
    Set(String),
}

impl Origin {
    /// Whether the command line is where it comes from.
    pub fn is_set(&self) -> bool {
        matches!(self, Self::Set(_))
    }

    /// As a comment behind a value says it: the argument of `--set` is left out, since it repeats the value.
    pub fn label(&self) -> String {
        match self {
            Self::Set(_) => "--set".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Set(argument) => write!(f, "--set {argument}"),
        }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) item: Item,
    /// Of a key's value the line of the key.
    pub(super) origin: Origin,
}

/// A value, of a table or an array with its parts' own origins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    Leaf(Value),
    Array(Vec<Node>),
    Table(Table),
}

pub(super) type Table = BTreeMap<String, Node>;

/// Reads the TOML in `text`; `path` is where errors and origins say it is.
pub(super) fn parse(path: &Path, text: &str) -> Result<Table> {
    let lines = Lines::new(text);
    let syntax = |error: toml::de::Error| {
        let (line, column) = lines.position(error.span().map_or(0, |span| span.start));
        // the parser's message may go over lines
        let message = error.message().trim().replace('\n', ", ");
        Error::RecipeSyntax { path: path.to_owned(), line, column, message }
    };
    let document = DeTable::parse(text).map_err(syntax)?;
    let place =
        |span: Range<usize>| Origin::File { path: path.to_owned(), line: lines.position(span.start).0 };
    Ok(table(document.into_inner(), &place))
}

/// Reads one TOML value; `None` where `text` is none.
pub(super) fn parse_value(text: &str, origin: &Origin) -> Option<Node> {
    let value = DeValue::parse(text).ok()?.into_inner();
    Some(node(value, origin.clone(), &|_| origin.clone()))
}

fn table(table: DeTable<'_>, place: &dyn Fn(Range<usize>) -> Origin) -> Table {
    let entry = |(key, value): (toml::Spanned<std::borrow::Cow<'_, str>>, toml::Spanned<DeValue<'_>>)| {
        let origin = place(key.span());
        (key.into_inner().into_owned(), node(value.into_inner(), origin, place))
    };
    table.into_iter().map(entry).collect()
}

fn node(value: DeValue<'_>, origin: Origin, place: &dyn Fn(Range<usize>) -> Origin) -> Node {
    let item = match value {
        DeValue::Table(inner) => Item::Table(table(inner, place)),
        DeValue::Array(array) => {
            let element = |value: toml::Spanned<DeValue<'_>>| {
                let origin = place(value.span());
                node(value.into_inner(), origin, place)
            };
            Item::Array(array.into_iter().map(element).collect())
        }
        DeValue::String(text) => Item::Leaf(Value::String(text.into_owned())),
        DeValue::Boolean(value) => Item::Leaf(Value::Boolean(value)),
        DeValue::Datetime(value) => Item::Leaf(Value::Datetime(value)),
        // a number that fits no 64 bits stays text, and is refused as such where a number is wanted
        DeValue::Integer(digits) => Item::Leaf(
            i64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Value::String(digits.to_string()), Value::Integer),
        ),
        DeValue::Float(digits) => Item::Leaf(
            digits.as_str().parse().map_or_else(|_| Value::String(digits.to_string()), Value::Float),
        ),
    };
    Node { item, origin }
}

/// Byte offsets -> lines and columns.
struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }

    /// Line and column, both from 1.
    fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|&start| start <= offset);
        let start = self.starts[line - 1];
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        (line, column)
    }
}
