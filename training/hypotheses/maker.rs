//! Makes a set of hypotheses: first guesses at some training texts, and refinements of earlier hypotheses.
#![allow(non_snake_case)]

use std::sync::atomic::{AtomicBool, Ordering};

use models::generate::{GenerateOptions, Hypotheses, Source, Strategy};
use models::{Embed as _, Encoder, Inverted, Inverter};
use rand::SeedableRng as _;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::World;

use super::borrow::borrow;
use super::pool::Pool;
use super::set::{self, Guess, SetRecord};
use crate::noise::lead_astray;
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::replicas::agree;
use crate::{Error, Result};

/// What makes hypotheses.
pub(crate) struct Maker<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) prepared: &'a Prepared,
    /// With the weights that guess.
    pub(crate) inverter: &'a Inverter,
    pub(crate) encoder: &'a Encoder,
    pub(crate) world: &'a World,
}

/// What random numbers of a set are for.
const GUESSED: u64 = 0;
const BORROWED: u64 = 1;

/// What a guess is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Task {
    /// Position of the text in the tokens.
    text: u32,
    /// The hypothesis that is refined.
    parent: Option<u32>,
    /// Whether it is drawn, else greedy.
    drawn: bool,
}

impl Task {
    /// Whether it is decoded as another one is.
    fn is_like(&self, other: &Self) -> bool {
        (self.parent.is_some(), self.drawn) == (other.parent.is_some(), other.drawn)
    }
}

/// Batches that are decoded between two looks at whether to stop. Fewer would end with more batches that are not full.
const BATCHES: usize = 8;

impl Maker<'_> {
    /// Makes the set of `step`, which all ranks share in, and writes it to the run folder; `None`, and nothing, where `stop`
    /// was set on any of them meanwhile.
    ///
    /// # Errors
    /// What decoding, encoding, a collective and the disk fail with.
    pub(crate) fn make(&self, step: u64, pool: &Pool, stop: &AtomicBool) -> Result<Option<SetRecord>> {
        let tasks = self.tasks(step, pool);
        let size = self.world.size();
        let share = |rank: usize| &tasks[tasks.len() * rank / size..tasks.len() * (rank + 1) / size];
        let shares: Vec<&[Task]> = (0..size).map(share).collect();
        let Some(guesses) = self.guesses(&shares, step, pool, stop)? else { return Ok(None) };
        // texts of one rank may be longer than those of another, by more than a collective waits
        self.world.patient_barrier("making hypotheses")?;
        let bad = |error: serde_json::Error| Error::Io(std::io::Error::other(error));
        let sent: Vec<Sent> = guesses.into_iter().map(Sent::from).collect();
        let all = self.world.gather_bytes(serde_json::to_vec(&sent).map_err(bad)?)?;
        let record = self.world.first_does("writing hypotheses", || {
            let mut guesses = Vec::new();
            for share in all {
                let share: Vec<Sent> = serde_json::from_slice(&share).map_err(bad)?;
                guesses.extend(share.into_iter().map(Guess::from));
            }
            // they follow from the seed and cost little: one rank makes them all
            let mut random = self.random(step, BORROWED);
            guesses.extend(borrow(self.prepared, self.recipe.refinement.borrowed, &mut random)?);
            let written = set::write(&self.recipe.run.dir, step, &self.prepared.pairs, &guesses)?;
            serde_json::to_vec(&written).map_err(bad)
        })?;
        Ok(Some(serde_json::from_slice(&record).map_err(bad)?))
    }

    /// A generator for a set; the order of the batches has the streams from 0 on.
    fn random(&self, step: u64, what: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.recipe.training.seed);
        random.set_stream(u64::MAX - 2 * step - what);
        random
    }

    /// What the set is made from: it follows from the seed and the step.
    fn tasks(&self, step: u64, pool: &Pool) -> Vec<Task> {
        let section = &self.recipe.refinement;
        let mut random = self.random(step, GUESSED);
        let texts = self.prepared.train.len();
        let total = section.set_texts.min(texts);
        let again = ((total as f64 * section.iterates).round() as usize).min(pool.len());
        let drawn = |number: usize| {
            let before = |number: usize| (number as f64 * section.drawn).floor();
            before(number + 1) > before(number)
        };
        let parents = index::sample(&mut random, pool.len(), again).into_iter();
        let refined = parents.enumerate().map(|(number, entry)| Task {
            text: pool.text(entry as u32),
            parent: Some(entry as u32),
            drawn: drawn(number),
        });
        let mut tasks: Vec<Task> = refined.collect();
        let first = index::sample(&mut random, texts, total - again).into_iter();
        tasks.extend(first.enumerate().map(|(number, at)| Task {
            text: at as u32,
            parent: None,
            drawn: drawn(number),
        }));
        tasks
    }

    /// What this rank makes of its share; `None` where any rank was asked to stop.
    fn guesses(
        &self,
        shares: &[&[Task]],
        step: u64,
        pool: &Pool,
        stop: &AtomicBool,
    ) -> Result<Option<Vec<Guess>>> {
        let tasks = shares[self.world.rank()];
        let mut texts = vec![String::new(); tasks.len()];
        let mut parts = parts(shares, self.world.rank(), BATCHES * self.recipe.refinement.batch);
        // once more before they are encoded
        parts.push(Vec::new());
        let all = until_stopped(self.world, stop, parts, |chosen| {
            let of: Vec<Task> = chosen.iter().map(|&at| tasks[at]).collect();
            for (at, text) in chosen.into_iter().zip(self.decode(&of, step, pool)?) {
                texts[at] = text;
            }
            Ok(())
        })?;
        if !all {
            return Ok(None);
        }
        let rows: Vec<u32> = tasks.iter().map(|task| self.prepared.train.row(task.text)).collect();
        let vectors = self.encode(&rows, &texts)?;
        let guess = |((row, text), vector)| Guess { row, text, vector };
        Ok(Some(rows.into_iter().zip(texts).zip(vectors).map(guess).collect()))
    }

    /// The vectors of guesses at pairs, each under the prompt of its pair's vector.
    fn encode(&self, rows: &[u32], texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let mut vectors = vec![Vec::new(); texts.len()];
        for prompt in self.prepared.pairs.space().prompts() {
            let own = |&at: &usize| self.prepared.pairs.prompt(rows[at] as usize) == prompt.name;
            let chosen: Vec<usize> = (0..rows.len()).filter(own).collect();
            if chosen.is_empty() {
                continue;
            }
            let borrowed: Vec<&str> = chosen.iter().map(|&at| texts[at].as_str()).collect();
            let v_ND = match self.encoder.space().prompt.text == prompt.text {
                true => self.encoder.embed(&borrowed)?,
                false => self.encoder.under(&prompt.name)?.embed(&borrowed)?,
            };
            for (number, at) in chosen.into_iter().enumerate() {
                vectors[at] = Vec::try_from(v_ND.f_get(number as i64)?)?;
            }
        }
        Ok(vectors)
    }

    /// The texts of tasks that are all first guesses or all refinements, and all drawn or all greedy.
    fn decode(&self, tasks: &[Task], step: u64, pool: &Pool) -> Result<Vec<String>> {
        let section = &self.recipe.refinement;
        let rows: Vec<u32> = tasks.iter().map(|task| self.prepared.train.row(task.text)).collect();
        let mut v_ND = self.prepared.pairs.vectors(&rows);
        if tasks.iter().all(|task| task.parent.is_none()) {
            let texts: Vec<u32> = tasks.iter().map(|task| task.text).collect();
            v_ND = lead_astray(&v_ND, &texts, section, self.recipe.training.seed, step)?;
        }
        let numbers: Vec<u64> = tasks.iter().map(|task| u64::from(task.text)).collect();
        let parents: Vec<u32> = tasks.iter().filter_map(|task| task.parent).collect();
        let ids: Vec<Vec<u32>> = parents.iter().map(|&parent| pool.ids(parent).to_vec()).collect();
        let hypothesis_ND: Tensor = pool.vectors(&parents)?;
        let hypotheses = Hypotheses { v_ND: &hypothesis_ND, ids: &ids };
        let source = Source {
            v_ND: &v_ND,
            hypotheses: Some(hypotheses).filter(|_| !parents.is_empty()),
            numbers: Some(&numbers),
        };
        let strategy = match tasks.first() {
            Some(Task { drawn: true, .. }) => Strategy::Sample {
                temperature: section.temperature,
                top_k: None,
                top_p: None,
                min_p: None,
                seed: self.recipe.training.seed ^ step,
                samples: 1,
            },
            _ => Strategy::Greedy,
        };
        let options = GenerateOptions { strategy, batch: section.batch, ..GenerateOptions::default() };
        let texts = self.inverter.invert_from(&source, &options)?;
        let best = |texts: Vec<Inverted>| texts.into_iter().next().map(|best| best.text).unwrap_or_default();
        Ok(texts.into_iter().map(best).collect())
    }
}

/// The tasks of a rank by their numbers, in parts of at most `most` that are alike. There are as many parts on every rank,
/// some of them empty, so that all look up between the same ones.
fn parts(shares: &[&[Task]], rank: usize, most: usize) -> Vec<Vec<usize>> {
    let most = most.max(1);
    let mut parts = Vec::new();
    for (parent, drawn) in [(None, false), (None, true), (Some(0), false), (Some(0), true)] {
        let kind = Task { text: 0, parent, drawn };
        let of = |share: &&[Task]| share.iter().filter(|task| task.is_like(&kind)).count();
        let longest = shares.iter().map(of).max().unwrap_or(0);
        let own: Vec<usize> = (0..shares[rank].len()).filter(|&at| shares[rank][at].is_like(&kind)).collect();
        let mut own = own.chunks(most);
        parts.extend((0..longest.div_ceil(most)).map(|_| own.next().unwrap_or_default().to_vec()));
    }
    parts
}

/// Does the parts one after another, all ranks in step; whether all are done, or any rank was asked to stop before.
fn until_stopped(
    world: &World,
    stop: &AtomicBool,
    parts: Vec<Vec<usize>>,
    mut work: impl FnMut(Vec<usize>) -> Result<()>,
) -> Result<bool> {
    for part in parts {
        // texts of one rank may be longer than those of another, by more than a collective waits
        world.patient_barrier("making hypotheses")?;
        if agree(world, 0.0, stop.load(Ordering::Relaxed))?.1 {
            return Ok(false);
        }
        if !part.is_empty() {
            work(part)?;
        }
    }
    Ok(true)
}

/// A guess on its way between processes, its vector as bits.
#[derive(Serialize, Deserialize)]
struct Sent {
    row: u32,
    text: String,
    vector: Vec<u32>,
}

impl From<Guess> for Sent {
    fn from(Guess { row, text, vector }: Guess) -> Self {
        Self { row, text, vector: vector.into_iter().map(f32::to_bits).collect() }
    }
}

impl From<Sent> for Guess {
    fn from(Sent { row, text, vector }: Sent) -> Self {
        Self { row, text, vector: vector.into_iter().map(f32::from_bits).collect() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn all_ranks_have_as_many_parts_and_do_all_their_tasks() {
        let tasks: Vec<Task> = (0..50)
            .map(|text| Task { text, parent: (text < 11).then_some(text), drawn: text % 3 == 0 })
            .collect();
        let shares = [&tasks[..12], &tasks[12..41], &tasks[41..]];
        let all = [0, 1, 2].map(|rank| parts(&shares, rank, 4));
        for (share, parts) in shares.iter().zip(&all) {
            assert_eq!(parts.len(), all[0].len());
            for part in parts {
                assert!(part.len() <= 4 && part.iter().all(|&at| share[at].is_like(&share[part[0]])));
            }
            let mut done = parts.concat();
            done.sort_unstable();
            assert_eq!(done, (0..share.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_stop_between_parts_is_heard() {
        let (world, stop) = (World::alone(), AtomicBool::new(false));
        let parts = || vec![vec![0, 1], Vec::new(), vec![2], vec![3]];
        let mut done = Vec::new();
        let all = until_stopped(&world, &stop, parts(), |part| {
            stop.store(part.contains(&2), Ordering::Relaxed);
            done.extend(part);
            Ok(())
        });
        assert_eq!((all.unwrap(), done), (false, vec![0, 1, 2]));
        // asked before, nothing is begun
        assert!(!until_stopped(&world, &stop, parts(), |_| Err(Error::NoEncoder)).unwrap());
        stop.store(false, Ordering::Relaxed);
        assert!(until_stopped(&world, &stop, parts(), |_| Ok(())).unwrap());
    }
}
