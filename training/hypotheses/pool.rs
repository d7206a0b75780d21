//! The hypotheses that batches are drawn from: those of the newest sets.
#![allow(non_snake_case)]

use std::path::Path;

use data::pairs::ShardFile;
use models::{Space, Vocabulary};
use tch::Tensor;

use super::set::{self, SetRecord};
use crate::tokens::Tokens;
use crate::{Error, Result};

/// Hypotheses of several sets, with the texts that they should have been.
#[derive(Debug)]
pub struct Pool {
    sets: Vec<ShardFile>,
    entries: Vec<Entry>,
    dim: usize,
}

#[derive(Debug)]
struct Entry {
    set: u32,
    row: u32,
    /// Position of the target text in the tokens.
    text: u32,
    /// Tokens of the hypothesis.
    ids: Box<[u32]>,
}

impl Pool {
    /// One without hypotheses, for vectors of `dim` numbers.
    pub fn empty(dim: usize) -> Self {
        Self { sets: Vec::new(), entries: Vec::new(), dim }
    }

    /// Opens the sets of a run. Hypotheses are cut to `max_tokens`, as the decoder reads them.
    pub(crate) fn open(
        run: &Path,
        records: &[SetRecord],
        space: &Space,
        tokens: &Tokens,
        vocabulary: &Vocabulary,
        max_tokens: usize,
    ) -> Result<Self> {
        let mut pool = Self::empty(space.dim);
        for (number, record) in records.iter().enumerate() {
            let set = set::open(run, record, space)?;
            for at in 0..set.len() {
                let row = set::row_of(run, record, &set, at)?;
                let text = tokens.text_of(row).ok_or_else(|| Error::Hypotheses {
                    path: set::folder(run).join(&record.shard.file),
                    source: Box::new(Error::Loader { reason: format!("pair {row} is not trained on") }),
                })?;
                let mut ids = vocabulary.encode(set.text(at)?)?;
                ids.truncate(max_tokens);
                let ids = ids.into_boxed_slice();
                pool.entries.push(Entry { set: number as u32, row: at as u32, text, ids });
            }
            pool.sets.push(set);
        }
        Ok(pool)
    }

    /// Number of hypotheses.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Position in the tokens of the text that hypothesis `entry` should have been.
    pub fn text(&self, entry: u32) -> u32 {
        self.entries[entry as usize].text
    }

    /// Tokens of a hypothesis.
    pub fn ids(&self, entry: u32) -> &[u32] {
        &self.entries[entry as usize].ids
    }

    /// Vectors of hypotheses, (N, dim) f32.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn vectors(&self, entries: &[u32]) -> Result<Tensor> {
        let mut numbers = vec![0f32; entries.len() * self.dim];
        for (&entry, into) in entries.iter().zip(numbers.chunks_mut(self.dim.max(1))) {
            let entry = &self.entries[entry as usize];
            self.sets[entry.set as usize].vector_into(entry.row as usize, into);
        }
        Ok(Tensor::f_from_slice(&numbers)?.f_view([entries.len() as i64, self.dim as i64])?)
    }

    /// Tokens of each hypothesis and its target together, where the targets have `lengths`.
    pub fn lengths(&self, lengths: &[u32]) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.ids.len() as u32 + lengths[entry.text as usize]).collect()
    }
}
