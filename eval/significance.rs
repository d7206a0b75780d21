//! Is one decoder better than another on the same texts? Paired bootstrap resampling.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrap;
use crate::metrics::{Better, Metric, Statistics};

/// A difference between two lists of texts in one metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The metric; of the length ratio it is the distance from 1, `length_ratio_from_1`.
    pub metric: String,
    /// Whether less is better.
    pub lower_is_better: bool,
    /// Its score of the second minus that of the first.
    pub difference: f64,
    /// Where the difference would move with another sample of texts.
    pub interval: [f64; 2],
    /// Share of the resamples in which the difference has the other sign or is none, twice (two sides): Koehn 2004,
    /// "Statistical Significance Tests for Machine Translation Evaluation". Not below 2 / (resamples + 1).
    pub p: f64,
}

/// Texts below which nothing is said: resamples of a few texts are too much alike (of two that became better, all are).
pub const FEWEST: usize = 20;

/// The difference in every metric that both have; both are of the same references, row by row. None without resamples, and
/// of fewer than [`FEWEST`] texts.
pub fn differences(first: &Statistics, second: &Statistics, bootstrap: &Bootstrap) -> Vec<Difference> {
    let rows = first.len().min(second.len());
    if rows < FEWEST || bootstrap.resamples == 0 {
        return Vec::new();
    }
    let metrics: Vec<Metric> =
        first.metrics().iter().copied().filter(|metric| second.metrics().contains(metric)).collect();
    let of = |rows: &[usize]| -> Vec<f64> {
        let [a, b] = [first, second].map(|statistics| statistics.sums(rows.iter().copied()));
        let of = |metric: &Metric, sums: &[f64]| match (metric.better(), metric.value(sums, rows.len())) {
            (Better::NearerOne, value) => (value - 1.0).abs(),
            (_, value) => value,
        };
        metrics.iter().map(|metric| of(metric, &b) - of(metric, &a)).collect()
    };
    let all: Vec<usize> = (0..rows).collect();
    let observed = of(&all);
    let resampled: Vec<Vec<f64>> = (0..bootstrap.resamples as u64)
        .into_par_iter()
        .map(|resample| of(&bootstrap.draw(resample, rows).collect::<Vec<usize>>()))
        .collect();
    let difference = |(at, metric): (usize, &Metric)| {
        let turned = |values: &Vec<f64>| values[at] * observed[at] <= 0.0;
        let against = resampled.iter().filter(|values| turned(values)).count();
        let p = (2.0 * (against + 1) as f64 / (resampled.len() + 1) as f64).min(1.0);
        let interval = bootstrap.interval(resampled.iter().map(|values| values[at]));
        let lower_is_better = metric.better() != Better::Higher;
        let suffix = if metric.better() == Better::NearerOne { "_from_1" } else { "" };
        let metric = format!("{}{suffix}", metric.name());
        Difference { metric, lower_is_better, difference: observed[at], interval, p }
    };
    // a metric of facts that the texts have none of, or that some resample has none of
    let defined = |at: usize| resampled.iter().chain([&observed]).all(|values| values[at].is_finite());
    metrics.iter().enumerate().filter(|(at, _)| defined(*at)).map(difference).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn statistics(hypotheses: impl Fn(usize) -> String) -> Statistics {
        let references: Vec<String> =
            (0..60).map(|row| format!("a man sees {row} dogs on the road")).collect();
        let hypotheses: Vec<String> = (0..60).map(hypotheses).collect();
        Statistics::of(&references, &hypotheses, None)
    }

    #[test]
    fn a_clear_difference_is_clear_and_none_is_none() {
        let right = statistics(|row| format!("a man sees {row} dogs on the road"));
        let wrong = statistics(|row| {
            format!("a man sees {row} cats on the {}", if row % 3 == 0 { "road" } else { "sea" })
        });
        let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
        let found = differences(&wrong, &right, &bootstrap);
        let exact = found.iter().find(|of| of.metric == "exact_match").unwrap();
        assert_eq!(exact.difference, 1.0);
        assert!(exact.p < 0.02 && exact.interval == [1.0, 1.0]);
        let same = differences(&right, &right, &bootstrap);
        assert!(same.iter().all(|of| of.difference == 0.0 && of.p == 1.0));
        assert!(differences(&right, &right, &Bootstrap { resamples: 0, ..bootstrap }).is_empty());
        let few: Vec<usize> = (0..FEWEST - 1).collect();
        assert!(differences(&wrong.select(&few), &right.select(&few), &bootstrap).is_empty());
    }
}
