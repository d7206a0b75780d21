//! Makes the next batches on a thread of its own while the current one is trained on.
#![allow(non_snake_case)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use data::pairs::PairSet;
use tch::Tensor;

use crate::batches::{BatchOptions, Cursor, Epoch};
use crate::tokens::Tokens;
use crate::{Error, Result};

/// Part of a step's batch: what is computed at once.
#[derive(Debug)]
pub struct MicroBatch {
    /// Rows of the pair set.
    pub rows: Vec<u32>,
    /// (B, dim) f32.
    pub v_BD: Tensor,
    /// (B, T) i64: BOS and the text's tokens, then padding.
    pub tokens_BT: Tensor,
    /// (N) i64: the positions of `tokens_BT`, flattened, that have a target; `None` where all have.
    pub positions_N: Option<Tensor>,
    /// (N) i64: the token that follows each of those positions, EOS in the end.
    pub targets_N: Tensor,
}

impl MicroBatch {
    /// Number of target tokens.
    pub fn targets(&self) -> i64 {
        self.targets_N.size()[0]
    }

    /// Number of positions, padding included.
    pub fn positions(&self) -> i64 {
        self.tokens_BT.size().iter().product()
    }
}

/// What one step is trained on: this rank's share of it.
#[derive(Debug)]
pub struct Batch {
    /// Its parts; none where the step has fewer texts than there are ranks.
    pub parts: Vec<MicroBatch>,
    /// Target tokens of the step, those of all ranks.
    pub targets: i64,
    /// Texts of the step, those of all ranks.
    pub texts: usize,
    /// How many of them are those of the ranks before this one.
    pub first: usize,
    /// Where the order goes on after it.
    pub next: Cursor,
    /// Batches in its epoch.
    pub epoch_batches: usize,
}

impl Batch {
    /// A step of one process alone: `parts` are all there is of it.
    pub fn whole(parts: Vec<MicroBatch>, next: Cursor, epoch_batches: usize) -> Self {
        let targets = parts.iter().map(MicroBatch::targets).sum();
        let texts = parts.iter().map(|part| part.rows.len()).sum();
        Self { parts, targets, texts, first: 0, next, epoch_batches }
    }

    /// Number of target tokens of this rank.
    pub fn own_targets(&self) -> i64 {
        self.parts.iter().map(MicroBatch::targets).sum()
    }
}

/// Which ranks a step's texts are shared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The rank that takes its share.
    pub rank: usize,
    /// Number of ranks.
    pub of: usize,
}

impl Share {
    /// Everything.
    pub const WHOLE: Share = Share { rank: 0, of: 1 };

    /// Where in `texts`, which have `lengths`, this rank's part lies: neighbours, so that texts of like lengths stay together, and about
    /// as many tokens as every other rank has. The parts of all ranks make up the whole.
    fn take(&self, texts: &[u32], lengths: &[u32]) -> Range<usize> {
        let length = |text: &u32| u64::from(lengths[*text as usize]);
        let total: u64 = texts.iter().map(length).sum();
        let mut before = 0;
        // a text belongs to the rank in whose part of the tokens its middle lies
        let rank_of = |text: &u32| {
            let middle = before + length(text) / 2;
            before += length(text);
            (middle * self.of as u64 / total.max(1)) as usize
        };
        let ranks: Vec<usize> = texts.iter().map(rank_of).collect();
        let [start, end] = [self.rank, self.rank + 1].map(|rank| ranks.partition_point(|&of| of < rank));
        start..end
    }
}

/// Texts, vectors and what else a batch is made of.
#[derive(Debug)]
pub struct Collator {
    /// The pairs.
    pub pairs: Arc<PairSet>,
    /// Their tokens.
    pub tokens: Arc<Tokens>,
    /// Token before every text.
    pub bos: i64,
    /// Token behind short texts.
    pub pad: i64,
}

impl Collator {
    /// Puts texts (positions in the tokens) together; every row is as wide as the longest.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn collate(&self, texts: &[u32]) -> Result<MicroBatch> {
        let lengths: Vec<usize> = texts.iter().map(|&text| self.tokens.targets(text).count()).collect();
        let width = lengths.iter().copied().max().unwrap_or(0);
        let mut inputs = vec![self.pad; texts.len() * width];
        let (mut targets, mut positions) = (Vec::new(), Vec::new());
        for (number, (&text, &length)) in texts.iter().zip(&lengths).enumerate() {
            let start = number * width;
            inputs[start] = self.bos;
            for (at, id) in self.tokens.targets(text).enumerate() {
                targets.push(id);
                if at + 1 < length {
                    inputs[start + at + 1] = id;
                }
            }
            positions.extend((start..start + length).map(|position| position as i64));
        }
        let rows: Vec<u32> = texts.iter().map(|&text| self.tokens.row(text)).collect();
        let full = positions.len() == inputs.len();
        Ok(MicroBatch {
            v_BD: self.pairs.vectors(&rows),
            tokens_BT: Tensor::f_from_slice(&inputs)?.f_view([texts.len() as i64, width as i64])?,
            positions_N: if full { None } else { Some(Tensor::f_from_slice(&positions)?) },
            targets_N: Tensor::f_from_slice(&targets)?,
            rows,
        })
    }

    /// As [`Collator::collate`], in at most `parts` parts of about equal numbers of texts.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn collate_parts(&self, texts: &[u32], parts: usize) -> Result<Vec<MicroBatch>> {
        texts.chunks(texts.len().div_ceil(parts.max(1)).max(1)).map(|part| self.collate(part)).collect()
    }
}

/// An endless row of batches, made ahead.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
    waited: Duration,
}

/// Batches made ahead.
const AHEAD: usize = 4;

impl Loader {
    /// Starts at `cursor`. All ranks walk through the same batches, and each makes its share of them.
    pub fn start(
        collator: Collator,
        options: BatchOptions,
        parts: usize,
        share: Share,
        cursor: Cursor,
    ) -> Self {
        Self::spawn(move |out| produce(&collator, options, parts, share, cursor, out))
    }

    /// Batches of another source, made ahead in the same way.
    pub fn of(batches: impl Iterator<Item = Result<Batch>> + Send + 'static) -> Self {
        Self::spawn(move |out| {
            for batch in batches {
                if out.send(batch).is_err() {
                    return;
                }
            }
        })
    }

    fn spawn(produce: impl FnOnce(&SyncSender<Result<Batch>>) + Send + 'static) -> Self {
        let (sender, receiver) = sync_channel(AHEAD);
        let thread = std::thread::spawn(move || produce(&sender));
        Self { batches: Some(receiver), thread: Some(thread), waited: Duration::ZERO }
    }

    /// The next batch.
    ///
    /// # Errors
    /// Whatever making it met.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let ended = || Error::Loader { reason: "the thread that makes batches ended".into() };
        let start = Instant::now();
        let batch = self.batches.as_ref().ok_or_else(ended)?.recv().map_err(|_| ended())?;
        self.waited += start.elapsed();
        batch
    }

    /// Time spent waiting since the last call.
    pub fn take_waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // without a receiver the thread's next send fails, and it ends
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn produce(
    collator: &Collator,
    options: BatchOptions,
    parts: usize,
    share: Share,
    cursor: Cursor,
    out: &SyncSender<Result<Batch>>,
) {
    let lengths = collator.tokens.lengths();
    let Cursor { mut epoch, mut batch } = cursor;
    loop {
        let plan = Epoch::new(&lengths, epoch, options);
        if plan.is_empty() {
            let _ = out.send(Err(Error::Loader { reason: "there is nothing to train on".into() }));
            return;
        }
        while let Some(texts) = plan.batch(batch) {
            batch += 1;
            let next = if batch < plan.len() {
                Cursor { epoch, batch }
            } else {
                Cursor { epoch: epoch + 1, batch: 0 }
            };
            let own = share.take(texts, &lengths);
            let first = own.start;
            let made = collator.collate_parts(&texts[own], parts).map(|parts| Batch {
                parts,
                targets: texts.iter().map(|&text| i64::from(lengths[text as usize])).sum(),
                texts: texts.len(),
                first,
                next,
                epoch_batches: plan.len(),
            });
            let failed = made.is_err();
            if out.send(made).is_err() || failed {
                return;
            }
        }
        (epoch, batch) = (epoch + 1, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_make_up_the_whole_and_are_alike(
            lengths in prop::collection::vec(1u32..60, 0..300),
            of in 1usize..9,
        ) {
            let texts: Vec<u32> = (0..lengths.len() as u32).rev().collect();
            let shares: Vec<&[u32]> =
                (0..of).map(|rank| &texts[Share { rank, of }.take(&texts, &lengths)]).collect();
            prop_assert_eq!(shares.concat(), texts.clone());
            let tokens = |share: &&[u32]| share.iter().map(|&text| lengths[text as usize]).sum::<u32>();
            let even = lengths.iter().sum::<u32>() / of as u32;
            // a text is never parted
            prop_assert!(shares.iter().all(|share| tokens(share).abs_diff(even) <= 60));
        }
    }
}
