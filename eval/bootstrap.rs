//! Bootstrap intervals: how far a score would move with another sample of texts of the same kind.
//!
//! Efron 1979; Koehn 2004, "Statistical significance tests for machine translation evaluation". Rows are drawn with
//! replacement, all metrics of a resample on the same rows; the interval is the percentile interval. Each resample
//! has its own stream of a seeded ChaCha generator, so the result is the same for any number of threads, and two
//! results over the same texts with one seed are resampled alike, which makes their differences paired.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Statistics;

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// Number of resamples; 0 leaves the intervals out.
    pub resamples: usize,
    /// Share of the resamples inside the interval.
    pub confidence: f64,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1000 resamples, 95 %, seed 0.
    fn default() -> Self {
        Bootstrap { resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// The interval `[low, high]` of each of the statistics' metrics, in their order; empty without resamples, and of a
    /// single row, which tells of no other. That of a metric which is not defined for some resample is not finite.
    pub fn intervals(&self, statistics: &Statistics) -> Vec<[f64; 2]> {
        if statistics.len() < 2 || self.resamples == 0 {
            return Vec::new();
        }
        let metrics = statistics.metrics();
        let resampled: Vec<Vec<f64>> = (0..self.resamples as u64)
            .into_par_iter()
            .map(|resample| {
                let sums = statistics.sums(self.draw(resample, statistics.len()));
                metrics.iter().map(|metric| metric.value(&sums, statistics.len())).collect()
            })
            .collect();
        (0..metrics.len()).map(|metric| self.finite(resampled.iter().map(|scores| scores[metric]))).collect()
    }

    /// The intervals of any scores of `rows` rows, which `scores` gives for the rows of a resample; `None` without
    /// resamples or of fewer than two rows. That of a score which is not finite in some resample is not finite.
    pub fn intervals_of<const N: usize>(
        &self,
        rows: usize,
        scores: impl Fn(&[usize]) -> [f64; N] + Sync,
    ) -> Option<[[f64; 2]; N]> {
        if rows < 2 || self.resamples == 0 {
            return None;
        }
        let one = |resample| scores(&self.draw(resample, rows).collect::<Vec<usize>>());
        let resampled: Vec<[f64; N]> = (0..self.resamples as u64).into_par_iter().map(one).collect();
        Some(std::array::from_fn(|at| self.finite(resampled.iter().map(|scores| scores[at]))))
    }

    /// The interval of a share of rows that have something, by Wilson's score (Wilson 1927), at 95 %: a resample of rows
    /// that are all alike has no spread, and none of 26 is not none at all. `None` without resamples or rows.
    pub fn share_interval(&self, share: f64, rows: usize) -> Option<[f64; 2]> {
        const Z: f64 = 1.959_963_985;
        if rows == 0 || self.resamples == 0 {
            return None;
        }
        let n = rows as f64;
        let middle = share + Z * Z / (2.0 * n);
        let half = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let whole = 1.0 + Z * Z / n;
        Some([((middle - half) / whole).max(0.0), ((middle + half) / whole).min(1.0)])
    }

    /// [`Bootstrap::interval`], not finite where some value is not: what is not defined is no low value.
    fn finite(&self, values: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
        if values.clone().any(|value| !value.is_finite()) { [f64::NAN; 2] } else { self.interval(values) }
    }

    /// The percentile interval of a score's resamples.
    pub(crate) fn interval(&self, values: impl Iterator<Item = f64>) -> [f64; 2] {
        let tail = (1.0 - self.confidence.clamp(0.0, 1.0)) / 2.0;
        let mut values: Vec<f64> = values.collect();
        values.sort_unstable_by(f64::total_cmp);
        [quantile(&values, tail), quantile(&values, 1.0 - tail)]
    }

    /// The rows of one resample: `rows` numbers below `rows`.
    pub(crate) fn draw(&self, resample: u64, rows: usize) -> impl Iterator<Item = usize> {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(resample);
        (0..rows).map(move |_| below(&mut generator, rows))
    }
}

/// A number below `bound`, by multiplication; its bias is below `bound / 2^64`.
pub(crate) fn below(generator: &mut ChaCha8Rng, bound: usize) -> usize {
    ((u128::from(generator.next_u64()) * bound as u128) >> 64) as usize
}

/// The quantile of sorted values, interpolated between neighbours (numpy's default).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let low = position.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.025), 7.0);
    }

    #[test]
    fn any_score_has_the_interval_of_its_resamples() {
        let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
        let numbers: Vec<f64> = (0..100).map(f64::from).collect();
        let mean = |rows: &[usize]| rows.iter().map(|&row| numbers[row]).sum::<f64>() / rows.len() as f64;
        let of = |rows: &[usize]| [mean(rows), f64::NAN, 7.0];
        let [[low, high], undefined, constant] = bootstrap.intervals_of(100, of).unwrap();
        assert!(low > 40.0 && low < 49.5 && high > 49.5 && high < 59.0, "{low} {high}");
        assert!(undefined[0].is_nan() && constant == [7.0, 7.0]);
        assert!(bootstrap.intervals_of(0, of).is_none() && bootstrap.intervals_of(1, of).is_none());
    }

    #[test]
    fn none_of_a_few_is_not_none_at_all() {
        // the formula in Python
        let bootstrap = Bootstrap::default();
        for (count, n, expected) in
            [(0, 26, [0.0, 0.128_729]), (5, 10, [0.236_593, 0.763_407]), (12, 12, [0.757_506, 1.0])]
        {
            let found = bootstrap.share_interval(f64::from(count) / f64::from(n), n as usize).unwrap();
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}");
        }
        assert!(bootstrap.share_interval(0.5, 0).is_none());
    }

    #[test]
    fn a_metric_that_some_resample_lacks_has_no_interval() {
        let texts = |list: [&str; 6]| list.map(str::to_owned).to_vec();
        // one text of six has a number
        let references = texts(["a dog", "a cat", "3 birds", "a fox", "a hen", "a cow"]);
        let statistics = Statistics::of(&references, &references, None);
        let intervals = Bootstrap::default().intervals(&statistics);
        let of = |metric| intervals[statistics.metrics().iter().position(|other| *other == metric).unwrap()];
        use crate::metrics::Metric;
        assert!(of(Metric::NumberRecall)[0].is_nan() && of(Metric::ExactMatch) == [1.0, 1.0]);
    }

    #[test]
    fn draws_are_fixed_and_within_bounds() {
        let bootstrap = Bootstrap { resamples: 2, ..Bootstrap::default() };
        let first: Vec<_> = bootstrap.draw(0, 50).collect();
        assert_eq!(first, bootstrap.draw(0, 50).collect::<Vec<_>>());
        assert_ne!(first, bootstrap.draw(1, 50).collect::<Vec<_>>());
        assert!(first.iter().all(|&row| row < 50));
    }
}
