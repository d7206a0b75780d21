//! How fast a training goes: what is told every few steps.

use std::time::{Duration, Instant};

use tch::Device;

use crate::batch::Batch;
use crate::checkpoint::State;
use crate::metric_sink::{StepMetrics, memory_bytes};
use crate::step::StepResult;

/// Sums over the steps since numbers were last told. Evaluations and checkpoints do not count.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    busy: Duration,
    waited: Duration,
    first: Losses,
    refinements: Losses,
    grad_norm: f64,
    targets: i64,
    /// Of this rank's first guesses.
    own_targets: i64,
    positions: i64,
    /// Steps with a consistency loss, and the sums of its loss, cosine and milliseconds.
    consistency: (u64, [f64; 3]),
}

/// Losses of steps of one kind.
#[derive(Debug, Default)]
struct Losses {
    steps: u64,
    sum: f64,
}

impl Losses {
    fn add(&mut self, loss: f64) {
        self.steps += 1;
        self.sum += loss;
    }

    fn mean(&self) -> Option<f64> {
        (self.steps > 0).then(|| self.sum / self.steps as f64)
    }
}

impl Pace {
    pub(crate) fn start() -> Self {
        let zero = Duration::ZERO;
        Self {
            since: Instant::now(),
            busy: zero,
            waited: zero,
            first: Losses::default(),
            refinements: Losses::default(),
            grad_norm: 0.0,
            targets: 0,
            own_targets: 0,
            positions: 0,
            consistency: (0, [0.0; 3]),
        }
    }

    /// Takes a step in.
    pub(crate) fn add(&mut self, batch: &Batch, found: StepResult, waited: Duration) {
        self.busy += self.since.elapsed();
        self.since = Instant::now();
        self.waited += waited;
        self.grad_norm = found.grad_norm;
        self.targets += found.targets;
        if batch.refines {
            self.refinements.add(found.loss);
        } else {
            self.first.add(found.loss);
            self.own_targets += batch.own_targets();
            self.positions += batch.parts.iter().map(|part| part.positions()).sum::<i64>();
        }
        if let Some(found) = found.consistency {
            let numbers = [found.loss, found.cosine, 1e3 * found.spent.as_secs_f64()];
            self.consistency.0 += 1;
            self.consistency.1.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
    }

    /// What happened since the last step was no training.
    pub(crate) fn pause(&mut self) {
        self.since = Instant::now();
    }

    /// The numbers since the last call.
    pub(crate) fn metrics(
        &mut self,
        state: &State,
        batch: &Batch,
        learning_rate: f64,
        progress: f64,
        device: Device,
    ) -> StepMetrics {
        let done = std::mem::replace(self, Self::start());
        let seconds = done.busy.as_secs_f64().max(1e-9);
        let in_epoch = if state.cursor.batch == 0 {
            0.0
        } else {
            state.cursor.batch as f64 / batch.epoch_batches.max(1) as f64
        };
        let (with_consistency, sums) = done.consistency;
        let consistency = |at: usize| (with_consistency > 0).then(|| sums[at] / with_consistency as f64);
        StepMetrics {
            step: state.step,
            epoch: state.cursor.epoch as f64 + in_epoch,
            loss: done.first.mean().or(done.refinements.mean()).unwrap_or(0.0),
            refinement_loss: done.refinements.mean(),
            grad_norm: done.grad_norm,
            learning_rate,
            consistency_loss: consistency(0),
            consistency_cosine: consistency(1),
            consistency_ms: consistency(2),
            tokens_per_s: done.targets as f64 / seconds,
            data_wait_percent: 100.0 * done.waited.as_secs_f64() / seconds,
            padding_percent: 100.0 * (done.positions - done.own_targets) as f64
                / done.positions.max(1) as f64,
            memory_bytes: memory_bytes(device),
            tokens_seen: state.tokens_seen,
            elapsed_s: state.elapsed_seconds,
            progress,
            eta_s: (progress > 0.0).then(|| state.elapsed_seconds * (1.0 - progress) / progress),
        }
    }
}
