//! BEIR folders (Thakur et al. 2021): `corpus.jsonl` with `_id, title, text`, `queries.jsonl` with `_id, text`.

use std::path::Path;

use serde_json::Value;

use super::Fault;
use super::ir::{Entries, Entry, IrDocument, IrQuery, one_line};
use super::json::JsonLines;
use crate::Result;

/// Documents, or queries where the file's name says so.
pub(super) fn entries(path: &Path, limit: usize) -> Result<Entries> {
    let queries = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queries"));
    let values = JsonLines::open(path, limit)?;
    Ok(Box::new(values.map(move |value| {
        let (line, value) = value?;
        let text_of = |key: &str| match value.get(key) {
            Some(Value::String(text)) => Ok(Some(one_line(text))),
            Some(Value::Null) | None => Ok(None),
            Some(Value::Number(number)) if key == "_id" => Ok(Some(number.to_string())),
            Some(_) => Err(Fault::Row { line, reason: format!("{key:?} is no text") }),
        };
        let needed = |key: &str| {
            text_of(key)?.ok_or_else(|| Fault::Row { line, reason: format!("there is no key {key:?}") })
        };
        let (id, text) = (needed("_id")?, needed("text")?);
        Ok(if queries {
            Entry::Query { line, query: IrQuery { id, text } }
        } else {
            let title = text_of("title")?.unwrap_or_default();
            Entry::Document { line, document: IrDocument { id, title, text } }
        })
    })))
}
