//! `--set KEY=VALUE`: one value changed from the command line.

use toml::Value;

use super::node::{Item, Node, Origin, Table, parse_value};
use super::overlay::merge;
use crate::{Error, Result};

/// What a `--set` asks for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Set {
    argument: String,
    keys: Vec<String>,
    /// `None`: back to the default.
    value: Option<Node>,
}

impl Set {
    /// Reads `a.b=VALUE`. VALUE is TOML; what is no TOML is a string; nothing at all is the default.
    pub(super) fn parse(argument: &str) -> Result<Self> {
        let fail = |reason: &str| Error::Set { argument: argument.to_owned(), reason: reason.to_owned() };
        let (key, text) =
            argument.split_once('=').ok_or_else(|| fail("there is no `=` between key and value"))?;
        let keys: Vec<String> = key.split('.').map(|part| part.trim().to_owned()).collect();
        if keys.iter().any(String::is_empty) {
            return Err(fail("a part of the key is empty"));
        }
        if keys == ["extends"] {
            return Err(fail("`extends` can be said in a file only"));
        }
        let origin = Origin::Set(argument.to_owned());
        let value = match text.trim() {
            "" => None,
            text => Some(parse_value(text, &origin).unwrap_or_else(|| Node {
                item: Item::Leaf(Value::String(text.to_owned())),
                origin: origin.clone(),
            })),
        };
        Ok(Self { argument: argument.to_owned(), keys, value })
    }

    /// Makes the change.
    pub(super) fn apply(self, recipe: &mut Table) -> Result<()> {
        let Self { argument, keys, value } = self;
        let origin = Origin::Set(argument.clone());
        let fail = |reason: String| Error::Set { argument: argument.clone(), reason };
        let mut table = recipe;
        let mut rest = keys.as_slice();
        while let [key, deeper @ ..] = rest {
            if deeper.is_empty() {
                match value {
                    None => drop(table.remove(key)),
                    Some(node) => merge(table, Table::from([(key.clone(), node)])),
                }
                return Ok(());
            }
            let node = table
                .entry(key.clone())
                .or_insert_with(|| Node { item: Item::Table(Table::new()), origin: origin.clone() });
            if let Item::Array(elements) = &mut node.item {
                let [index, inner @ ..] = deeper else { return Ok(()) };
                let count = elements.len();
                let number: Option<usize> = index.parse().ok();
                let element =
                    number.and_then(|number| elements.get_mut(number)).ok_or_else(|| match count {
                        0 => fail(format!("`{key}` is empty")),
                        _ => fail(format!(
                            "`{key}` is a list; its elements have the numbers 0 to {}",
                            count - 1
                        )),
                    })?;
                match (inner.is_empty(), value) {
                    (true, Some(value)) => {
                        *element = value;
                        return Ok(());
                    }
                    (true, None) => return Err(fail("an element of a list has no default".to_owned())),
                    (false, back) => {
                        return Self { argument, keys: inner.to_vec(), value: back }
                            .apply(inner_table(element, &origin));
                    }
                }
            }
            table = inner_table(node, &origin);
            rest = deeper;
        }
        Ok(())
    }
}

/// The table in a node; a single value there gives way to one.
fn inner_table<'n>(node: &'n mut Node, origin: &Origin) -> &'n mut Table {
    if !matches!(node.item, Item::Table(_)) {
        *node = Node { item: Item::Table(Table::new()), origin: origin.clone() };
    }
    match &mut node.item {
        Item::Table(table) => table,
        _ => unreachable!("it was made a table just now"),
    }
}
