//! What a pair set is: compared when a build is started again.

use std::path::Path;

use models::Space;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::BuildConfig;
use super::inputs::Inputs;
use super::manifest::FORMAT;
use crate::{Error, Result};

/// What is being built, the first file of a build.
pub(super) const BUILD_FILE: &str = "build.json";

/// What a pair set follows from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) format: u32,
    pub(super) recipe: Value,
    pub(super) space: Space,
    /// What the encoder computes in; absent where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) encoder_dtype: Option<String>,
    /// The files that it is built from; absent where they were not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) inputs: Option<Inputs>,
}

impl Identity {
    /// What `config` is, its files aside.
    pub(super) fn of(config: &BuildConfig, space: &Space) -> Result<Identity> {
        let recipe =
            serde_json::to_value(config).map_err(|source| Error::Json { path: BUILD_FILE.into(), source })?;
        Ok(Identity {
            format: FORMAT,
            recipe: without_strict(recipe),
            space: space.clone(),
            encoder_dtype: config.encoder_dtype.clone(),
            inputs: None,
        })
    }

    /// Takes in the files as they are now. Where they are gone, what was made of them stays good: a stage that still
    /// needs them says so itself.
    pub(super) fn with_files_at_hand(mut self, inputs: Result<Inputs>) -> Identity {
        self.inputs = inputs
            .inspect_err(|error| tracing::warn!("whether the texts have changed is not known: {error}"))
            .ok();
        self
    }

    /// Refuses where the folder is of another recipe or space, naming what differs.
    pub(super) fn require_same(&self, wanted: &Identity, dir: &Path) -> Result<()> {
        self.space.require_same(&wanted.space, "the pair set in this folder", "the encoder given")?;
        let mut differences = Vec::new();
        compare("", &without_strict(self.recipe.clone()), &wanted.recipe, &mut differences);
        if self.format != wanted.format {
            differences.push(format!("format: {} there, {} wanted", self.format, wanted.format));
        }
        // no part of a space's identity, but the order of a text's rows
        let prompts = |space: &Space| space.prompts().map(|prompt| prompt.text.clone()).collect::<Vec<_>>();
        if prompts(&self.space) != prompts(&wanted.space) {
            let names = |space: &Space| {
                let names: Vec<_> = space.prompts().map(|prompt| format!("{:?}", prompt.name)).collect();
                format!("[{}]", names.join(", "))
            };
            let (there, now) = (names(&self.space), names(&wanted.space));
            differences.push(format!("encoder.prompts: {there} there, {now} wanted"));
        }
        // no part of a space's identity, but the filter of long texts goes by it
        let (there, now) = (self.space.max_tokens, wanted.space.max_tokens);
        if there != now {
            differences.push(format!("encoder.max_tokens: {there} there, {now} wanted"));
        }
        if let (true, Some(there), Some(now)) = (differences.is_empty(), &self.inputs, &wanted.inputs) {
            // files of another recipe differ of course
            differences = there.differences(now);
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::OtherPairSet { dir: dir.to_owned(), differences: differences.join("; ") })
    }

    /// What the encoder computes in there and here, where both are known and differ.
    pub(super) fn other_dtype<'a>(&'a self, wanted: &'a Identity) -> Option<(&'a str, &'a str)> {
        let both = self.encoder_dtype.as_deref().zip(wanted.encoder_dtype.as_deref());
        both.filter(|(there, now)| there != now)
    }

    /// Refuses to put vectors of one number format behind those of another.
    pub(super) fn require_dtype(&self, wanted: &Identity, dir: &Path) -> Result<()> {
        match self.other_dtype(wanted) {
            None => Ok(()),
            Some((there, now)) => Err(Error::OtherPairSet {
                dir: dir.to_owned(),
                differences: format!("encoder.dtype: {there} there, {now} wanted"),
            }),
        }
    }
}

/// A recipe without the corpora's `strict`, which decides whether a build ends and not what it holds.
fn without_strict(mut recipe: Value) -> Value {
    let corpora = recipe.get_mut("corpora").and_then(Value::as_array_mut);
    for corpus in corpora.into_iter().flatten().filter_map(Value::as_object_mut) {
        corpus.remove("strict");
    }
    recipe
}

/// Names each key at which two values differ.
fn compare(key: &str, there: &Value, wanted: &Value, differences: &mut Vec<String>) {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match (there, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let side =
                    |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                compare(&below(name), &side(a), &side(b), differences);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&below(&i.to_string()), a, b, differences);
            }
        }
        // 1 and 1.0 are the same number to a reader
        (a, b) if a == b || a.as_f64().is_some_and(|x| Some(x) == b.as_f64()) => {}
        (a, b) => differences.push(format!("{key}: {a} there, {b} wanted")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_their_key() {
        let mut found = Vec::new();
        let there = json!({"storage": "f16", "corpora": [{"name": "a", "limit": null}], "shard_rows": 10});
        let wanted =
            json!({"storage": "f32", "corpora": [{"name": "a", "limit": 5}], "shard_rows": 10.0, "new": 1});
        compare("", &there, &wanted, &mut found);
        assert_eq!(
            found,
            [
                "storage: \"f16\" there, \"f32\" wanted",
                "corpora.0.limit: null there, 5 wanted",
                "new: null there, 1 wanted"
            ]
        );
    }
}
