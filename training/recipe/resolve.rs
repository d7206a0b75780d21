//! Files and `--set` -> a typed recipe, with the origin of each value.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Value;

use super::fault::{Fault, FaultKind};
use super::node::{Item, Node, Origin};
use super::node_de::NodeDe;
use super::overlay;
use super::sections::Recipe;
use super::set::Set;
use super::start;
use super::suggest::nearest;
use crate::{Error, Result};

/// One thing wrong with a recipe.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The key, such as `decoder.hidden` or `corpus.0.format`.
    pub key: String,
    /// Where its value comes from.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => f.write_str(&self.message),
            origin => write!(f, "{origin}: {}", self.message),
        }
    }
}

/// A recipe with nothing left open.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The recipe.
    pub recipe: Recipe,
    /// By key (`decoder.hidden`, `corpus.0.limit`), where each value comes from.
    pub origins: BTreeMap<String, Origin>,
    /// The files read: the recipe, then along `extends`.
    pub files: Vec<PathBuf>,
    /// The recipe as TOML values.
    pub(super) values: toml::Table,
}

/// Reads the recipe at `path`, what it extends, and the `--set` arguments, each `KEY=VALUE`, the last one winning.
///
/// # Errors
/// A file that cannot be read or is no TOML, files that extend each other in a circle, a `--set` that makes no sense,
/// or all keys and values that are wrong, each with file and line.
pub fn load(path: impl AsRef<Path>, sets: &[String]) -> Result<Resolved> {
    let path = path.as_ref();
    let (mut table, files) = overlay::read(path)?;
    for set in sets {
        Set::parse(set)?.apply(&mut table)?;
    }
    let root = Node { item: Item::Table(table), origin: Origin::File { path: path.to_owned(), line: 1 } };
    let refused = |problems| Error::Recipe { path: path.to_owned(), problems };
    let mut recipe = typed(root.clone()).map_err(refused)?;
    recipe.fill_names(path);
    start::take_over(&mut recipe, &root, &files);

    let values = start::values(&recipe)?;
    let mut origins = BTreeMap::new();
    trace(&mut Vec::new(), &Value::Table(values.clone()), Some(&root), &mut origins);
    let mut problems = recipe.validate();
    for problem in &mut problems {
        problem.origin = origin_of(&origins, &problem.key);
    }
    if !problems.is_empty() {
        problems.sort_by(|a, b| a.origin.cmp(&b.origin));
        return Err(refused(problems));
    }
    Ok(Resolved { recipe, origins, files, values })
}

impl Recipe {
    /// Gives a name and folders where the recipe gives none.
    fn fill_names(&mut self, path: &Path) {
        if self.name.is_empty() {
            self.name =
                path.file_stem().map_or_else(|| "recipe".into(), |stem| stem.to_string_lossy().into_owned());
        }
        if self.pairs.dir.as_os_str().is_empty() {
            self.pairs.dir = Path::new("runs").join(format!("{}-pairs", self.name));
        }
        if self.run.dir.as_os_str().is_empty() {
            self.run.dir = Path::new("runs").join(&self.name);
        }
    }
}

/// Reads the tree as a recipe. serde stops at the first fault: what is at fault is noted, taken out, and the rest read
/// again, so that all faults are told at once.
fn typed(mut root: Node) -> std::result::Result<Recipe, Vec<Problem>> {
    const MOST: usize = 50;
    let mut problems: Vec<Problem> = Vec::new();
    loop {
        let fault = match Recipe::deserialize(NodeDe { node: &root, path: Vec::new() }) {
            Ok(recipe) if problems.is_empty() => return Ok(recipe),
            Ok(_) => break,
            Err(fault) => fault,
        };
        let path = fault.path.clone().unwrap_or_default();
        let follows = matches!(&fault.kind, FaultKind::Missing { key }
            if problems.iter().any(|problem| problem.key == join(&path, key)));
        if !follows {
            problems.push(problem(&fault, &path, &root));
        }
        // where the place itself cannot be taken out, its whole section is
        let removed = match fault.kind {
            FaultKind::Missing { .. } => remove(&mut root, path.get(..1).unwrap_or_default()),
            _ => remove(&mut root, &path) || remove(&mut root, path.get(..1).unwrap_or_default()),
        };
        if problems.len() >= MOST || !removed {
            break;
        }
    }
    problems.sort_by(|a, b| a.origin.cmp(&b.origin));
    Err(problems)
}

/// Takes out what `path` leads to; an element of a list stays, since its neighbours would change their numbers.
fn remove(root: &mut Node, path: &[String]) -> bool {
    let Some((last, before)) = path.split_last() else { return false };
    let mut node = root;
    for key in before {
        let next = match &mut node.item {
            Item::Table(table) => table.get_mut(key),
            Item::Array(elements) => key.parse().ok().and_then(|index: usize| elements.get_mut(index)),
            Item::Leaf(_) => None,
        };
        let Some(next) = next else { return false };
        node = next;
    }
    match &mut node.item {
        Item::Table(table) => table.remove(last).is_some(),
        _ => false,
    }
}

fn join(path: &[String], key: &str) -> String {
    let keys: Vec<&str> = path.iter().map(String::as_str).chain([key]).collect();
    keys.join(".")
}

fn problem(fault: &Fault, path: &[String], root: &Node) -> Problem {
    let key = path.join(".");
    let (message, hint) = match &fault.kind {
        FaultKind::UnknownKey { known } => {
            let (last, section) =
                path.split_last().map_or(("", path), |(last, before)| (last.as_str(), before));
            unknown_key(&key, last, section, known)
        }
        FaultKind::Missing { key: missing } => (format!("`{}` is missing", join(path, missing)), None),
        FaultKind::WrongType { expected, found } => {
            (format!("`{key}` must be {expected}, not {found}"), None)
        }
        FaultKind::UnknownWord { word, known } => {
            let hint = nearest(word, known.iter().copied()).map(|near| format!("did you mean \"{near}\"?"));
            (format!("`{key}` must be one of {}, not \"{word}\"", quoted(known)), hint)
        }
        FaultKind::Other(message) if message.contains("did not match any variant of untagged enum") => {
            (format!("`{key}` has a value of a kind that does not fit: {}", kind(find(root, path))), None)
        }
        FaultKind::Other(message) => (format!("`{key}`: {message}"), None),
    };
    Problem { key, origin: fault.origin.clone(), message, hint }
}

/// What to say of a key that nobody knows: the nearest one here, or the section where it belongs.
fn unknown_key(
    key: &str,
    last: &str,
    section: &[String],
    known: &[&'static str],
) -> (String, Option<String>) {
    if let Some(near) = nearest(last, known.iter().copied()) {
        let meant = join(section, near);
        return (
            format!("unknown key `{key}`; the nearest key is `{meant}`"),
            Some(format!("did you mean `{meant}`?")),
        );
    }
    if let Some(meant) = elsewhere(last) {
        return (
            format!("unknown key `{key}`; there is `{meant}`"),
            Some(format!("did you mean `{meant}`?")),
        );
    }
    let place = if section.is_empty() { "a recipe".to_owned() } else { format!("[{}]", section.join(".")) };
    (format!("unknown key `{key}`; the keys of {place} are {}", known.join(", ")), None)
}

/// A key of this name in any section.
fn elsewhere(name: &str) -> Option<String> {
    let Ok(Value::Table(sections)) = Value::try_from(Recipe::default()) else { return None };
    let inside = |(section, value): (&String, &Value)| {
        let keys = value.as_table()?;
        keys.contains_key(name).then(|| format!("{section}.{name}"))
    };
    sections.iter().find_map(inside)
}

fn quoted(words: &[&str]) -> String {
    let all: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    all.join(", ")
}

fn find<'n>(root: &'n Node, path: &[String]) -> Option<&'n Node> {
    path.iter().try_fold(root, |node, key| match &node.item {
        Item::Table(table) => table.get(key),
        Item::Array(elements) => key.parse().ok().and_then(|index: usize| elements.get(index)),
        Item::Leaf(_) => None,
    })
}

fn kind(node: Option<&Node>) -> String {
    match node.map(|node| &node.item) {
        Some(Item::Leaf(value)) => value.to_string(),
        Some(Item::Array(_)) => "a list".to_owned(),
        Some(Item::Table(_)) => "a table".to_owned(),
        None => "nothing".to_owned(),
    }
}

/// Notes for each value of the recipe where the tree has it from.
fn trace(path: &mut Vec<String>, value: &Value, node: Option<&Node>, origins: &mut BTreeMap<String, Origin>) {
    let here = |key: &str| match node.map(|node| &node.item) {
        Some(Item::Table(table)) => table.get(key),
        Some(Item::Array(elements)) => key.parse().ok().and_then(|index: usize| elements.get(index)),
        _ => None,
    };
    let parts: Vec<(String, &Value)> = match value {
        Value::Table(table) => table.iter().map(|(key, value)| (key.clone(), value)).collect(),
        Value::Array(array) if array.iter().any(Value::is_table) => {
            array.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => {
            let origin = node.map_or(Origin::Default, |node| node.origin.clone());
            origins.insert(path.join("."), origin);
            return;
        }
    };
    for (key, value) in parts {
        let node = here(&key);
        path.push(key);
        trace(path, value, node, origins);
        path.pop();
    }
}

/// The origin of a key, or of the longest part of it that has one.
fn origin_of(origins: &BTreeMap<String, Origin>, key: &str) -> Origin {
    let mut key = key;
    loop {
        if let Some(origin) = origins.get(key) {
            return origin.clone();
        }
        // of a table, its first key
        let first = origins
            .range(format!("{key}.")..)
            .next()
            .filter(|(found, _)| found.starts_with(&format!("{key}.")));
        if let Some((_, origin)) = first {
            return origin.clone();
        }
        match key.rsplit_once('.') {
            Some((before, _)) => key = before,
            None => return Origin::Default,
        }
    }
}
