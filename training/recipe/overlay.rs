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
            (
                Some(Node { item: Item::Table(below), origin: place }),
                Node { item: Item::Table(above), origin },
            ) => {
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
        let text = read_text(&path, extended_by)?;
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

/// The text of a recipe. The standard library's reader, since the error here names the file itself.
#[allow(clippy::disallowed_methods)]
fn read_text(path: &Path, extended_by: Option<(PathBuf, usize)>) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::RecipeFile {
        path: path.to_owned(),
        extended_by,
        source,
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        Error::RecipeSyntax {
            path: path.to_owned(),
            line: valid.matches('\n').count() + 1,
            column: valid.rsplit('\n').next().map_or(1, |line| line.chars().count() + 1),
            message: "bytes that are no UTF-8".to_owned(),
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::super::set::Set;
    use super::*;

    /// TOML over few keys, so that layers meet: `a b c` hold values, `t u` tables.
    fn layer() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            any::<i32>().prop_map(|number| number.to_string()),
            "[a-z]{0,4}".prop_map(|text| format!("\"{text}\"")),
            prop::collection::vec(0..9u8, 0..3).prop_map(|list| format!("{list:?}")),
        ];
        let values = prop::collection::btree_map(
            prop::sample::select(vec!["a", "b", "c", "t.a", "t.b", "u.a", "t.u.a"]),
            value,
            0..6,
        );
        values.prop_map(|values| values.iter().map(|(key, value)| format!("{key} = {value}\n")).collect())
    }

    fn over(under: &Table, over: &Table) -> Table {
        let mut merged = under.clone();
        merge(&mut merged, over.clone());
        merged
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn layers_may_be_merged_in_any_grouping(a in layer(), b in layer(), c in layer()) {
            let read = |name: &str, text: &str| parse(Path::new(name), text).unwrap();
            let (a, b, c) = (read("a", &a), read("b", &b), read("c", &c));
            prop_assert_eq!(over(&over(&a, &b), &c), over(&a, &over(&b, &c)));
            prop_assert_eq!(over(&a, &a), a.clone());
            prop_assert_eq!(over(&Table::new(), &a), a);
        }

        #[test]
        fn reading_never_panics(text in "[a-z\"'=\\[\\]{}#.,0-9éß \n-]{0,60}") {
            if let Err(error) = parse(Path::new("r.toml"), &text) {
                let placed = matches!(error, Error::RecipeSyntax { line, column, .. } if line >= 1 && column >= 1);
                prop_assert!(placed);
            }
        }

        #[test]
        fn set_never_panics(argument in "\\PC{0,40}", path in "(a|t|0|9|x)(\\.(a|0|9|u|x)){0,3}", value in "\\PC{0,12}") {
            let recipe = "a = 1\nx = []\n[t]\na = [1, {a = 2}]\nu = \"w\"\n";
            for argument in [argument, format!("{path}={value}")] {
                let mut table = parse(Path::new("r.toml"), recipe).unwrap();
                if let Ok(set) = Set::parse(&argument) {
                    prop_assert!(argument.contains('='));
                    let _ = set.apply(&mut table);
                }
            }
        }

        #[test]
        fn what_is_set_is_there(key in "[a-z_]{1,8}(\\.[a-z_]{1,8}){0,2}", number in any::<i64>()) {
            prop_assume!(key != EXTENDS);
            let mut table = Table::new();
            Set::parse(&format!("{key}={number}")).unwrap().apply(&mut table).unwrap();
            let mut keys = key.split('.');
            let mut node = table.get(keys.next().unwrap()).unwrap();
            for key in keys {
                let Item::Table(inner) = &node.item else { panic!("{node:?}") };
                node = inner.get(key).unwrap();
            }
            prop_assert_eq!(&node.item, &Item::Leaf(Value::Integer(number)));
        }
    }
}
