//! What a pair set follows from, the encoder aside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::corpus::CorpusConfig;
use crate::curation::{CurationConfig, SplitConfig};
use crate::{Error, Result};

/// Folder within the pair set's folder that a build works in; removed when it is done.
pub(super) const WORK_FOLDER: &str = ".build";
/// How the numbers of a vector are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// IEEE half precision: 2 bytes a number. What it costs is measured in
    /// [`CosineLoss`](super::manifest::CosineLoss).
    #[default]
    F16,
    /// IEEE single precision: 4 bytes a number, as the encoder gave them.
    F32,
}

impl Storage {
    /// Bytes a number takes.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F16 => 2,
            Storage::F32 => 4,
        }
    }
}

/// Everything that a pair set follows from, the encoder aside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildConfig {
    /// The corpora, read in this order.
    pub corpora: Vec<CorpusConfig>,
    /// Filters.
    #[serde(default)]
    pub curation: CurationConfig,
    /// Shares of dev and test.
    #[serde(default)]
    pub split: SplitConfig,
    /// Evaluation files whose texts must not become pairs.
    #[serde(default)]
    pub exclude: Vec<PathBuf>,
    /// How vectors are stored.
    #[serde(default)]
    pub storage: Storage,
    /// Pairs in a shard; what a killed build loses is at most one shard. The pairs of a text, one a prompt, stand
    /// together: a shard has fewer where they would be parted, and more where a text alone has more.
    #[serde(default = "default_shard_rows")]
    pub shard_rows: usize,
    /// Folder of the pair set. It is no part of the pair set's identity.
    #[serde(default, skip_serializing)]
    pub dir: PathBuf,
    /// The number format that the encoder computes in, such as `bf16`, where it is known: the last digits of every vector
    /// follow from it. It stands beside the recipe and not in it, as `auto` is another one on another machine.
    #[serde(default, skip_serializing)]
    pub encoder_dtype: Option<String>,
}

impl BuildConfig {
    /// Makes a malformed row of any corpus an error. The pair set stays the same one: where there is no such row,
    /// its bytes are.
    pub fn strict(&mut self) {
        self.corpora.iter_mut().for_each(|corpus| corpus.strict = true);
    }

    /// Refuses settings that make no sense; the corpora's and the filters' own are looked at as they are opened.
    ///
    /// # Errors
    /// [`Error::EmptyShards`], or [`Error::Setting`] for shards larger than [`MAX_SHARD_ROWS`].
    pub fn validate(&self) -> Result<()> {
        if self.shard_rows == 0 {
            return Err(Error::EmptyShards);
        }
        if self.shard_rows > MAX_SHARD_ROWS {
            return Err(Error::Setting {
                key: "pairs.shard_rows".into(),
                value: self.shard_rows.to_string(),
                reason: format!("a shard is held in memory, and has at most {MAX_SHARD_ROWS} rows"),
            });
        }
        Ok(())
    }
}

/// The most pairs in a shard.
pub const MAX_SHARD_ROWS: usize = 1 << 20;

/// Pairs in a shard unless the recipe says otherwise: 12 MiB of vectors at 384 numbers in half precision.
pub const fn default_shard_rows() -> usize {
    16_384
}
