//! Makes the next batches on a thread of its own while the current one is trained on.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::batches::{BatchOptions, Cursors, Order};
use crate::collate::{Collator, in_parts};
use crate::hypotheses::Pool;
use crate::{Error, Result};

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

/// What a loader makes batches of.
#[derive(Debug, Clone)]
pub struct Supply {
    /// Texts, and how they are put together.
    pub collator: Collator,
    /// How they are put into batches.
    pub options: BatchOptions,
    /// Parts that a step is computed in.
    pub parts: usize,
    /// Hypotheses that some of the steps refine.
    pub refining: Option<Refining>,
}

/// Hypotheses that a share of the steps refines.
#[derive(Debug, Clone)]
pub struct Refining {
    /// The hypotheses.
    pub pool: Arc<Pool>,
    /// Share of the steps, 0 to 1; they are spread evenly.
    pub share: f64,
}

impl Refining {
    /// Whether step number `step` (the first is 0) refines.
    fn is_at(&self, step: u64) -> bool {
        let before = |step: u64| (step as f64 * self.share).floor();
        before(step + 1) > before(step)
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
    /// Starts before step number `step` at `cursors`. All ranks walk through the same batches, and each makes its share
    /// of them.
    pub fn start(supply: Supply, share: Share, step: u64, cursors: Cursors) -> Self {
        Self::spawn(move |out| {
            let mut maker = match Maker::new(supply, share, step, cursors) {
                Ok(maker) => maker,
                Err(error) => {
                    let _ = out.send(Err(error));
                    return;
                }
            };
            loop {
                let made = maker.make();
                let failed = made.is_err();
                if out.send(made).is_err() || failed {
                    return;
                }
            }
        })
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

/// Makes batch after batch.
struct Maker {
    supply: Supply,
    share: Share,
    step: u64,
    /// Target tokens of each text.
    lengths: Vec<u32>,
    texts: Order,
    /// Hypotheses, by the tokens of hypothesis and target together.
    hypotheses: Option<Order>,
    cursors: Cursors,
}

impl Maker {
    fn new(supply: Supply, share: Share, step: u64, cursors: Cursors) -> Result<Self> {
        let (options, lengths) = (supply.options, supply.collator.tokens.lengths());
        let texts = Order::new(lengths.clone(), options, cursors.texts)?;
        let of_pool = |refining: &Refining| {
            // twice the tokens make as many texts as a first guess has
            let options = BatchOptions { tokens: 2 * options.tokens, ..options };
            Order::new(refining.pool.lengths(&lengths), options, cursors.hypotheses)
        };
        let hypotheses = supply.refining.as_ref().map(of_pool).transpose()?;
        Ok(Self { supply, share, step, lengths, texts, hypotheses, cursors })
    }

    fn make(&mut self) -> Result<Batch> {
        let step = self.step;
        self.step += 1;
        let epoch_batches = self.texts.batches();
        match (&self.supply.refining, &mut self.hypotheses) {
            (Some(refining), Some(order)) if refining.is_at(step) => {
                let pool = &refining.pool;
                let (entries, next) = order.next_batch();
                self.cursors.hypotheses = next;
                let target = |entry: &u32| i64::from(self.lengths[pool.text(*entry) as usize]);
                let targets = entries.iter().map(target).sum();
                let own = self.share.take(&entries, order.lengths());
                let first = own.start;
                let parts = in_parts(&entries[own], self.supply.parts)
                    .map(|part| self.supply.collator.collate_refinements(step, pool, part));
                let (parts, next) = (parts.collect::<Result<_>>()?, self.cursors);
                let texts = entries.len();
                Ok(Batch { parts, targets, texts, first, refines: true, next, epoch_batches })
            }
            _ => {
                let (texts, next) = self.texts.next_batch();
                self.cursors.texts = next;
                let targets = texts.iter().map(|&text| i64::from(self.lengths[text as usize])).sum();
                let own = self.share.take(&texts, &self.lengths);
                let first = own.start;
                let parts = in_parts(&texts[own], self.supply.parts)
                    .map(|part| self.supply.collator.collate_at(step, part));
                let (parts, next) = (parts.collect::<Result<_>>()?, self.cursors);
                let texts = texts.len();
                Ok(Batch { parts, targets, texts, first, refines: false, next, epoch_batches })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refinements_are_spread_evenly_and_are_as_many_as_asked_for() {
        for share in [0.0, 0.25, 0.8, 1.0] {
            let refining = Refining { pool: Arc::new(Pool::empty(4)), share };
            let at: Vec<bool> = (0..1000).map(|step| refining.is_at(step)).collect();
            let count = |steps: &[bool]| steps.iter().filter(|&&is| is).count() as f64;
            assert_eq!(count(&at), 1000.0 * share);
            assert!(at.chunks(20).all(|steps| (count(steps) - 20.0 * share).abs() <= 1.0), "{share}");
        }
    }

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
