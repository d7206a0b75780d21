//! Layers of a recipe: one file over the files it extends, `--set` over all.

use std::path::{Path, PathBuf};

use toml::Value;

use super::node::{Item, Node, Origin, Table, parse};
use crate::{Error, Result};

/// The key that names the file beneath.
pub(super) const EXTENDS: &str = "extends";

/// Puts `over` on `under`: tables merge key by key, everything else is replaced.
pub(super) fn merge(under: &mut Table, over: Table) {
    for (key, node) in over {
        match (under.get_mut(&key), node) {
            (Some(Node { item: Item::Table(below), origin: place }), Node { item: Item::Table(above), origin }) => {
                merge(below, above);
                *place = origin;
            }
            (_, node) => {
                under.insert(key, node);
            }
        }
    }
}

/// A recipe with the files it extends merged beneath it; and these files, the recipe first.
pub(super) fn read(path: &Path) -> Result<(Table, Vec<PathBuf>)> {
    let mut layers: Vec<Table> = Vec::new();
    let mut chain: Vec<PathBuf> = Vec::new();
    let mut known: Vec<PathBuf> = Vec::new();
    let mut next = Some((path.to_owned(), None));
    while let Some((path, extended_by)) = next.take() {
        let text = fs_err::read_to_string(&path).map_err(|source| Error::RecipeFile {
            path: path.clone(),
            extended_by,
            // the message names the file already
            source: innermost(source),
        })?;
        let identity = fs_err::canonicalize(&path)?;
        chain.push(path.clone());
        if known.contains(&identity) {
            return Err(Error::RecipeCircle { chain });
        }
        known.push(identity);
        let mut layer = parse(&path, &text)?;
        if let Some(node) = layer.remove(EXTENDS) {
            next = Some(beneath(&path, node)?);
        }
        layers.push(layer);
    }
    let mut table = Table::new();
    for layer in layers.into_iter().rev() {
        merge(&mut table, layer);
    }
    Ok((table, chain))
}

/// The path that `extends` names, and where it is said.
fn beneath(path: &Path, node: Node) -> Result<(PathBuf, Option<(PathBuf, usize)>)> {
    let line = match node.origin {
        Origin::File { line, .. } => line,
        _ => 1,
    };
    match node.item {
        Item::Leaf(Value::String(name)) => {
            let base = path.parent().unwrap_or(Path::new("")).join(name);
            Ok((base, Some((path.to_owned(), line))))
        }
        _ => Err(Error::RecipeSyntax {
            path: path.to_owned(),
            line,
            column: 1,
            message: "`extends` must be one path in quotes".to_owned(),
        }),
    }
}

/// The error of the system, without the path that fs_err puts before it.
fn innermost(error: std::io::Error) -> std::io::Error {
    match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => {
            let kind = error.kind();
            let inner = error.get_ref().and_then(std::error::Error::source).map(ToString::to_string);
            std::io::Error::new(kind, inner.unwrap_or_else(|| kind.to_string()))
        }
    }
}
