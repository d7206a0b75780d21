//! Which texts make up which step.
//!
//! The order of an epoch follows from the seed and the epoch's number alone: rows are shuffled, sorted by length
//! within wide windows, cut into batches that hold a number of target tokens, and the batches shuffled. So texts of
//! a batch have nearly one length (little padding), and any place in the order is reached without what came before.

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How an epoch is cut into batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchOptions {
    /// Most target tokens of a batch, padding excluded. A longer text makes a batch of its own.
    pub tokens: usize,
    /// Most texts of a batch.
    pub texts: Option<usize>,
    /// The order follows from it and the epoch.
    pub seed: u64,
}

/// A place in the endless order of batches: the next one to be trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Number of the epoch, from 0.
    pub epoch: u64,
    /// Number of the batch within it, from 0.
    pub batch: usize,
}

/// Places in both orders that steps are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursors {
    /// In that of the texts, for first guesses.
    pub texts: Cursor,
    /// In that of the hypotheses that are refined.
    pub hypotheses: Cursor,
}

/// The batches of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    rows: Vec<u32>,
    /// Start and end in `rows`, in the order of training.
    batches: Vec<(u32, u32)>,
}

/// Batches' worth of texts that are sorted together. Wider means less padding; texts of a window still meet at random.
const WINDOW_BATCHES: usize = 512;

impl Epoch {
    /// Orders texts of `lengths` (target tokens) for epoch `epoch`; the rows of its batches are positions in `lengths`.
    pub fn new(lengths: &[u32], epoch: u64, options: BatchOptions) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(epoch);
        let mut rows: Vec<u32> = (0..lengths.len() as u32).collect();
        rows.shuffle(&mut random);
        let total: usize = lengths.iter().map(|&length| length as usize).sum();
        let by_tokens = options.tokens.max(1) * lengths.len() / total.max(1);
        let window = WINDOW_BATCHES * by_tokens.min(options.texts.unwrap_or(usize::MAX)).max(1);
        let mut batches = Vec::new();
        for (number, window_rows) in rows.chunks_mut(window).enumerate() {
            window_rows.sort_by_key(|&row| lengths[row as usize]);
            cut(window_rows, (number * window) as u32, lengths, options, &mut batches);
        }
        batches.shuffle(&mut random);
        Self { rows, batches }
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there is nothing to train on.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Rows of a batch, by rising length; `None` past the end.
    pub fn batch(&self, number: usize) -> Option<&[u32]> {
        self.batches.get(number).map(|&(start, end)| &self.rows[start as usize..end as usize])
    }
}

/// Cuts rows, which begin at `offset` of the epoch's, into batches.
fn cut(rows: &[u32], offset: u32, lengths: &[u32], options: BatchOptions, batches: &mut Vec<(u32, u32)>) {
    let most = options.texts.unwrap_or(usize::MAX).max(1);
    let (mut start, mut tokens) = (0, 0);
    for (at, &row) in rows.iter().enumerate() {
        let length = lengths[row as usize] as usize;
        if at > start && (tokens + length > options.tokens || at - start >= most) {
            batches.push((offset + start as u32, offset + at as u32));
            (start, tokens) = (at, 0);
        }
        tokens += length;
    }
    if start < rows.len() {
        batches.push((offset + start as u32, offset + rows.len() as u32));
    }
}

/// Epoch after epoch, from a cursor on.
#[derive(Debug)]
pub struct Order {
    lengths: Vec<u32>,
    options: BatchOptions,
    cursor: Cursor,
    epoch: Epoch,
}

impl Order {
    /// The endless order of texts of `lengths` (in tokens), from `cursor` on.
    ///
    /// # Errors
    /// [`Error::Loader`] where there is no text.
    pub fn new(lengths: Vec<u32>, options: BatchOptions, cursor: Cursor) -> Result<Self> {
        let epoch = Epoch::new(&lengths, cursor.epoch, options);
        if epoch.is_empty() {
            return Err(Error::Loader { reason: "there is nothing to train on".into() });
        }
        Ok(Self { lengths, options, cursor, epoch })
    }

    /// The texts of the next batch, and the cursor behind it.
    pub fn next_batch(&mut self) -> (Vec<u32>, Cursor) {
        let texts = loop {
            if let Some(texts) = self.epoch.batch(self.cursor.batch) {
                break texts.to_vec();
            }
            self.go_to(Cursor { epoch: self.cursor.epoch + 1, batch: 0 });
        };
        let next = self.cursor.batch + 1;
        self.cursor.batch = next;
        if next >= self.epoch.len() {
            self.go_to(Cursor { epoch: self.cursor.epoch + 1, batch: 0 });
        }
        (texts, self.cursor)
    }

    /// Batches of the current epoch.
    pub fn batches(&self) -> usize {
        self.epoch.len()
    }

    /// Tokens of each text.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    fn go_to(&mut self, cursor: Cursor) {
        if cursor.epoch != self.cursor.epoch {
            self.epoch = Epoch::new(&self.lengths, cursor.epoch, self.options);
        }
        self.cursor = cursor;
    }
}

/// Share of the positions that are padding when each batch is as wide as its longest text, in percent.
pub fn padding_percent(epoch: &Epoch, lengths: &[u32]) -> f64 {
    let (mut used, mut all) = (0u64, 0u64);
    for rows in (0..epoch.len()).filter_map(|number| epoch.batch(number)) {
        let of_rows = || rows.iter().map(|&row| u64::from(lengths[row as usize]));
        used += of_rows().sum::<u64>();
        all += of_rows().max().unwrap_or(0) * rows.len() as u64;
    }
    if all == 0 { 0.0 } else { 100.0 * (all - used) as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn every_row_once_and_the_budget_kept(
            lengths in prop::collection::vec(1u32..60, 0..2000),
            tokens in 1usize..400,
            texts in prop::option::of(1usize..40),
            seed: u64,
            epoch in 0u64..5,
        ) {
            let options = BatchOptions { tokens, texts, seed };
            let plan = Epoch::new(&lengths, epoch, options);
            let mut seen = vec![0; lengths.len()];
            for number in 0..plan.len() {
                let rows = plan.batch(number).unwrap_or_default();
                prop_assert!(!rows.is_empty());
                prop_assert!(texts.is_none_or(|most| rows.len() <= most));
                let sum: u32 = rows.iter().map(|&row| lengths[row as usize]).sum();
                prop_assert!(sum as usize <= tokens || rows.len() == 1);
                rows.iter().for_each(|&row| seen[row as usize] += 1);
            }
            prop_assert!(plan.batch(plan.len()).is_none());
            prop_assert!(seen.iter().all(|&count| count == 1));
            prop_assert_eq!(&plan, &Epoch::new(&lengths, epoch, options));
        }
    }

    fn captions() -> Vec<u32> {
        (0..200_000u32).map(|i| 8 + (i.wrapping_mul(2_654_435_761) >> 24) % 24).collect()
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let lengths = captions();
        let options = BatchOptions { tokens: 4096, texts: None, seed: 1 };
        let first = Epoch::new(&lengths, 0, options);
        assert_ne!(first, Epoch::new(&lengths, 1, options));
        assert_ne!(first, Epoch::new(&lengths, 0, BatchOptions { seed: 2, ..options }));
    }

    #[test]
    fn there_is_little_padding() {
        let lengths = captions();
        let plan = Epoch::new(&lengths, 0, BatchOptions { tokens: 4096, texts: None, seed: 1 });
        let waste = padding_percent(&plan, &lengths);
        assert!(waste < 1.0, "{waste} %");
        // neighbours in the order are not of one length: the batches are shuffled
        let longest = |n: usize| plan.batch(n).into_iter().flatten().map(|&r| lengths[r as usize]).max();
        let changes = (1..plan.len()).filter(|&n| longest(n) != longest(n - 1)).count();
        assert!(changes > plan.len() / 2);
    }
}
