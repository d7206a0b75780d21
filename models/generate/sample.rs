//! Sampling with temperature, top-k, top-p and min-p.
#![allow(non_snake_case)]

use super::{Choose, Strategy};
use crate::Result;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

/// What the distribution is cut to before a token is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cuts {
    temperature: f64,
    top_k: Option<i64>,
    top_p: Option<f64>,
    min_p: Option<f64>,
}

impl Cuts {
    /// Those of a strategy that samples.
    pub(super) fn of(strategy: &Strategy) -> Option<Self> {
        let Strategy::Sample { temperature, top_k, top_p, min_p, .. } = *strategy else { return None };
        Some(Self { temperature, top_k, top_p, min_p })
    }

    /// Logits with -inf where a token is cut off.
    fn cut(&self, logits_RV: &Tensor) -> Result<Tensor> {
        let mut logits_RV = logits_RV.f_div_scalar(self.temperature)?;
        if let Some(k) = self.top_k {
            logits_RV = top_k(&logits_RV, k)?;
        }
        if let Some(p) = self.top_p.filter(|&p| p < 1.0) {
            logits_RV = top_p(&logits_RV, p)?;
        }
        if let Some(p) = self.min_p {
            logits_RV = min_p(&logits_RV, p)?;
        }
        Ok(logits_RV)
    }

    /// A token for each row of (R, V) logits by the inverse of the cumulative distribution: one uniform number a row.
    pub(super) fn draw(&self, logits_RV: &Tensor, uniform_R: &[f64]) -> Result<Tensor> {
        let cumulative_RV = self.cut(logits_RV)?.f_softmax(-1, Kind::Double)?.f_cumsum(1, Kind::Double)?;
        let last = cumulative_RV.size()[1] - 1;
        let uniform_R1 = Tensor::f_from_slice(uniform_R)?.f_to_device(logits_RV.device())?.f_unsqueeze(1)?;
        let target_R1 = uniform_R1.f_mul(&cumulative_RV.f_select(1, last)?.f_unsqueeze(1)?)?;
        // the first token whose cumulative probability exceeds the target: tokens cut off have no width
        let index_R =
            cumulative_RV.f_le_tensor(&target_R1)?.f_sum_dim_intlist([1].as_slice(), false, Kind::Int64)?;
        Ok(index_R.f_clamp_max(last)?)
    }
}

/// Cuts and draws; one random stream a row.
pub(super) struct Sampler {
    cuts: Cuts,
    streams: Vec<ChaCha8Rng>,
}

impl Sampler {
    /// For the rows of a chunk of vectors with these numbers. Strategies other than sampling draw from the whole
    /// distribution.
    pub(super) fn new(strategy: &Strategy, numbers: impl Iterator<Item = u64>) -> Self {
        let whole = Cuts { temperature: 1.0, top_k: None, top_p: None, min_p: None };
        let mut streams = Vec::new();
        if let Strategy::Sample { seed, samples, .. } = *strategy {
            let rows = numbers.flat_map(|v| (0..samples as u64).map(move |s| (v, s)));
            streams = rows.map(|(vector, sample)| stream(seed, vector, sample)).collect();
        }
        Self { cuts: Cuts::of(strategy).unwrap_or(whole), streams }
    }
}

impl Choose for Sampler {
    fn choose(&mut self, logits_RV: &Tensor, rows: &[usize]) -> Result<Tensor> {
        let uniform_R: Vec<f64> = rows.iter().map(|&row| uniform(&mut self.streams[row])).collect();
        self.cuts.draw(logits_RV, &uniform_R)
    }
}

/// The next number of a stream, 53 bits in [0, 1).
pub(super) fn uniform(stream: &mut ChaCha8Rng) -> f64 {
    (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The random numbers of one sample of one vector.
pub(super) fn stream(seed: u64, vector: u64, sample: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    for part in [seed, vector, sample] {
        hasher.update(&part.to_le_bytes());
    }
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

fn drop_where(logits_RV: &Tensor, dropped_RV: &Tensor) -> Result<Tensor> {
    Ok(logits_RV.f_masked_fill(dropped_RV, f64::NEG_INFINITY)?)
}

/// transformers' `TopKLogitsWarper`: drops what is below the k-th highest.
fn top_k(logits_RV: &Tensor, k: i64) -> Result<Tensor> {
    let (highest_RK, _) = logits_RV.f_topk(k.min(logits_RV.size()[1]), 1, true, true)?;
    let kth_R1 = highest_RK.f_select(1, -1)?.f_unsqueeze(1)?;
    drop_where(logits_RV, &logits_RV.f_lt_tensor(&kth_R1)?)
}

/// transformers' `TopPLogitsWarper`: sorted upwards, drops tokens while the sum so far is at most 1 - p; the highest
/// always stays.
fn top_p(logits_RV: &Tensor, p: f64) -> Result<Tensor> {
    let (sorted_RV, order_RV) = logits_RV.f_sort(1, false)?;
    let cumulative_RV = sorted_RV.f_softmax(-1, Kind::Float)?.f_cumsum(1, Kind::Float)?;
    let dropped_RV = cumulative_RV.f_le(1.0 - p)?;
    let width = dropped_RV.size()[1];
    let _ = dropped_RV.f_narrow(1, width - 1, 1)?.f_fill_(0)?;
    drop_where(logits_RV, &dropped_RV.f_scatter(1, &order_RV, &dropped_RV)?)
}

/// transformers' `MinPLogitsWarper`: drops tokens below p times the highest probability.
fn min_p(logits_RV: &Tensor, p: f64) -> Result<Tensor> {
    let probabilities_RV = logits_RV.f_softmax(-1, Kind::Float)?;
    let bound_R1 = probabilities_RV.f_amax([1].as_slice(), true)?.f_mul_scalar(p)?;
    drop_where(logits_RV, &probabilities_RV.f_lt_tensor(&bound_R1)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn kept(logits_RV: &Tensor) -> Vec<bool> {
        Vec::try_from(logits_RV.isfinite().view([-1])).unwrap()
    }

    #[test]
    fn cuts_keep_what_their_definitions_say() {
        // probabilities 0.5, 0.3, 0.15, 0.05
        let logits = Tensor::from_slice(&[0.15f32, 0.5, 0.05, 0.3]).log().unsqueeze(0);
        assert_eq!(kept(&top_k(&logits, 2).unwrap()), [false, true, false, true]);
        assert_eq!(kept(&top_k(&logits, 9).unwrap()), [true; 4]);
        assert_eq!(kept(&top_p(&logits, 0.7).unwrap()), [false, true, false, true]);
        assert_eq!(kept(&top_p(&logits, 0.4).unwrap()), [false, true, false, false]);
        assert_eq!(kept(&top_p(&logits, 1e-9).unwrap()), [false, true, false, false]);
        assert_eq!(kept(&min_p(&logits, 0.2).unwrap()), [true, true, false, true]);
        assert_eq!(kept(&min_p(&logits, 1.0).unwrap()), [false, true, false, false]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_row_alone() {
        let logits = Tensor::from_slice(&[0.15f32, 0.5, 0.05, 0.3]).log().unsqueeze(0).repeat([4000, 1]);
        let strategy = Strategy::Sample {
            temperature: 1.0,
            top_k: Some(3),
            top_p: None,
            min_p: None,
            seed: 7,
            samples: 1,
        };
        let rows: Vec<usize> = (0..4000).collect();
        let all: Vec<i64> =
            Sampler::new(&strategy, 0..4000).choose(&logits, &rows).unwrap().try_into().unwrap();
        let share = |token| all.iter().filter(|&&t| t == token).count() as f64 / 4000.0;
        for (token, expected) in [(0, 0.15 / 0.95), (1, 0.5 / 0.95), (2, 0.0), (3, 0.3 / 0.95)] {
            assert!((share(token) - expected).abs() < 0.035, "{token}: {} {expected}", share(token));
        }
        // vectors 1000.. as a chunk of their own draw the same
        let tail: Vec<i64> = Sampler::new(&strategy, 1000..4000)
            .choose(&logits.narrow(0, 0, 3000), &rows[..3000])
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!(tail, all[1000..]);
    }
}
