//! Robustness: vectors with noise, from coarse storage, and between two texts.
#![allow(non_snake_case)]

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use rand_distr::{Distribution as _, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::journey::Traveller;
use super::scored::{Scored, scored};
use crate::bootstrap::Bootstrap;
use crate::metrics::{Metric, Statistics};
use crate::round_trip::{ENCODE_CHUNK, Progress, decode, embed};
use crate::score::cosines;
use crate::{Error, Result};

/// Standard deviations of the noise in each number of a vector.
pub const LEVELS: [f64; 6] = [0.001, 0.003, 0.01, 0.02, 0.03, 0.05];

/// What is done to vectors before they are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Perturbation {
    /// Nothing.
    None,
    /// Gaussian noise of this standard deviation in each number.
    Noise(f64),
    /// Rounding to f16.
    F16,
    /// Rounding to 8 bits, with a scale for each vector: its largest number is 127.
    Int8,
    /// This share of the way to the vector of the next text.
    Towards(f64),
}

impl std::fmt::Display for Perturbation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Noise(level) => write!(f, "noise {level}"),
            Self::F16 => f.write_str("f16"),
            Self::Int8 => f.write_str("int8"),
            Self::Towards(share) => write!(f, "{share} towards the next"),
        }
    }
}

impl Perturbation {
    /// Those of the suite, in the order of its report.
    pub fn all() -> Vec<Self> {
        let noise = LEVELS.into_iter().map(Self::Noise);
        let between = [0.1, 0.25, 0.5].map(Self::Towards);
        [Self::None, Self::F16, Self::Int8].into_iter().chain(noise).chain(between).collect()
    }

    /// Vectors (N, dim) after it, f32, of the lengths that they had.
    fn apply(self, v_ND: &Tensor, seed: u64) -> Result<Tensor> {
        let changed_ND = match self {
            Self::None => return Ok(v_ND.shallow_clone()),
            Self::Noise(level) => v_ND.f_add(&noise(&v_ND.size(), seed)?.f_mul_scalar(level)?)?,
            Self::F16 => v_ND.f_to_kind(Kind::Half)?.f_to_kind(Kind::Float)?,
            Self::Int8 => {
                let largest_N1 = v_ND.f_abs()?.f_amax([1].as_slice(), true)?.f_clamp_min(1e-12)?;
                let steps_N1 = largest_N1.f_div_scalar(127.0)?;
                v_ND.f_div(&steps_N1)?.f_round()?.f_mul(&steps_N1)?
            }
            Self::Towards(share) => {
                let next_ND = v_ND.f_roll([-1].as_slice(), [0].as_slice())?;
                v_ND.f_mul_scalar(1.0 - share)?.f_add(&next_ND.f_mul_scalar(share)?)?
            }
        };
        let length = |v: &Tensor| v.f_norm_scalaropt_dim(2.0, [1].as_slice(), true);
        Ok(changed_ND.f_mul(&length(v_ND)?.f_div(&length(&changed_ND)?.f_clamp_min(1e-12)?)?)?)
    }
}

/// Standard normal numbers, (N, dim), those of a row from a stream of its own.
fn noise(size: &[i64], seed: u64) -> Result<Tensor> {
    let [rows, dim] = [size[0], size[1]];
    let row = |row: i64| {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(row as u64);
        (0..dim).map(move |_| StandardNormal.sample(&mut generator)).collect::<Vec<f32>>()
    };
    let numbers: Vec<f32> = (0..rows).flat_map(row).collect();
    Ok(Tensor::f_from_slice(&numbers)?.f_view([rows, dim])?)
}

/// What came back of vectors that were changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Robust {
    /// What was done to them.
    pub perturbation: Perturbation,
    /// Mean cosine of the changed vectors to those of the texts.
    pub kept: f64,
    /// Corpus BLEU against the texts, 0 to 100.
    pub bleu: Scored,
    /// Token F1 against the texts.
    pub token_f1: Scored,
    /// Exact match with the texts.
    pub exact_match: Scored,
    /// Cosine of what came back to the texts' own vectors.
    pub cosine: Scored,
    /// The same to the changed vectors, which is what was asked for.
    pub cosine_to_changed: Scored,
    /// The same to the vectors of the next texts, where the change is towards these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine_to_next: Option<Scored>,
}

/// Those of some changes that can be made of so many texts: a single one has no next one.
pub fn possible(perturbations: &[Perturbation], texts: usize) -> Vec<Perturbation> {
    let can = |perturbation: &Perturbation| texts > 1 || !matches!(perturbation, Perturbation::Towards(_));
    perturbations.iter().copied().filter(can).collect()
}

/// Decodes changed vectors of texts, one result a change.
///
/// # Errors
/// [`Error::NoTexts`]; what the encoder or the decoder says.
pub fn robustness(
    traveller: &Traveller<'_>,
    texts: &[String],
    perturbations: &[Perturbation],
    bootstrap: &Bootstrap,
    progress: &mut Progress<'_>,
) -> Result<Vec<Robust>> {
    if texts.is_empty() {
        return Err(Error::NoTexts { what: "the texts of the robustness suite".into() });
    }
    let chunk = ENCODE_CHUNK * traveller.inverter.shares();
    let v_ND = embed(traveller.encoder, texts, chunk, "encode", progress)?.f_to_kind(Kind::Float)?;
    let next_ND = v_ND.f_roll([-1].as_slice(), [0].as_slice())?;
    let mut results = Vec::with_capacity(perturbations.len());
    for &perturbation in perturbations {
        let changed_ND = perturbation.apply(&v_ND, bootstrap.seed)?;
        let inverted = decode(traveller.inverter, &changed_ND, traveller.generate, progress)?;
        let decoded: Vec<String> = inverted.into_iter().map(|text| text.text).collect();
        let again_ND = embed(traveller.encoder, &decoded, chunk, "reencode", progress)?;
        let own = cosines(&v_ND, &again_ND)?;
        let changed = cosines(&changed_ND, &again_ND)?;
        let next = cosines(&next_ND, &again_ND)?;
        let statistics = Statistics::of(texts, &decoded, Some(&own));
        let of = |rows: &[usize]| {
            let sums = statistics.sums(rows.iter().copied());
            let score = |metric: Metric| metric.value(&sums, rows.len());
            let mean =
                |list: &[f64]| rows.iter().map(|&row| list[row]).sum::<f64>() / rows.len().max(1) as f64;
            let [bleu, f1] = [Metric::Bleu, Metric::TokenF1].map(score);
            [bleu, f1, score(Metric::ExactMatch), mean(&own), mean(&changed), mean(&next)]
        };
        let [bleu, token_f1, exact_match, cosine, cosine_to_changed, to_next] =
            scored(texts.len(), bootstrap, of);
        let kept = cosines(&v_ND, &changed_ND)?;
        results.push(Robust {
            perturbation,
            kept: kept.iter().sum::<f64>() / kept.len() as f64,
            bleu,
            token_f1,
            exact_match: exact_match.as_share_of(texts.len(), bootstrap),
            cosine,
            cosine_to_changed,
            cosine_to_next: matches!(perturbation, Perturbation::Towards(_)).then_some(to_next),
        });
    }
    Ok(results)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unit(rows: i64) -> Tensor {
        let v = noise(&[rows, 384], 7).unwrap();
        &v / v.norm_scalaropt_dim(2.0, [1].as_slice(), true)
    }

    fn kept(perturbation: Perturbation) -> f64 {
        let v_ND = unit(20);
        let changed = perturbation.apply(&v_ND, 0).unwrap();
        let lengths: Vec<f32> = changed.norm_scalaropt_dim(2.0, [1].as_slice(), false).try_into().unwrap();
        assert!(lengths.iter().all(|length| (length - 1.0).abs() < 1e-5));
        let kept = cosines(&v_ND, &changed).unwrap();
        kept.iter().sum::<f64>() / 20.0
    }

    #[test]
    fn noise_has_the_cosine_that_its_level_says() {
        // |noise|^2 = 384 level^2, at right angles to the vector
        for level in [0.01, 0.05] {
            let said = 1.0 / (1.0f64 + 384.0 * level * level).sqrt();
            assert!((kept(Perturbation::Noise(level)) - said).abs() < 0.01);
        }
        assert!(kept(Perturbation::F16) > 0.99999 && kept(Perturbation::Int8) > 0.999);
        assert!((kept(Perturbation::Towards(0.5)) - 0.5f64.sqrt()).abs() < 0.02);
    }

    #[test]
    fn a_single_text_has_no_next_one() {
        let all = Perturbation::all();
        assert_eq!(possible(&all, 2), all);
        let alone = possible(&all, 1);
        assert_eq!(alone.len(), all.len() - 3);
        assert!(!alone.iter().any(|change| matches!(change, Perturbation::Towards(_))));
    }

    #[test]
    fn the_noise_of_a_row_is_its_own() {
        let (few, many) = (noise(&[2, 5], 3).unwrap(), noise(&[9, 5], 3).unwrap());
        assert!(few.equal(&many.narrow(0, 0, 2)));
    }
}
