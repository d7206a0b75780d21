//! `manifest.json`: what a pair set holds, in which space, and the digest of every shard.

use std::collections::BTreeMap;
use std::path::Path;

use models::Space;
use serde::{Deserialize, Serialize};

use super::config::{Storage, WORK_FOLDER};
use super::pair::Pair;
use crate::curation::Drops;
use crate::{Error, Result};

/// The version of the pair set's layout on disk that this code writes and reads.
pub const FORMAT: u32 = 2;
/// File name of the manifest.
pub const MANIFEST_FILE: &str = "manifest.json";
/// File name of the space record.
pub const SPACE_FILE: &str = "space.json";

/// 1 - cosine(vector, stored vector), over all pairs: what storage in half precision costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CosineLoss {
    /// Mean over the pairs.
    pub mean: f64,
    /// The largest of any pair.
    pub max: f64,
}

/// How many pairs there are of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// By split: `train`, `dev`, `test`.
    pub split: BTreeMap<String, u64>,
    /// By domain.
    pub domain: BTreeMap<String, u64>,
    /// By source, the corpus' name.
    pub source: BTreeMap<String, u64>,
    /// By prompt, by its name.
    pub prompt: BTreeMap<String, u64>,
    /// By length in the encoder's tokens, special tokens and prompt included: under the prompt that makes the text
    /// longest.
    pub tokens: BTreeMap<u32, u64>,
}

impl Counts {
    /// Counts one pair, whose text has so many tokens.
    pub fn add(&mut self, pair: &Pair<'_>, tokens: u32) {
        // `entry` would allocate a key for every pair
        fn one(map: &mut BTreeMap<String, u64>, key: &str) {
            match map.get_mut(key) {
                Some(n) => *n += 1,
                None => {
                    map.insert(key.to_owned(), 1);
                }
            }
        }
        one(&mut self.split, pair.split);
        one(&mut self.domain, pair.domain);
        one(&mut self.source, pair.source);
        one(&mut self.prompt, pair.prompt);
        *self.tokens.entry(tokens).or_default() += 1;
    }

    /// Adds another's counts to these.
    pub fn merge(&mut self, other: &Counts) {
        for (mine, theirs) in [
            (&mut self.split, &other.split),
            (&mut self.domain, &other.domain),
            (&mut self.source, &other.source),
            (&mut self.prompt, &other.prompt),
        ] {
            for (key, n) in theirs {
                *mine.entry(key.clone()).or_default() += n;
            }
        }
        for (&length, n) in &other.tokens {
            *self.tokens.entry(length).or_default() += n;
        }
    }
}

/// One shard, as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// File name within the pair set's folder.
    pub file: String,
    /// Pairs in it.
    pub rows: u64,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// `blake3:HEX` over the file's bytes.
    pub digest: String,
}

/// What one corpus gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusFlow {
    /// Its name.
    pub name: String,
    /// Its rows: read, malformed, empty.
    pub rows: crate::corpus::RowReport,
}

/// What the corpora gave and what the filters took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Documents read from all corpora.
    pub read: u64,
    /// Rows read and rows that could not be, corpus by corpus in the recipe's order.
    pub corpora: Vec<CorpusFlow>,
    /// Documents that each filter dropped; duplicates too.
    pub drops: Drops,
}

/// The record of a finished pair set. It holds no time and no host, so that equal input gives equal bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the layout, see [`FORMAT`].
    pub format: u32,
    /// Pairs in all shards.
    pub pairs: u64,
    /// Numbers in a vector.
    pub dim: usize,
    /// How they are stored.
    pub storage: Storage,
    /// What half precision cost; absent where vectors are stored as they came.
    pub cosine_loss: Option<CosineLoss>,
    /// Pairs by split, domain, source, prompt and length.
    pub counts: Counts,
    /// What was read and what was dropped on the way here.
    pub flow: Flow,
    /// The space of the vectors, with all prompts in the order of a text's rows.
    pub space: Space,
    /// The number format that the encoder computed in; absent where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_dtype: Option<String>,
    /// The configuration of the build, without what changes no byte of it: its folder and `strict`.
    pub recipe: serde_json::Value,
    /// The shards in row order.
    pub shards: Vec<ShardRecord>,
}

/// What every manifest says, whatever else its format holds.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Manifest {
    /// Reads `manifest.json` of the pair set in `dir`.
    ///
    /// # Errors
    /// No manifest (not a pair set, or not a finished one), a manifest that does not parse, or one of another format.
    pub fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(MANIFEST_FILE);
        if !path.exists() {
            return Err(Error::NotAPairSet {
                dir: dir.to_owned(),
                unfinished: dir.join(WORK_FOLDER).exists(),
            });
        }
        // first of all: a manifest of another format has other keys
        let Version { format } = models::files::read_json(&path)?;
        if format != FORMAT {
            return Err(Error::PairSetFormat { path, found: format, known: FORMAT });
        }
        Ok(models::files::read_json(&path)?)
    }

    /// Writes the manifest into `dir`, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(models::files::write_json(&dir.join(MANIFEST_FILE), self)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn merged_counts_are_the_sum_and_survive_json() {
        let (mut a, mut b) = (Counts::default(), Counts::default());
        let pair =
            |split, domain, source, prompt| Pair { vector: &[], text: "", source, domain, split, prompt };
        a.add(&pair("train", "news", "x", "none"), 5);
        a.add(&pair("dev", "news", "y", "none"), 5);
        b.add(&pair("train", "code", "x", "s2p"), 9);
        a.merge(&b);
        assert_eq!(a.split, BTreeMap::from([("train".into(), 2), ("dev".into(), 1)]));
        assert_eq!(a.domain["news"], 2);
        assert_eq!(a.prompt, BTreeMap::from([("none".into(), 2), ("s2p".into(), 1)]));
        assert_eq!(a.tokens, BTreeMap::from([(5, 2), (9, 1)]));
        let again: Counts = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
        assert_eq!(again, a);
    }
}
