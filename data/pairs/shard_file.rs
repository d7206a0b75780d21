//! One shard by itself: a file of pairs without a manifest.

use std::path::{Path, PathBuf};

use models::Space;

use super::config::Storage;
use super::manifest::ShardRecord;
use super::shard::{Column, Shard};
use crate::{Error, Result};

/// A file that [`super::shard_writer::ShardWriter`] has left, mapped into memory.
#[derive(Debug)]
pub struct ShardFile {
    shard: Shard,
}

impl ShardFile {
    /// Opens the file that `record` names in `dir`, reading its footer only.
    ///
    /// # Errors
    /// No such file, one of another size, of another space, or that is no shard.
    pub fn open(dir: &Path, record: &ShardRecord, space: &Space, storage: Storage) -> Result<Self> {
        Ok(Self { shard: Shard::open(dir, record, space, storage)? })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.shard.rows()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of a row.
    ///
    /// # Errors
    /// Bytes that are no text, or a row that is not there.
    pub fn text(&self, row: usize) -> Result<&str> {
        self.string(Column::Text, row)
    }

    /// The source of a row.
    ///
    /// # Errors
    /// As [`ShardFile::text`].
    pub fn source(&self, row: usize) -> Result<&str> {
        self.string(Column::Source, row)
    }

    /// Name of the prompt of a row.
    ///
    /// # Errors
    /// As [`ShardFile::text`].
    pub fn prompt(&self, row: usize) -> Result<&str> {
        self.string(Column::Prompt, row)
    }

    /// The vector of a row, widened to f32 into `into`, which is as long as the vector. Panics beyond the end, as a
    /// slice does.
    pub fn vector_into(&self, row: usize, into: &mut [f32]) {
        self.shard.vector_into(row, into);
    }

    fn string(&self, column: Column, row: usize) -> Result<&str> {
        let damaged = || Error::DamagedShard {
            path: PathBuf::from(self.shard.path()),
            what: format!("row {row} has no readable text"),
        };
        self.shard.string(column, row).ok_or_else(damaged)
    }
}
