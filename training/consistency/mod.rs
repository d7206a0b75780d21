//! The consistency loss: what the decoder writes, encoded again, shall land on the vector that it came from.
//!
//! `soft` sends the decoder's distribution through the frozen encoder and the gradient back; `sampled` encodes texts
//! drawn from the decoder and makes those likelier that lie nearer to their target than the others. Both stand beside the
//! cross-entropy, on some texts of some steps. Targets are the vectors without noise; a text whose vector is withheld has
//! none.
#![allow(non_snake_case)]

mod sampled;
mod soft;
mod words;

use std::ops::Range;
use std::time::Duration;

use models::{Embed as _, Encoder, Space, Vocabulary};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use crate::Result;
use crate::batch::{Batch, MicroBatch};
use crate::prepare::Prepared;
use crate::recipe::{ConsistencyKind, ConsistencySection, Recipe};
pub(crate) use soft::Head;
use words::Words;

/// The loss of a recipe, with its frozen encoder.
pub struct Consistency {
    section: ConsistencySection,
    seed: u64,
    encoders: Encoders,
    /// What turns ids of the decoder into text.
    vocabulary: Vocabulary,
    /// For `soft`: the encoder's words by the decoder's ids.
    words: Option<Words>,
    max_tokens: usize,
}

impl std::fmt::Debug for Consistency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consistency").field("section", &self.section).finish_non_exhaustive()
    }
}

/// The encoder under each prompt of the pair set, and which rows are of which.
struct Encoders {
    all: Vec<Encoder>,
    /// Names of the pair set's prompts in the order of `all`.
    prompts: Vec<String>,
    pairs: std::sync::Arc<data::pairs::PairSet>,
}

impl Encoders {
    /// Texts (numbers into `rows`) by the encoder that their vectors are of.
    fn groups<'a>(&'a self, rows: &'a [u32]) -> impl Iterator<Item = (usize, &'a Encoder, Vec<usize>)> + 'a {
        let of = |prompt: &str, row: u32| self.pairs.prompt(row as usize) == prompt;
        self.all.iter().zip(&self.prompts).enumerate().filter_map(move |(number, (encoder, prompt))| {
            let texts: Vec<usize> = (0..rows.len()).filter(|&text| of(prompt, rows[text])).collect();
            (!texts.is_empty()).then_some((number, encoder, texts))
        })
    }
}

impl Consistency {
    /// Opens the encoder; `None` where the recipe wants no such loss.
    ///
    /// # Errors
    /// An encoder that cannot be opened or is not the pair set's; [`crate::Error::OtherWords`] for `soft` where the
    /// decoder's tokens are not the encoder's.
    pub fn open(recipe: &Recipe, prepared: &Prepared) -> Result<Option<Self>> {
        let section = recipe.consistency.clone();
        if section.kind == ConsistencyKind::None {
            return Ok(None);
        }
        let opened = recipe.open_encoders()?;
        let space = prepared.pairs.space();
        let spaces: Vec<&Space> = opened.iter().map(|encoder| encoder.space()).collect();
        if let Some(union) = Space::union(&spaces)? {
            space.require_within(&union, "the pair set", "the recipe's encoder")?;
        }
        let (mut all, mut prompts) = (Vec::new(), Vec::new());
        for encoder in opened {
            let text = &encoder.space().prompt.text;
            if let Some(known) = space.prompts().find(|known| known.text == *text) {
                prompts.push(known.name.clone());
                all.push(encoder);
            }
        }
        let encoders = Encoders { all, prompts, pairs: prepared.pairs.clone() };
        let words = match section.kind {
            ConsistencyKind::Soft => Some(Words::of(&encoders.all, prepared)?),
            _ => None,
        };
        let max_tokens = prepared.config.max_tokens as usize;
        let vocabulary = prepared.vocabulary.clone();
        Ok(Some(Self { section, seed: recipe.training.seed, encoders, vocabulary, words, max_tokens }))
    }

    /// Another hold on the encoder under the first prompt; the weights are shared.
    pub(crate) fn encoder(&self) -> Option<Encoder> {
        let first = self.encoders.all.first()?;
        first.under(&first.space().prompt.name).ok()
    }

    /// What step `step` (the first is 0) of a training that is so far advanced (0 to 1) has to do for it.
    pub fn turn(&self, step: u64, progress: f64) -> Option<Turn<'_>> {
        let share = share(&self.section, progress);
        (share > 0.0 && step.is_multiple_of(self.section.every)).then_some(Turn { of: self, step, share })
    }
}

/// How much of the full weight the loss has at a progress from 0 to 1.
fn share(section: &ConsistencySection, progress: f64) -> f64 {
    let over = progress - section.begin;
    if over < 0.0 {
        0.0
    } else if over >= section.ramp {
        1.0
    } else {
        over / section.ramp
    }
}

/// The loss of one step.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    of: &'a Consistency,
    step: u64,
    /// Of the full weight.
    share: f64,
}

/// What a step found of it: means over the texts that it was computed on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConsistencyResult {
    /// The loss at its full weight.
    pub loss: f64,
    /// Cosine of the vectors with their targets: of the mixtures that the encoder was given, or of the samples.
    pub cosine: f64,
    /// Time that this process spent on it.
    pub spent: Duration,
}

impl ConsistencyResult {
    /// From the sums of loss and cosine over some texts, and their number.
    pub(crate) fn of([loss, cosine, texts]: [f64; 3], spent: Duration) -> Self {
        let texts = texts.max(1.0);
        Self { loss: loss / texts, cosine: cosine / texts, spent }
    }
}

impl Turn<'_> {
    /// Most texts of all ranks that it is computed on.
    fn texts(&self, batch: &Batch) -> usize {
        self.of.section.texts.min(batch.texts)
    }

    /// Factor on the gradient of one text's loss at full weight.
    fn scale(&self, batch: &Batch) -> f64 {
        self.share / self.texts(batch).max(1) as f64
    }

    /// The texts of each of the parts that it is computed on, by their numbers in the part. Over all ranks they are the same
    /// ones whatever the number of ranks.
    fn picked(&self, batch: &Batch) -> Result<Vec<Vec<usize>>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.of.seed);
        // the streams of the order of epochs are small numbers
        random.set_stream(u64::MAX - self.step);
        let mut chosen = rand::seq::index::sample(&mut random, batch.texts, self.texts(batch)).into_vec();
        chosen.sort_unstable();
        let mut start = batch.first;
        let of_part = |part: &MicroBatch| -> Result<Vec<usize>> {
            let range = start..start + part.rows.len();
            start = range.end;
            let withheld = withheld(part)?;
            let texts = chosen.iter().filter(|text| range.contains(text)).map(|text| text - range.start);
            Ok(texts.filter(|&text| withheld.get(text) != Some(&true)).collect())
        };
        batch.parts.iter().map(of_part).collect()
    }
}

/// Whether each text of a part has its vector withheld; empty where none has.
fn withheld(part: &MicroBatch) -> Result<Vec<bool>> {
    let Some(withheld_B) = &part.condition.withheld_B else { return Ok(Vec::new()) };
    Ok(Vec::<bool>::try_from(withheld_B.f_to_device(Device::Cpu)?)?)
}

/// Positions of each text's targets, EOS included, in `targets_N`.
fn spans(part: &MicroBatch, eos: i64) -> Result<Vec<Range<usize>>> {
    let targets = Vec::<i64>::try_from(part.targets_N.f_to_device(Device::Cpu)?)?;
    let mut start = 0;
    let ends = targets.iter().enumerate().filter(|(_, id)| **id == eos).map(|(at, _)| at + 1);
    Ok(ends.map(|end| std::mem::replace(&mut start, end)..end).collect())
}

/// Rows scaled to length 1.
fn unit(x_BD: &Tensor) -> Result<Tensor> {
    Ok(x_BD.f_div(&x_BD.f_norm_scalaropt_dim(2, [1i64].as_slice(), true)?.f_clamp_min(1e-12)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_rises_from_its_beginning() {
        let section = ConsistencySection { begin: 0.5, ramp: 0.2, ..ConsistencySection::default() };
        for (progress, expected) in [(0.0, 0.0), (0.49, 0.0), (0.6, 0.5), (0.7, 1.0), (1.0, 1.0)] {
            assert!((share(&section, progress) - expected).abs() < 1e-9, "{progress}");
        }
        let at_once = ConsistencySection { begin: 0.0, ramp: 0.0, ..section };
        assert_eq!(share(&at_once, 0.0), 1.0);
    }

    #[test]
    fn a_text_ends_where_eos_stands() {
        let part = MicroBatch {
            rows: vec![0, 1],
            condition: models::Condition::first(&Tensor::from_slice(&[0f32; 2]).view([2, 1])),
            clean_BD: None,
            tokens_BT: Tensor::from_slice(&[0i64; 6]).view([2, 3]),
            positions_N: None,
            targets_N: Tensor::from_slice(&[5i64, 6, 1, 7, 1]),
        };
        assert_eq!(spans(&part, 1).unwrap(), [0..3, 3..5]);
    }
}
