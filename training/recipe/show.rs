//! A resolved recipe as text: TOML for a run's `config.toml`, TOML with origins for readers, JSON for programs.

use std::fmt::Write as _;

use serde_json::json;
use toml::{Table, Value};

use super::node::Origin;
use super::resolve::Resolved;
use super::sections::Recipe;
use crate::Result;

impl Recipe {
    /// The whole recipe as TOML, every key with a value written out; loading it gives the same recipe.
    ///
    /// # Errors
    /// A path that is no UTF-8, which TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        Ok(lines(&super::start::values(self)?, |_| None))
    }
}

impl Resolved {
    /// The recipe as TOML, as [`Recipe::to_toml`].
    pub fn to_toml(&self) -> String {
        lines(&self.values, |_| None)
    }

    /// The recipe as TOML, behind each value a comment that says where it comes from.
    pub fn to_toml_with_origins(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let body = lines(&self.values, |key| self.origins.get(key).map(Origin::label));
        // a file name with a line break must not end the comment
        format!("# {}\n{body}", files.join(" extends ").replace(['\n', '\r'], " "))
    }

    /// One object: by key, the value and where it comes from.
    pub fn to_json(&self) -> serde_json::Value {
        let root = Value::Table(self.values.clone());
        let mut object = serde_json::Map::new();
        for (key, origin) in &self.origins {
            let value = key.split('.').try_fold(&root, |value, key| match value {
                Value::Array(array) => key.parse().ok().and_then(|index: usize| array.get(index)),
                other => other.get(key),
            });
            object.insert(key.clone(), json!({ "value": value, "origin": origin.to_string() }));
        }
        object.into()
    }
}

/// TOML with a comment behind a value where `comment` has one for its key.
fn lines(table: &Table, comment: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    section(&mut out, table, "", "", &comment);
    out
}

fn section(
    out: &mut String,
    table: &Table,
    header: &str,
    path: &str,
    comment: &dyn Fn(&str) -> Option<String>,
) {
    let is_section = |value: &Value| match value {
        Value::Table(_) => true,
        Value::Array(array) => !array.is_empty() && array.iter().all(Value::is_table),
        _ => false,
    };
    let values: Vec<(String, String)> = table
        .iter()
        .filter(|(_, value)| !is_section(value))
        .map(|(key, value)| (key.clone(), format!("{key} = {value}")))
        .collect();
    let width =
        values.iter().map(|(_, line)| line.chars().count()).filter(|&width| width <= 60).max().unwrap_or(0);
    for (key, line) in values {
        // writing to a string cannot fail
        let _ = match comment(&format!("{path}{key}")) {
            Some(comment) => writeln!(out, "{line:width$}  # {}", comment.replace(['\n', '\r'], " ")),
            None => writeln!(out, "{line}"),
        };
    }
    for (key, value) in table.iter().filter(|(_, value)| is_section(value)) {
        let name = format!("{header}{key}");
        match value {
            Value::Array(elements) => {
                for (index, element) in elements.iter().filter_map(Value::as_table).enumerate() {
                    let _ = writeln!(out, "\n[[{name}]]");
                    section(out, element, &format!("{name}."), &format!("{path}{key}.{index}."), comment);
                }
            }
            Value::Table(inner) => {
                let _ = writeln!(out, "\n[{name}]");
                section(out, inner, &format!("{name}."), &format!("{path}{key}."), comment);
            }
            _ => {}
        }
    }
}
