//! A set of hypotheses on disk: `hypotheses/step-NNNNNNNN.arrow` of the run, a shard like those of pair sets. A row's
//! text and vector are the hypothesis; its source is the number of the pair that it is a guess at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use data::pairs::pair::Pair;
use data::pairs::{PairSet, ShardFile, ShardRecord, ShardWriter, Storage};
use models::Space;
use serde::{Deserialize, Serialize};

use crate::batches::Cursor;
use crate::{Error, Result};

/// Where a training stands with its hypotheses: part of `state.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefinementState {
    /// The sets that are trained on, oldest first.
    pub sets: Vec<SetRecord>,
    /// The next batch of their hypotheses.
    pub cursor: Cursor,
}

/// A set on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRecord {
    /// The step whose weights made it.
    pub step: u64,
    /// Its file.
    pub shard: ShardRecord,
}

/// One hypothesis.
#[derive(Debug, Clone)]
pub(crate) struct Guess {
    /// Row of the pair that it is a guess at.
    pub(crate) row: u32,
    /// What was guessed.
    pub(crate) text: String,
    /// Its vector.
    pub(crate) vector: Vec<f32>,
}

/// The folder of a run's hypotheses.
pub(crate) fn folder(run: &Path) -> PathBuf {
    run.join("hypotheses")
}

fn file_name(step: u64) -> String {
    format!("step-{step:08}.arrow")
}

/// Writes the set that the weights of `step` made.
pub(super) fn write(run: &Path, step: u64, pairs: &PairSet, guesses: &[Guess]) -> Result<SetRecord> {
    let dir = folder(run);
    fs_err::create_dir_all(&dir)?;
    let mut shard = ShardWriter::new(pairs.space(), Storage::F16)?;
    for Guess { row, text, vector } in guesses {
        let (source, prompt) = (row.to_string(), pairs.prompt(*row as usize));
        shard.push(&Pair { vector, text, source: &source, domain: "hypotheses", split: "train", prompt })?;
    }
    Ok(SetRecord { step, shard: shard.write(&dir.join(file_name(step)))? })
}

/// Opens a set.
pub(super) fn open(run: &Path, record: &SetRecord, space: &Space) -> Result<ShardFile> {
    ShardFile::open(&folder(run), &record.shard, space, Storage::F16).map_err(|source| Error::Hypotheses {
        path: folder(run).join(&record.shard.file),
        source: Box::new(source.into()),
    })
}

/// The pair that a hypothesis is a guess at.
pub(super) fn row_of(run: &Path, record: &SetRecord, set: &ShardFile, at: usize) -> Result<u32> {
    let source = set.source(at)?;
    source.parse().map_err(|_| {
        let path = folder(run).join(&record.shard.file);
        let what = format!("the source of row {at} is {source:?}, not the number of a pair");
        let damaged: Error = data::Error::DamagedShard { path: path.clone(), what }.into();
        Error::Hypotheses { path, source: Box::new(damaged) }
    })
}

/// Deletes the sets that none of `used` names.
pub(crate) fn remove_unused(run: &Path, used: &BTreeSet<String>) -> Result<()> {
    let dir = folder(run);
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs_err::read_dir(&dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".arrow") && !used.contains(&name) {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}
