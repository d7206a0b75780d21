//! The reader: a pair set mapped into memory, with random access to (vector, text) rows.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use models::{Prompt, Space};
use rayon::prelude::*;
use tch::Tensor;

use super::manifest::Manifest;
use super::shard::{Column, Shard};
use crate::curation::Split;
use crate::{Error, Result};

/// What [`PairSet::text`] gives for a row whose bytes are no text any more.
const UNREADABLE: &str = "\u{fffd}";

/// Numbers kept between calls of [`PairSet::vectors`] at most, in each thread.
const GATHERED_KEPT: usize = 1 << 22;

/// Rows between the one that is read and the one that the processor is told to fetch.
const AHEAD: usize = 4;

thread_local! {
    // memory fresh from the system costs more to touch for the first time than the copy into it
    static GATHERED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A number of a row: `usize`, or `u32` as [`PairSet::indices`] gives it.
pub trait Row: Copy + Send + Sync {
    /// As a position.
    fn position(self) -> usize;
}

impl Row for usize {
    fn position(self) -> usize {
        self
    }
}

impl Row for u32 {
    fn position(self) -> usize {
        self as usize
    }
}

/// A finished pair set, open for reading. Opening reads the manifest and the shards' footers; vectors and texts come
/// from the page cache when they are asked for.
#[derive(Debug)]
pub struct PairSet {
    dir: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    /// Row at which each shard starts, and the number of rows at the end.
    starts: Vec<usize>,
}

impl PairSet {
    /// Opens the pair set in `dir`.
    ///
    /// # Errors
    /// No finished pair set there; one of more than 2^32 pairs; a shard that is missing, cut short, of another space, or whose footer does not fit
    /// the manifest. Damage inside a shard is found by [`PairSet::verify`].
    pub fn open(dir: &Path) -> Result<PairSet> {
        let manifest = Manifest::read(dir)?;
        let shards: Vec<Shard> = manifest
            .shards
            .par_iter()
            .map(|record| Shard::open(dir, record, &manifest.space, manifest.storage))
            .collect::<Vec<_>>()
            .into_iter()
            .collect::<Result<_>>()?;
        if shards.is_empty() {
            return Err(Error::DamagedShard {
                path: dir.join(super::manifest::MANIFEST_FILE),
                what: "it lists no shard".into(),
            });
        }
        let mut starts = vec![0];
        for shard in &shards {
            starts.push(starts[starts.len() - 1] + shard.rows());
        }
        let rows = starts[starts.len() - 1];
        if rows as u64 != manifest.pairs {
            let what = format!("its shards have {rows} rows and `pairs` says {}", manifest.pairs);
            return Err(Error::DamagedShard { path: dir.join(super::manifest::MANIFEST_FILE), what });
        }
        if u32::try_from(rows).is_err() {
            return Err(Error::TooManyPairs { dir: dir.to_owned(), rows });
        }
        Ok(PairSet { dir: dir.to_owned(), manifest, shards, starts })
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The folder it was opened from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The space of the vectors, with all prompts that there are rows under.
    pub fn space(&self) -> &Space {
        &self.manifest.space
    }

    /// Numbers in a vector.
    pub fn dim(&self) -> usize {
        self.manifest.space.dim
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Shard of a row, and the row within it. Panics beyond the end, as a slice does.
    #[inline]
    fn locate(&self, row: usize) -> (&Shard, usize) {
        // all shards but the last have the same number of rows, so that the guess is right unless someone rewrote them
        let guess = (row / self.starts[1].max(1)).min(self.shards.len() - 1);
        let index = if self.starts[guess] <= row && row < self.starts[guess + 1] {
            guess
        } else {
            assert!(row < self.len(), "row {row} of a pair set of {} rows", self.len());
            self.starts.partition_point(|&start| start <= row) - 1
        };
        (&self.shards[index], row - self.starts[index])
    }

    fn string(&self, column: Column, row: usize) -> &str {
        let (shard, at) = self.locate(row);
        shard.string(column, at).unwrap_or_else(|| {
            tracing::error!(
                "{}: row {at} holds no UTF-8; `pairs verify` finds damage",
                shard.path().display()
            );
            UNREADABLE
        })
    }

    /// Text of row `row`, out of the mapped file. Where the disk has damaged it, U+FFFD and an error in the log.
    ///
    /// Panics beyond the end, as a slice does; so do all accessors of a row.
    pub fn text(&self, row: usize) -> &str {
        self.string(Column::Text, row)
    }

    /// Name of the corpus that the row came from.
    pub fn source(&self, row: usize) -> &str {
        self.string(Column::Source, row)
    }

    /// Domain of the row.
    pub fn domain(&self, row: usize) -> &str {
        self.string(Column::Domain, row)
    }

    /// Split of the row.
    ///
    /// # Errors
    /// The shard holds a split that there is not.
    pub fn split(&self, row: usize) -> Result<Split> {
        let (shard, at) = self.locate(row);
        split_at(shard, at)
    }

    /// Name of the prompt that the row's vector was made under.
    pub fn prompt(&self, row: usize) -> &str {
        self.string(Column::Prompt, row)
    }

    /// Rows of a split under one prompt (by its text: names are labels), in ascending order.
    ///
    /// # Errors
    /// [`Error::NoSuchPrompt`]; a shard whose column of splits is damaged.
    pub fn indices_under(&self, split: Split, prompt: &Prompt) -> Result<Vec<u32>> {
        let known = self.space().prompts().find(|known| known.text == prompt.text);
        let known = known.ok_or_else(|| Error::NoSuchPrompt {
            dir: self.dir.clone(),
            prompt: prompt.name.clone(),
            known: self.space().prompts().map(|known| known.name.clone()).collect(),
        })?;
        let mut rows = self.indices(split)?;
        if !self.space().other_prompts.is_empty() {
            rows.retain(|&row| self.prompt(row as usize) == known.name);
        }
        Ok(rows)
    }

    /// Rows of a split in ascending order.
    ///
    /// # Errors
    /// A shard whose column of splits is damaged.
    pub fn indices(&self, split: Split) -> Result<Vec<u32>> {
        let parts: Vec<Vec<u32>> = self
            .shards
            .par_iter()
            .zip(&self.starts)
            .map(|(shard, &start)| {
                let mut rows = Vec::new();
                for at in 0..shard.rows() {
                    if split_at(shard, at)? == split {
                        rows.push((start + at) as u32);
                    }
                }
                Ok(rows)
            })
            .collect::<Result<_>>()?;
        Ok(parts.concat())
    }

    /// Vector of row `row`, widened to f32, into `into` (`dim` long).
    pub fn vector_into(&self, row: usize, into: &mut [f32]) {
        let (shard, at) = self.locate(row);
        shard.vector_into(at, into);
    }

    /// Vector of row `row`, widened to f32.
    pub fn vector(&self, row: usize) -> Vec<f32> {
        let mut vector = vec![0.0; self.dim()];
        self.vector_into(row, &mut vector);
        vector
    }

    /// Vectors of `rows`, in their order, into `into` (`rows.len() * dim` long, row after row).
    pub fn vectors_into<R: Row>(&self, rows: &[R], into: &mut [f32]) {
        for (at, (&row, into)) in rows.iter().zip(into.chunks_exact_mut(self.dim().max(1))).enumerate() {
            if let Some(soon) = rows.get(at + AHEAD) {
                let (shard, at) = self.locate(soon.position());
                torch_ext::half::prefetch(shard.vector_bytes(at));
            }
            self.vector_into(row.position(), into);
        }
    }

    /// Vectors of `rows`, in their order: `[rows.len(), dim]` f32 on the CPU.
    pub fn vectors<R: Row>(&self, rows: &[R]) -> Tensor {
        let shape = [rows.len() as i64, self.dim() as i64];
        GATHERED.with_borrow_mut(|numbers| {
            numbers.resize(rows.len() * self.dim(), 0.0);
            self.vectors_into(rows, numbers);
            let vectors = Tensor::from_slice(numbers).view(shape);
            if numbers.capacity() > GATHERED_KEPT {
                *numbers = Vec::new();
            }
            vectors
        })
    }

    /// Reads every shard from start to end and compares digests.
    ///
    /// # Errors
    /// The first damaged shard, by name.
    pub fn verify(&self) -> Result<()> {
        let wrong = self.shards.par_iter().zip(&self.manifest.shards).find_map_first(|(shard, record)| {
            let found = shard.digest();
            (found != record.digest).then(|| Error::ShardDigest {
                path: shard.path().to_owned(),
                expected: record.digest.clone(),
                found,
            })
        });
        wrong.map_or(Ok(()), Err)
    }
}

#[inline]
fn split_at(shard: &Shard, at: usize) -> Result<Split> {
    let name = shard.string(Column::Split, at);
    match name {
        Some("train") => Ok(Split::Train),
        Some("dev") => Ok(Split::Dev),
        Some("test") => Ok(Split::Test),
        _ => Err(Error::DamagedShard {
            path: shard.path().to_owned(),
            what: format!("row {at} has the split {name:?}"),
        }),
    }
}
