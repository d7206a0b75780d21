//! What serde finds wrong with a node, kept in parts so that the message can be ours.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::node::Origin;

/// One thing wrong, with its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    /// Keys and indices from the root; for an unknown key, that key included.
    pub(super) path: Option<Vec<String>>,
    pub(super) origin: Origin,
    pub(super) kind: FaultKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum FaultKind {
    UnknownKey { known: &'static [&'static str] },
    Missing { key: &'static str },
    WrongType { expected: String, found: String },
    UnknownWord { word: String, known: &'static [&'static str] },
    Other(String),
}

impl Fault {
    fn new(kind: FaultKind) -> Self {
        Self { path: None, origin: Origin::Default, kind }
    }

    /// Puts the fault here, unless it has a place already.
    pub(super) fn at(mut self, path: &[String], origin: &Origin) -> Self {
        if self.path.is_none() {
            self.path = Some(path.to_vec());
            self.origin = origin.clone();
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.kind)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(FaultKind::Other(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(FaultKind::WrongType { expected: wanted(&expected.to_string()), found: what(found) })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(FaultKind::UnknownWord { word: word.to_owned(), known })
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(FaultKind::UnknownKey { known })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(FaultKind::Missing { key })
    }
}

/// What serde expects, in words for someone who writes TOML.
fn wanted(expected: &str) -> String {
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list in [brackets]",
        "path string" => "a path in quotes",
        "a string" | "a borrowed string" => "a text in quotes",
        struct_name if struct_name.starts_with("struct ") || struct_name == "a map" => "a table",
        other => other,
    };
    words.to_owned()
}

/// What was found, in the same words.
fn what(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("{value}"),
        Unexpected::Unsigned(value) => format!("{value}"),
        Unexpected::Signed(value) => format!("{value}"),
        Unexpected::Float(value) => format!("{value:?}"),
        Unexpected::Str(text) => format!("the text {text:?}"),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a table".to_owned(),
        other => other.to_string(),
    }
}
