//! Texts drawn from the decoder, encoded again: self-critical training with a leave-one-out baseline.
//!
//! The reward of a text is the cosine of its vector with the target; what it is better by than the mean of the other
//! samples of its vector weighs the gradient of its mean log-probability (REINFORCE with a leave-one-out baseline, Kool et
//! al. 2019; self-critical training, Rennie et al. 2017, arXiv 1612.00563). Rewards need no gradient, so any tokenizer will
//! do. The cross-entropy of the step's true texts keeps the decoder's language.
//!
//! Texts are drawn from the vectors without noise, their lengths open, and learnt from as they were drawn: all texts of
//! one decoding are told the same.
#![allow(non_snake_case)]

use models::generate::{GenerateOptions, Generated, Strategy, generate};
use models::{Condition, Decoder, Embed as _, Vocabulary};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{Turn, unit};
use crate::Result;
use crate::batch::{Batch, MicroBatch};

/// Samples to learn from.
pub(crate) struct Samples {
    /// They as a part of the step.
    pub(crate) part: MicroBatch,
    /// (N) f32: factor on the gradient of each target's cross-entropy.
    pub(crate) weights_N: Tensor,
    /// Sums over the texts of the loss (1 - mean reward, at full weight) and of the mean reward, and their number, (3) f32.
    pub(crate) sums: Tensor,
}

impl Turn<'_> {
    /// Draws samples for this rank's texts; none where it has none, or where the loss is of another kind.
    pub(crate) fn samples(&self, decoder: &Decoder, batch: &Batch) -> Result<Option<Samples>> {
        if self.is_soft() {
            return Ok(None);
        }
        let (mut rows, mut vectors) = (Vec::new(), Vec::new());
        for (part, texts) in batch.parts.iter().zip(self.picked(batch)?) {
            for text in texts {
                rows.push(part.rows[text]);
                vectors.push(part.vectors().f_get(text as i64)?);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let v_BD = Tensor::f_stack(&vectors, 0)?;
        let drawn = generate(decoder, &v_BD, &self.sampling(batch, rows.len()))?;
        let rewards = self.rewards(&rows, &v_BD, &drawn)?;
        let samples = self.of.section.samples as f64;
        let scale = self.of.section.weight * self.scale(batch) / samples;
        let mut weights: Vec<f32> = Vec::new();
        for (texts, rewards) in drawn.iter().zip(&rewards) {
            for (text, advantage) in texts.iter().zip(advantages(rewards)) {
                let length = targets(text);
                weights.extend(std::iter::repeat_n((scale * advantage / length as f64) as f32, length));
            }
        }
        let means = rewards.iter().map(|rewards| rewards.iter().sum::<f64>() / rewards.len() as f64);
        let cosine: f64 = means.sum();
        let loss = self.of.section.weight * (rows.len() as f64 - cosine);
        Ok(Some(Samples {
            part: collate(decoder, &rows, &Condition::first(&v_BD), &drawn)?,
            weights_N: Tensor::f_from_slice(&weights)?,
            sums: Tensor::f_from_slice(&[loss as f32, cosine as f32, rows.len() as f32])?,
        }))
    }

    fn sampling(&self, batch: &Batch, texts: usize) -> GenerateOptions {
        let mut random = ChaCha8Rng::seed_from_u64(self.of.seed ^ self.step.rotate_left(32));
        // texts of other ranks have other draws
        random.set_stream(batch.first as u64);
        let samples = self.of.section.samples;
        let strategy = Strategy::Sample {
            temperature: self.of.section.temperature,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: random.next_u64(),
            samples,
        };
        let (max_tokens, batch) = (self.of.max_tokens, texts * samples);
        GenerateOptions { strategy, max_tokens, batch, ..GenerateOptions::default() }
    }

    /// Cosine of each sample with its target.
    fn rewards(&self, rows: &[u32], v_BD: &Tensor, drawn: &[Vec<Generated>]) -> Result<Vec<Vec<f64>>> {
        let mut rewards = vec![Vec::new(); rows.len()];
        for (_, encoder, group) in self.of.encoders.groups(rows) {
            let mut texts = Vec::new();
            for sample in group.iter().flat_map(|&text| &drawn[text]) {
                texts.push(text_of(&self.of.vocabulary, &sample.ids)?);
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let x_SD = unit(&encoder.embed(&texts)?)?;
            let targets: Vec<i64> =
                group.iter().flat_map(|&text| std::iter::repeat_n(text as i64, drawn[text].len())).collect();
            let wanted_BD = unit(&v_BD.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?)?;
            let wanted_SD = wanted_BD.f_index_select(0, &Tensor::f_from_slice(&targets)?)?;
            let cosines =
                x_SD.f_mul(&wanted_SD)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
            for (text, cosine) in targets.iter().zip(Vec::<f64>::try_from(cosines)?) {
                rewards[*text as usize].push(cosine);
            }
        }
        Ok(rewards)
    }
}

/// What each reward is more than the mean of the others. They sum to 0.
fn advantages(rewards: &[f64]) -> Vec<f64> {
    let (sum, others) = (rewards.iter().sum::<f64>(), rewards.len().saturating_sub(1).max(1) as f64);
    rewards.iter().map(|reward| reward - (sum - reward) / others).collect()
}

/// The text of drawn ids. The embedding may have more rows than there are tokens; such ids have no text.
fn text_of(vocabulary: &Vocabulary, ids: &[u32]) -> Result<String> {
    let known = |id: &u32| (*id as usize) < vocabulary.size();
    let ids: Vec<u32> = ids.iter().copied().filter(known).collect();
    Ok(vocabulary.decode(&ids)?)
}

/// Target tokens of a sample, EOS included where it came.
fn targets(text: &Generated) -> usize {
    text.ids.len() + usize::from(text.finished)
}

/// The samples of texts as one part of a step, under the condition that they were drawn under.
fn collate(
    decoder: &Decoder,
    rows: &[u32],
    condition: &Condition,
    drawn: &[Vec<Generated>],
) -> Result<MicroBatch> {
    let config = decoder.config();
    let all: Vec<(usize, &Generated)> =
        drawn.iter().enumerate().flat_map(|(text, drawn)| drawn.iter().map(move |one| (text, one))).collect();
    let width = all.iter().map(|(_, text)| targets(text)).max().unwrap_or(0);
    let mut inputs = vec![config.pad_token_id; all.len() * width];
    let (mut wanted, mut positions) = (Vec::new(), Vec::new());
    for (number, (_, text)) in all.iter().enumerate() {
        let (start, length) = (number * width, targets(text));
        let ids =
            text.ids.iter().map(|&id| i64::from(id)).chain(text.finished.then_some(config.eos_token_id));
        inputs[start] = config.bos_token_id;
        for (at, id) in ids.enumerate() {
            wanted.push(id);
            if at + 1 < length {
                inputs[start + at + 1] = id;
            }
        }
        positions.extend((start..start + length).map(|at| at as i64));
    }
    let of: Vec<i64> = all.iter().map(|(text, _)| *text as i64).collect();
    let of = Tensor::f_from_slice(&of)?.f_to_device(condition.v_BD.device())?;
    Ok(MicroBatch {
        rows: all.iter().map(|(text, _)| rows[*text]).collect(),
        condition: condition.select(&of)?,
        clean_BD: None,
        tokens_BT: Tensor::f_from_slice(&inputs)?.f_view([all.len() as i64, width as i64])?,
        positions_N: Some(Tensor::f_from_slice(&positions)?),
        targets_N: Tensor::f_from_slice(&wanted)?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_without_a_token_have_no_text() {
        let texts = ["A red ball lies in the garden.".to_owned()];
        let vocabulary = models::vocabulary::train_bpe(texts.into_iter(), 270).unwrap();
        let ids = vocabulary.encode("A red garden").unwrap();
        let beyond = vocabulary.size() as u32;
        let drawn = [&[beyond][..], &ids, &[beyond + 40]].concat();
        assert_eq!(text_of(&vocabulary, &drawn).unwrap(), vocabulary.decode(&ids).unwrap());
    }

    #[test]
    fn advantages_are_over_the_others_and_sum_to_nothing() {
        let found = advantages(&[0.9, 0.5, 0.4]);
        for (found, expected) in found.iter().zip([0.9 - 0.45, 0.5 - 0.65, 0.4 - 0.7]) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert!(found.iter().sum::<f64>().abs() < 1e-12);
        assert_eq!(advantages(&[0.3, 0.3]), [0.0, 0.0]);
    }
}
