//! What is done to the target vectors of a training, and told of them: noise, so that vectors which come from another
//! model, or from coarse storage, still decode; targets that are withheld, for guidance; lengths that are told. And to its
//! texts: words that the decoder does not get to see.
#![allow(non_snake_case)]

use models::Condition;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::recipe::{NoiseSection, RefinementSection, TrainingSection};

/// What a recipe says of noise, with what it is drawn from.
#[derive(Debug, Clone)]
pub struct Noise {
    section: NoiseSection,
    seed: u64,
    /// Whether vectors have length 1, and keep it.
    unit: bool,
    /// Share of the texts whose length is told.
    length_told: f64,
    /// Share of a text's tokens that are hidden.
    word_dropout: f64,
}

impl Noise {
    /// For vectors that have length 1 where `unit` says so. What is drawn follows from the training's seed, the step and the
    /// text.
    pub fn new(section: &NoiseSection, training: &TrainingSection, unit: bool) -> Self {
        let TrainingSection { seed, length_told, word_dropout, .. } = *training;
        Self { section: section.clone(), seed, unit, length_told, word_dropout }
    }

    /// Whether vectors are changed.
    pub fn perturbs(&self) -> bool {
        self.section.share > 0.0
    }

    /// Puts `instead` in the place of some of a text's tokens at a step.
    pub fn hide_words(&self, step: u64, text: u32, tokens: &mut [i64], instead: i64) {
        if self.word_dropout == 0.0 {
            return;
        }
        let mut random = self.stream(WORDS, step, text);
        for token in tokens {
            if uniform(&mut random) < self.word_dropout {
                *token = instead;
            }
        }
    }

    /// Tells the lengths of some texts at a step: `lengths` are their tokens, EOS not counted.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn tell_lengths(
        &self,
        condition: Condition,
        step: u64,
        texts: &[u32],
        lengths: &[usize],
    ) -> Result<Condition> {
        if self.length_told == 0.0 {
            return Ok(condition);
        }
        let told = |(&text, &length): (&u32, &usize)| {
            let is_told = uniform(&mut self.stream(LENGTHS, step, text)) < self.length_told;
            if is_told { length as f32 } else { 0.0 }
        };
        let told: Vec<f32> = texts.iter().zip(lengths).map(told).collect();
        Ok(Condition { length_B: Some(Tensor::f_from_slice(&told)?), ..condition })
    }

    /// The condition of some texts (their numbers) at a step, its targets perturbed, its levels and what is withheld
    /// said. Without noise in the recipe nothing changes.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn add(&self, condition: Condition, step: u64, texts: &[u32]) -> Result<Condition> {
        let NoiseSection { share, withheld, .. } = self.section;
        if share == 0.0 && withheld == 0.0 {
            return Ok(condition);
        }
        let size = condition.v_BD.size();
        let mut numbers = Vec::<f32>::try_from(condition.v_BD.f_contiguous()?.f_view([-1])?)?;
        let (mut levels, mut hidden) = (Vec::new(), Vec::new());
        let dim = (size[1] as usize).max(1);
        for (row, &text) in numbers.chunks_mut(dim).zip(texts) {
            let mut random = self.stream(NOISE, step, text);
            let level = self.level(&mut random);
            hidden.push(uniform(&mut random) < withheld);
            levels.push(level as f32);
            if level > 0.0 {
                perturb(row, level, self.unit, &mut random);
            }
        }
        let v_BD = Tensor::f_from_slice(&numbers)?.f_view(size.as_slice())?;
        let noise_B = if share > 0.0 { Some(Tensor::f_from_slice(&levels)?) } else { None };
        let mut withheld_B = None;
        if withheld > 0.0 {
            let bytes: Vec<u8> = hidden.iter().map(|&is| u8::from(is)).collect();
            withheld_B = Some(Tensor::f_from_slice(&bytes)?.f_to_kind(Kind::Bool)?);
        }
        Ok(Condition { v_BD: v_BD.f_to_device(Device::Cpu)?, noise_B, withheld_B, ..condition })
    }

    /// Standard deviation of the noise in each number: 0 for a clean vector, else its logarithm is uniform.
    fn level(&self, random: &mut ChaCha8Rng) -> f64 {
        let NoiseSection { share, lowest, highest, .. } = self.section;
        let (is_noisy, place) = (uniform(random) < share, uniform(random));
        if is_noisy { lowest * (highest / lowest).powf(place) } else { 0.0 }
    }

    fn stream(&self, what: u64, step: u64, text: u32) -> ChaCha8Rng {
        stream(what, self.seed, step, text)
    }
}

fn stream(what: u64, seed: u64, step: u64, text: u32) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    for part in [what, seed, step, u64::from(text)] {
        hasher.update(&part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// Leads a share `astray` of vectors (N, dim) f32 away from where they are, each to a cosine of its own, uniform between
/// `cosine` and 1, in a random direction; their lengths stay. What is drawn follows from `seed`, the step and the text.
///
/// # Errors
/// libtorch's own.
pub(crate) fn lead_astray(
    v_ND: &Tensor,
    texts: &[u32],
    section: &RefinementSection,
    seed: u64,
    step: u64,
) -> Result<Tensor> {
    let RefinementSection { astray, astray_cosine, .. } = *section;
    let size = v_ND.size();
    let dim = (size[1] as usize).max(1);
    let mut numbers = Vec::<f32>::try_from(v_ND.f_contiguous()?.f_view([-1])?)?;
    for (row, &text) in numbers.chunks_mut(dim).zip(texts) {
        let mut random = stream(ASTRAY, seed, step, text);
        let (is_led, place) = (uniform(&mut random) < astray, uniform(&mut random));
        if is_led {
            let length = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
            let cosine = astray_cosine + (1.0 - astray_cosine) * place;
            // noise of this level is nearly at right angles to the vector
            let level = length * ((1.0 / (cosine * cosine) - 1.0) / dim as f64).sqrt();
            perturb(row, level, true, &mut random);
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * length) as f32);
        }
    }
    Ok(Tensor::f_from_slice(&numbers)?.f_view(size.as_slice())?)
}

/// What random numbers are for: each use has its own.
const NOISE: u64 = 0;
const LENGTHS: u64 = 1;
const ASTRAY: u64 = 2;
const WORDS: u64 = 3;

fn uniform(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn perturb(row: &mut [f32], level: f64, unit: bool, random: &mut ChaCha8Rng) {
    for number in row.iter_mut() {
        let noise: f64 = StandardNormal.sample(random);
        *number += (level * noise) as f32;
    }
    if unit {
        let norm = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn section() -> NoiseSection {
        NoiseSection { share: 0.6, lowest: 1e-3, highest: 1e-1, withheld: 0.2 }
    }

    fn noisy(section: &NoiseSection, step: u64, texts: &[u32]) -> Condition {
        let one_BD = Tensor::eye(64, (Kind::Float, Device::Cpu)).narrow(0, 0, 1);
        let v_BD = one_BD.expand([texts.len() as i64, 64], false);
        of(section, 0.0).add(Condition::first(&v_BD), step, texts).unwrap()
    }

    fn of(section: &NoiseSection, length_told: f64) -> Noise {
        Noise::new(section, &TrainingSection { seed: 7, length_told, ..TrainingSection::default() }, true)
    }

    fn floats(tensor: &Tensor) -> Vec<f64> {
        tensor.to_kind(Kind::Double).view([-1]).try_into().unwrap()
    }

    #[test]
    fn vectors_are_led_as_far_astray_as_is_said() {
        let texts: Vec<u32> = (0..2000).collect();
        let v_ND =
            Tensor::eye(256, (Kind::Float, Device::Cpu)).narrow(0, 0, 1).expand([2000, 256], false) * 3.0;
        let section = RefinementSection { astray: 0.5, astray_cosine: 0.6, ..RefinementSection::default() };
        let led = |texts: &[u32], step| {
            lead_astray(&v_ND.narrow(0, 0, texts.len() as i64), texts, &section, 5, step).unwrap()
        };
        let found = led(&texts, 3);
        let lengths = floats(&found.norm_scalaropt_dim(2.0, [1].as_slice(), false));
        assert!(lengths.iter().all(|length| (length - 3.0).abs() < 1e-4));
        let cosines = floats(&Tensor::cosine_similarity(&found, &v_ND, 1, 1e-9));
        let away: Vec<f64> = cosines.iter().copied().filter(|cosine| *cosine < 0.999_999).collect();
        assert!((away.len() as f64 / 2000.0 - 0.5).abs() < 0.04);
        assert!((away.iter().sum::<f64>() / away.len() as f64 - 0.8).abs() < 0.02);
        assert!(away.iter().all(|cosine| *cosine > 0.5));
        // each text by itself, and otherwise at another step
        assert!(led(&texts[7..9], 3).equal(&found.narrow(0, 7, 2)));
        assert!(!led(&texts, 4).equal(&found));
    }

    #[test]
    fn levels_and_noise_are_what_the_recipe_says() {
        let texts: Vec<u32> = (0..4000).collect();
        let found = noisy(&section(), 3, &texts);
        let levels = floats(found.noise_B.as_ref().unwrap());
        let loud: Vec<f64> = levels.iter().copied().filter(|&level| level > 0.0).collect();
        assert!((loud.len() as f64 / 4000.0 - 0.6).abs() < 0.03);
        assert!(loud.iter().all(|level| (1e-3..=0.1001).contains(level)));
        // the logarithm is uniform: half of them lie below its middle
        assert!(
            (loud.iter().filter(|&&level| level < 1e-2).count() as f64 / loud.len() as f64 - 0.5).abs()
                < 0.03
        );
        let hidden = floats(found.withheld_B.as_ref().unwrap()).iter().sum::<f64>() / 4000.0;
        assert!((hidden - 0.2).abs() < 0.03, "{hidden}");
        // unit vectors stay so, clean ones stay themselves, and noise of level s turns one by about s sqrt(64)
        let cosines = floats(&found.v_BD.select(1, 0));
        let lengths = floats(&found.v_BD.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Double));
        assert!(lengths.iter().all(|length| (length - 1.0).abs() < 1e-5));
        for (cosine, level) in cosines.iter().zip(&levels) {
            let expected = 1.0 / (1.0 + level * level * 63.0).sqrt();
            assert!((cosine - expected).abs() < 0.3 * (level * 8.0) + 1e-6, "{cosine} {expected} {level}");
        }
    }

    #[test]
    fn lengths_are_told_of_the_share_asked_for() {
        let noise = of(&NoiseSection::default(), 0.25);
        let texts: Vec<u32> = (0..4000).collect();
        let lengths: Vec<usize> = (0..4000).map(|text| 3 + text % 50).collect();
        let condition = Condition::first(&Tensor::zeros([4000, 2], (Kind::Float, Device::Cpu)));
        let told = noise.tell_lengths(condition, 3, &texts, &lengths).unwrap();
        let told = floats(told.length_B.as_ref().unwrap());
        assert!(told.iter().zip(&lengths).all(|(&told, &length)| told == 0.0 || told == length as f64));
        let share = told.iter().filter(|&&told| told > 0.0).count() as f64 / 4000.0;
        assert!((share - 0.25).abs() < 0.03, "{share}");
    }

    #[test]
    fn words_are_hidden_by_step_and_text() {
        let training = TrainingSection { seed: 7, word_dropout: 0.3, ..TrainingSection::default() };
        let noise = Noise::new(&NoiseSection::default(), &training, true);
        let hidden = |step, text| {
            let mut tokens: Vec<i64> = (10..2010).collect();
            noise.hide_words(step, text, &mut tokens, 1);
            tokens
        };
        let found = hidden(3, 5);
        assert!(found.iter().zip(10i64..).all(|(&token, was)| token == 1 || token == was));
        let share = found.iter().filter(|&&token| token == 1).count() as f64 / 2000.0;
        assert!((share - 0.3).abs() < 0.04, "{share}");
        assert_eq!(hidden(3, 5), found);
        assert!(hidden(4, 5) != found && hidden(3, 6) != found);
        let mut tokens = [10, 11, 12];
        of(&NoiseSection::default(), 0.0).hide_words(3, 5, &mut tokens, 1);
        assert_eq!(tokens, [10, 11, 12]);
    }

    #[test]
    fn noise_follows_from_step_and_text_alone() {
        let all = noisy(&section(), 3, &[5, 6, 7, 8]);
        let some = noisy(&section(), 3, &[8, 6]);
        let rows = Tensor::from_slice(&[3i64, 1]);
        assert_eq!(floats(&all.v_BD.index_select(0, &rows)), floats(&some.v_BD));
        assert_ne!(floats(&noisy(&section(), 4, &[5, 6, 7, 8]).v_BD), floats(&all.v_BD));
        let clean = noisy(&NoiseSection::default(), 3, &[5, 6]);
        assert!(clean.noise_B.is_none() && clean.withheld_B.is_none());
        assert!(floats(&clean.v_BD.select(1, 0)).iter().all(|&x| x == 1.0));
    }
}
