//! Puts texts together into the tensors that a step is computed on.
#![allow(non_snake_case)]

use std::sync::Arc;

use data::pairs::PairSet;
use models::Condition;
use tch::Tensor;

use crate::Result;
use crate::batch::MicroBatch;
use crate::hypotheses::Pool;
use crate::noise::Noise;
use crate::tokens::Tokens;

/// Texts, vectors and what else a batch is made of.
#[derive(Debug, Clone)]
pub struct Collator {
    /// The pairs.
    pub pairs: Arc<PairSet>,
    /// Their tokens.
    pub tokens: Arc<Tokens>,
    /// Token before every text.
    pub bos: i64,
    /// Token behind short texts.
    pub pad: i64,
    /// What is done to the vectors, and to the texts as they are read.
    pub noise: Noise,
}

impl Collator {
    /// First guesses at texts (positions in the tokens), from clean vectors; every row is as wide as the longest.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn collate(&self, texts: &[u32]) -> Result<MicroBatch> {
        let rows: Vec<u32> = texts.iter().map(|&text| self.tokens.row(text)).collect();
        self.first_guesses(None, texts, Condition::first(&self.pairs.vectors(&rows)), rows)
    }

    /// The same from vectors with the noise of a step, some words hidden. The vectors without it come along.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn collate_at(&self, step: u64, texts: &[u32]) -> Result<MicroBatch> {
        let rows: Vec<u32> = texts.iter().map(|&text| self.tokens.row(text)).collect();
        let clean = Condition::first(&self.pairs.vectors(&rows));
        let clean_BD = self.noise.perturbs().then(|| clean.v_BD.shallow_clone());
        let condition = self.noise.add(clean, step, texts)?;
        let condition =
            self.noise.tell_lengths(condition, step, texts, &self.lengths(texts.iter().copied()))?;
        Ok(MicroBatch { clean_BD, ..self.first_guesses(Some(step), texts, condition, rows)? })
    }

    /// Tokens of texts, EOS not counted.
    fn lengths(&self, texts: impl Iterator<Item = u32>) -> Vec<usize> {
        texts.map(|text| self.tokens.targets(text).count().saturating_sub(1)).collect()
    }

    fn first_guesses(
        &self,
        step: Option<u64>,
        texts: &[u32],
        condition: Condition,
        rows: Vec<u32>,
    ) -> Result<MicroBatch> {
        let mut layout = Layout::new(self);
        for &text in texts {
            layout.push(&[], text, step.map(|step| (step, text)));
        }
        layout.finish(rows, condition)
    }

    /// Hypotheses of a pool (positions in it) and the texts that they should have been, with the noise of a step, some words
    /// of the texts hidden.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn collate_refinements(&self, step: u64, pool: &Pool, entries: &[u32]) -> Result<MicroBatch> {
        let rows: Vec<u32> = entries.iter().map(|&entry| self.tokens.row(pool.text(entry))).collect();
        let condition = Condition::refinement(&self.pairs.vectors(&rows), pool.vectors(entries)?);
        let condition = self.noise.add(condition, step, entries)?;
        let lengths = self.lengths(entries.iter().map(|&entry| pool.text(entry)));
        let condition = self.noise.tell_lengths(condition, step, entries, &lengths)?;
        let mut layout = Layout::new(self);
        for &entry in entries {
            layout.push(pool.ids(entry), pool.text(entry), Some((step, entry)));
        }
        layout.finish(rows, condition)
    }
}

/// At most `parts` parts of about equal numbers of texts.
pub(crate) fn in_parts(texts: &[u32], parts: usize) -> impl Iterator<Item = &[u32]> {
    texts.chunks(texts.len().div_ceil(parts.max(1)).max(1))
}

/// Rows of a batch as they come: hypothesis, BOS and text, with a target at BOS and at each token of the text.
struct Layout<'a> {
    collator: &'a Collator,
    rows: Vec<Vec<i64>>,
    /// Where BOS stands in each row.
    begun: Vec<usize>,
    targets: Vec<i64>,
}

impl<'a> Layout<'a> {
    fn new(collator: &'a Collator) -> Self {
        Self { collator, rows: Vec::new(), begun: Vec::new(), targets: Vec::new() }
    }

    /// `hidden`: step and number that decide which words are hidden; `None` hides nothing.
    fn push(&mut self, hypothesis: &[u32], text: u32, hidden: Option<(u64, u32)>) {
        let mut row: Vec<i64> = hypothesis.iter().map(|&id| i64::from(id)).collect();
        self.begun.push(row.len());
        row.push(self.collator.bos);
        row.extend(self.collator.tokens.targets(text));
        self.targets.extend_from_slice(&row[hypothesis.len() + 1..]);
        // the last token, EOS, is never read
        row.pop();
        if let Some((step, number)) = hidden {
            let Collator { noise, bos, .. } = self.collator;
            noise.hide_words(step, number, &mut row[hypothesis.len() + 1..], *bos);
        }
        self.rows.push(row);
    }

    fn finish(self, rows: Vec<u32>, condition: Condition) -> Result<MicroBatch> {
        let width = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut inputs = Vec::with_capacity(self.rows.len() * width);
        let mut positions = Vec::with_capacity(self.targets.len());
        for (row, begun) in self.rows.iter().zip(&self.begun) {
            let start = inputs.len();
            positions.extend((start + begun..start + row.len()).map(|position| position as i64));
            inputs.extend_from_slice(row);
            inputs.resize(start + width, self.collator.pad);
        }
        let full = positions.len() == inputs.len();
        Ok(MicroBatch {
            condition,
            clean_BD: None,
            tokens_BT: Tensor::f_from_slice(&inputs)?.f_view([rows.len() as i64, width as i64])?,
            positions_N: if full { None } else { Some(Tensor::f_from_slice(&positions)?) },
            targets_N: Tensor::f_from_slice(&self.targets)?,
            rows,
        })
    }
}
