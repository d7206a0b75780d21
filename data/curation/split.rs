//! Train, dev or test: by the hash of a text or of its group, so that it never depends on the order or the company.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::duplicates::normal_form;
use crate::corpus::Document;
use crate::fraction::fraction;
use crate::{Error, Result};

/// A part of a pair set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What a decoder learns from.
    Train,
    /// What is looked at during training.
    Dev,
    /// What is looked at once.
    Test,
}

impl Split {
    /// All splits.
    pub const ALL: [Split; 3] = [Split::Train, Split::Dev, Split::Test];

    /// `train`, `dev` or `test`.
    pub fn as_str(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Dev => "dev",
            Split::Test => "test",
        }
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Split {
    type Err = Error;

    fn from_str(name: &str) -> Result<Split> {
        Split::ALL.into_iter().find(|split| split.as_str() == name).ok_or_else(|| Error::Setting {
            key: "split".into(),
            value: format!("{name:?}"),
            reason: "the splits are train, dev and test".into(),
        })
    }
}

/// Shares of the splits: `[split]` of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// Share of the dev split, of the texts or of the groups.
    pub dev: f64,
    /// Share of the test split.
    pub test: f64,
    /// Another seed, another split.
    pub seed: u64,
}

impl Default for SplitConfig {
    fn default() -> SplitConfig {
        SplitConfig { dev: 0.01, test: 0.01, seed: 0 }
    }
}

impl SplitConfig {
    /// Refuses shares that are none.
    ///
    /// # Errors
    /// The setting, by its key.
    pub fn validate(&self) -> Result<()> {
        for (key, share) in
            [("dev", self.dev), ("test", self.test), ("dev + split.test", self.dev + self.test)]
        {
            if !(0.0..=1.0).contains(&share) {
                let reason = "a share lies within 0 and 1".into();
                return Err(Error::Setting { key: format!("split.{key}"), value: share.to_string(), reason });
            }
        }
        Ok(())
    }
}

/// The split of a [`split_key`]: BLAKE3 of seed and key, as a number from 0 to 1, falls into a share.
pub fn split_of(key: &str, config: &SplitConfig) -> Split {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&config.seed.to_le_bytes());
    hasher.update(key.as_bytes());
    let at = fraction(&hasher.finalize());
    if at < config.dev {
        Split::Dev
    } else if at < config.dev + config.test {
        Split::Test
    } else {
        Split::Train
    }
}

/// What decides the split of a document: its group, or else its normal form, so that texts which differ in case or
/// punctuation alone go together.
pub fn split_key(document: &Document) -> String {
    match &document.group {
        Some(group) => format!("group:{group}"),
        None => format!("text:{}", normal_form(&document.text)),
    }
}
