//! Pairs: (vector, text) rows on disk, in Arrow IPC shards with a manifest.
//!
//! Reading order: [`build`](build::build) runs the stages; `curated` is the first, `encode` the second;
//! `ranks` lets several processes build one; `prompts` says how a text has several rows; `shard_writer` and `shard` say what a file looks like; [`PairSet`] reads,
//! [`inspect`](inspect::inspect) shows.

pub mod build;
pub mod config;
mod curated;
mod display;
mod encode;
mod files;
mod identity;
mod inputs;
pub mod inspect;
mod lock;
pub mod manifest;
mod near;
pub mod pair;
pub mod pair_set;
mod partitions;
pub mod progress;
mod prompts;
mod ranks;
mod shard;
pub mod shard_file;
pub mod shard_writer;

pub use build::{BuildReport, Outcome, build, build_until};
pub use config::{BuildConfig, MAX_SHARD_ROWS, Storage, default_shard_rows};
pub use inspect::{Distribution, Inspection, SampleRow, inspect};
pub use manifest::{CorpusFlow, CosineLoss, Counts, Flow, Manifest, ShardRecord};
pub use pair_set::{PairSet, Row};
pub use progress::{BuildProgress, Stage};
pub use shard_file::ShardFile;
pub use shard_writer::ShardWriter;
