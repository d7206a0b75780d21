//! What a pair set holds, in numbers and in a few rows.

use std::collections::BTreeMap;

use models::Space;
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::config::Storage;
use super::manifest::{CosineLoss, Counts, Flow};
use super::pair_set::PairSet;
use crate::Result;
use crate::curation::Split;

/// Rows looked at for lengths in words and norms; a larger set is sampled evenly.
const ROWS_MEASURED: usize = 100_000;

/// A row, for the eye.
#[derive(Clone, Debug, Serialize)]
pub struct SampleRow {
    /// Number of the row.
    pub row: usize,
    /// Its text.
    pub text: String,
    /// The corpus that it came from.
    pub source: String,
    /// Its domain.
    pub domain: String,
    /// Its split.
    pub split: Split,
    /// Name of the prompt that its vector was made under.
    pub prompt: String,
    /// The first numbers of its vector.
    pub vector_head: Vec<f32>,
    /// Length of its vector.
    pub norm: f64,
}

/// Quantiles of a distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Values measured.
    pub n: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// The least value.
    pub min: f64,
    /// The median: the least value that half of the values do not exceed; the same with 90, 99 hundredths below.
    pub p50: f64,
    /// See `p50`.
    pub p90: f64,
    /// See `p50`.
    pub p99: f64,
    /// The largest value.
    pub max: f64,
}

impl Distribution {
    /// Of values with their frequencies, in ascending order.
    fn of(sorted: &[(f64, u64)]) -> Distribution {
        let n: u64 = sorted.iter().map(|(_, count)| count).sum();
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
            return Distribution::default();
        };
        let quantile = |hundredths: u64| {
            let rank = (n * hundredths).div_ceil(100).max(1);
            let mut seen = 0;
            let reached = |&&(_, count): &&(f64, u64)| {
                seen += count;
                seen >= rank
            };
            sorted.iter().find(reached).unwrap_or(last).0
        };
        let mean = sorted.iter().map(|(value, count)| value * *count as f64).sum::<f64>() / n as f64;
        Distribution {
            n,
            mean,
            min: first.0,
            p50: quantile(50),
            p90: quantile(90),
            p99: quantile(99),
            max: last.0,
        }
    }

    fn of_values(mut values: Vec<f64>) -> Distribution {
        values.sort_unstable_by(f64::total_cmp);
        let weighted: Vec<(f64, u64)> = values.into_iter().map(|value| (value, 1)).collect();
        Distribution::of(&weighted)
    }
}

/// What `pairs inspect` tells.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Pairs in the set.
    pub pairs: u64,
    /// Numbers in a vector.
    pub dim: usize,
    /// How they are stored.
    pub storage: Storage,
    /// What half precision cost.
    pub cosine_loss: Option<CosineLoss>,
    /// Shards, and their bytes on disk.
    pub shards: usize,
    /// Bytes of all shards.
    pub bytes: u64,
    /// The space of the vectors, with the texts of all prompts.
    pub space: Space,
    /// Pairs by split, domain, source, prompt and length in tokens.
    pub counts: Counts,
    /// What was read and dropped.
    pub flow: Flow,
    /// Lengths in the encoder's tokens, of all pairs, each under the prompt that makes it longest.
    pub tokens: Distribution,
    /// Lengths in words between white space, of the rows measured.
    pub words: Distribution,
    /// Norms of the vectors, of the rows measured.
    pub norms: Distribution,
    /// Rows chosen at random.
    pub samples: Vec<SampleRow>,
}

/// Looks through a pair set: totals from its manifest, words and norms from at most 100,000 rows spread evenly, and
/// `samples` rows that `seed` chooses, in ascending order.
///
/// # Errors
/// A damaged shard.
pub fn inspect(set: &PairSet, samples: usize, seed: u64) -> Result<Inspection> {
    let manifest = set.manifest();
    let tokens: Vec<(f64, u64)> =
        manifest.counts.tokens.iter().map(|(&length, &count)| (f64::from(length), count)).collect();
    let (words, norms) = measure(set);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = index::sample(&mut rng, set.len(), samples.min(set.len())).into_vec();
    rows.sort_unstable();
    Ok(Inspection {
        pairs: manifest.pairs,
        dim: manifest.dim,
        storage: manifest.storage,
        cosine_loss: manifest.cosine_loss,
        shards: manifest.shards.len(),
        bytes: manifest.shards.iter().map(|shard| shard.bytes).sum(),
        space: manifest.space.clone(),
        counts: manifest.counts.clone(),
        flow: manifest.flow.clone(),
        tokens: Distribution::of(&tokens),
        words,
        norms,
        samples: rows.into_iter().map(|row| sample(set, row)).collect::<Result<_>>()?,
    })
}

fn measure(set: &PairSet) -> (Distribution, Distribution) {
    let measured = set.len().min(ROWS_MEASURED);
    let mut words: BTreeMap<u64, u64> = BTreeMap::new();
    let mut norms = Vec::with_capacity(measured);
    let mut vector = vec![0.0; set.dim()];
    for i in 0..measured {
        let row = (i as u128 * set.len() as u128 / measured as u128) as usize;
        *words.entry(set.text(row).split_whitespace().count() as u64).or_default() += 1;
        set.vector_into(row, &mut vector);
        norms.push(norm(&vector));
    }
    let words: Vec<(f64, u64)> = words.into_iter().map(|(length, count)| (length as f64, count)).collect();
    (Distribution::of(&words), Distribution::of_values(norms))
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

fn sample(set: &PairSet, row: usize) -> Result<SampleRow> {
    const HEAD: usize = 4;
    let vector = set.vector(row);
    Ok(SampleRow {
        row,
        text: set.text(row).to_owned(),
        source: set.source(row).to_owned(),
        domain: set.domain(row).to_owned(),
        split: set.split(row)?,
        prompt: set.prompt(row).to_owned(),
        vector_head: vector.iter().take(HEAD).copied().collect(),
        norm: norm(&vector),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_count_every_value() {
        let spread = Distribution::of(&[(1.0, 89), (2.0, 9), (7.0, 1), (50.0, 1)]);
        assert_eq!((spread.n, spread.min, spread.max), (100, 1.0, 50.0));
        assert_eq!((spread.p50, spread.p90, spread.p99), (1.0, 2.0, 7.0));
        assert!((spread.mean - 1.64).abs() < 1e-12);
        assert_eq!(Distribution::of(&[]), Distribution::default());
    }
}
