//! Texts in flight: as soon as a text has ended, the next vector takes its place, so that every step has as many rows
//! as there may be. Several threads decode vectors of their own, each on its share of the cores: a step is too small
//! to be shared well.
#![allow(non_snake_case)]

use super::beam::Rules;
use super::sample::Cuts;
use super::source::{Beginnings, Checked};
use super::stepper::{Slots, Stepper};
use super::text_in_flight::TextInFlight;
use super::{GenerateOptions, Generated, Strategy, host_f64, host_i64, log_probs_of, without_order};
use crate::{Decoder, Result};
use std::collections::VecDeque;
use tch::{Kind, Tensor};
use torch_ext::decode::Places;

/// Rows that a thread has at least, where there are several: products of fewer reach half the speed.
const ROWS_A_THREAD: usize = 16;

/// Vectors whose beginnings are in memory at a time.
const PORTION: usize = 4096;

/// Positions of these at most: beginnings are as long as the hypotheses in them.
const PORTION_POSITIONS: usize = 1 << 18;

/// Decodes a source; the texts of each vector, best first. What a text is depends on its own part of the source
/// alone, beyond rounding; who decodes it depends on the number of threads and on nothing that is timed.
pub(super) fn decode(
    decoder: &Decoder,
    source: &Checked,
    options: &GenerateOptions,
    limit: usize,
) -> Result<Vec<Vec<Generated>>> {
    let count = source.len();
    let plan = Plan::new(options, count, limit, decoder);
    // the last token of a text is never read
    let longest = (0..count).map(|text| source.positions(text, decoder)).max().unwrap_or(1) - 1;
    let stepper = Stepper::new(decoder, (longest + limit) as i64, plan.rows as i64)?;
    let mut results = Vec::with_capacity(count);
    while results.len() < count {
        let start = results.len();
        let length = portion((start..count).map(|text| source.positions(text, decoder)));
        let beginnings = source.beginnings(decoder, start, length)?;
        results.extend(by_all(&stepper, &beginnings, &plan, &source.numbers[start..start + length])?);
    }
    Ok(results)
}

/// How many of the next texts are begun together, by the positions of their beginnings; one at least.
pub(super) fn portion(positions: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0usize;
    let fits = |positions: &usize| {
        sum += positions;
        sum <= PORTION_POSITIONS
    };
    positions.take(PORTION).take_while(fits).count().max(1)
}

/// What every worker knows.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) strategy: Strategy,
    pub(super) rules: Rules,
    /// Rows that a vector can have.
    pub(super) per_vector: usize,
    workers: usize,
    /// Rows of one worker.
    rows: usize,
}

impl Plan {
    fn new(options: &GenerateOptions, count: usize, limit: usize, decoder: &Decoder) -> Self {
        let rules = Rules::new(&options.strategy, limit, decoder.config());
        let per_vector = match options.strategy {
            Strategy::Greedy => 1,
            Strategy::Sample { samples, .. } => samples,
            Strategy::Beam { .. } => rules.width,
        };
        let rows = options.batch.min(count * per_vector).max(per_vector);
        let threads = tch::get_num_threads().max(1) as usize;
        let workers = (rows / ROWS_A_THREAD.max(per_vector)).clamp(1, threads);
        Self { strategy: options.strategy.clone(), rules, per_vector, workers, rows: rows / workers }
    }
}

/// Decodes by as many threads as the plan says, each its own part of the vectors.
fn by_all(
    stepper: &Stepper,
    beginnings: &Beginnings,
    plan: &Plan,
    numbers: &[u64],
) -> Result<Vec<Vec<Generated>>> {
    let count = beginnings.len();
    let worker = |number: usize| -> Result<Worker> {
        let (from, to) = (count * number / plan.workers, count * (number + 1) / plan.workers);
        Worker::new(
            stepper.shallow_clone(),
            plan.clone(),
            beginnings.part(from, to)?,
            numbers[from..to].to_vec(),
        )
    };
    if plan.workers == 1 {
        return worker(0)?.decode();
    }
    let crew: Vec<Worker> = (0..plan.workers).map(worker).collect::<Result<_>>()?;
    let threads = tch::get_num_threads();
    let share = (threads / plan.workers as i32).max(1);
    let parts: Vec<Result<Vec<Vec<Generated>>>> = std::thread::scope(|scope| {
        let start = |worker: Worker| {
            scope.spawn(move || {
                tch::set_num_threads(share);
                tch::no_grad(|| worker.decode())
            })
        };
        let handles: Vec<_> = crew.into_iter().map(start).collect();
        let end = |handle: std::thread::ScopedJoinHandle<'_, _>| {
            handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        handles.into_iter().map(end).collect()
    });
    // the number is each thread's own, but threads that are started later take over the last one that was set
    tch::set_num_threads(threads);
    Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// One thread's vectors.
struct Worker {
    stepper: Stepper,
    plan: Plan,
    beginnings: Beginnings,
    /// Of each vector, for what is drawn.
    numbers: Vec<u64>,
    slots: Slots,
    /// Slots that no text has, a vector's worth each.
    free: Vec<Vec<i32>>,
    waiting: VecDeque<usize>,
}

/// One row's candidates.
type Choice = Vec<(i64, f32)>;

impl Worker {
    fn new(stepper: Stepper, plan: Plan, beginnings: Beginnings, numbers: Vec<u64>) -> Result<Self> {
        let count = beginnings.len();
        let texts = (plan.rows / plan.per_vector).clamp(1, count.max(1));
        let slots = stepper.slots(texts * plan.per_vector)?;
        let all: Vec<i32> = (0..(texts * plan.per_vector) as i32).collect();
        let free = all.chunks(plan.per_vector).map(<[i32]>::to_vec).collect();
        Ok(Self { stepper, plan, beginnings, numbers, slots, free, waiting: (0..count).collect() })
    }

    fn decode(mut self) -> Result<Vec<Vec<Generated>>> {
        let mut results = vec![Vec::new(); self.waiting.len()];
        let mut running: Vec<TextInFlight> = Vec::new();
        loop {
            let going_on = running.len();
            while let (Some(slots), false) = (self.free.last(), self.waiting.is_empty()) {
                let Some(index) = self.waiting.pop_front() else { break };
                let (begun, number) = (self.beginnings.length(index), self.numbers[index]);
                running.push(TextInFlight::new(index, begun, number, slots.clone(), &self.plan));
                self.free.pop();
            }
            if running.is_empty() {
                return Ok(results);
            }
            let x_WH = self.step(&mut running, going_on)?;
            let mut choices = self.choose(&x_WH, &mut running)?.into_iter();
            let mut still = Vec::with_capacity(running.len());
            for mut text in running {
                let own: Vec<Choice> = choices.by_ref().take(text.draws()).collect();
                if text.advance(&own, &self.plan, self.stepper.capacity()) {
                    still.push(text);
                } else {
                    let (index, slots, texts) = text.end();
                    results[index] = texts;
                    self.free.push(slots);
                }
            }
            running = still;
        }
    }

    /// One token further for the first `going_on`, their beginnings for the others: the state that predicts, for every
    /// row of the former and for each of the latter.
    fn step(&mut self, running: &mut [TextInFlight], going_on: usize) -> Result<Tensor> {
        let (mut places, mut wanted, mut tokens) = (Places::default(), Vec::new(), Vec::new());
        let capacity = self.stepper.capacity();
        let (old, new) = running.split_at_mut(going_on);
        for text in old {
            let position = text.position();
            for row in text.rows() {
                row.table[position] = row.slot;
                tokens.push(row.token);
                wanted.push(places.slots.len() as i64);
                places.slots.push(row.slot);
                places.positions.push(position as i32);
                places.table.extend_from_slice(&row.table);
            }
        }
        for text in &*new {
            for position in 0..=text.position() {
                places.slots.push(text.slot());
                places.positions.push(position as i32);
                places.table.resize(places.table.len() + capacity, text.slot());
            }
            wanted.push(places.slots.len() as i64 - 1);
        }
        let mut parts = Vec::new();
        if !tokens.is_empty() {
            parts.push(self.stepper.embed(&tokens)?);
        }
        if !new.is_empty() {
            let rows: Vec<i64> = new.iter().flat_map(|text| self.beginnings.rows(text.index())).collect();
            let begun_RH = self.beginnings.x_RH.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
            parts.push(begun_RH.f_to_kind(Kind::Float)?);
        }
        let x_RH = match (parts.pop(), parts.pop()) {
            (Some(new), Some(old)) => Tensor::f_cat(&[old, new], 0)?,
            (Some(only), None) => only,
            _ => Tensor::f_zeros([0, 0], (Kind::Float, tch::Device::Cpu))?,
        };
        self.stepper.forward(x_RH, &places, &wanted, &mut self.slots)
    }

    /// What may follow each row: the drawn token, or a beam's candidates; a row for every draw.
    fn choose(&self, x_WH: &Tensor, running: &mut [TextInFlight]) -> Result<Vec<Choice>> {
        let Some(cuts) = Cuts::of(&self.plan.strategy) else {
            let keep = self.plan.rules.keep;
            let picked = self.stepper.pick(x_WH, keep)?;
            let rows = picked.tokens.chunks(keep).zip(picked.log_probs.chunks(keep));
            let choice = |(t, p): (&[i64], &[f32])| t.iter().copied().zip(p.iter().copied()).collect();
            return Ok(rows.map(choice).collect());
        };
        let (mut rows, mut uniforms, mut next) = (Vec::new(), Vec::new(), 0i64);
        for text in running {
            let drawn = text.uniforms();
            // a text that begins has one row for all its samples
            let many = text.length() > 0;
            rows.extend((0..drawn.len() as i64).map(|draw| if many { next + draw } else { next }));
            next += if many { drawn.len() as i64 } else { 1 };
            uniforms.extend(drawn);
        }
        let logits_RV = self.stepper.logits(x_WH)?.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
        let tokens_R = cuts.draw(&logits_RV, &uniforms)?;
        let log_probs = host_f64(&log_probs_of(&logits_RV, &tokens_R)?)?;
        if let Some(row) = log_probs.iter().position(|log_prob| !log_prob.is_finite()) {
            return Err(without_order(row));
        }
        let tokens = host_i64(&tokens_R)?.into_iter();
        Ok(tokens.zip(log_probs).map(|(token, log_prob)| vec![(token, log_prob as f32)]).collect())
    }
}
