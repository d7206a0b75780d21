//! A number with the interval that another sample would move it in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrap;

/// A score; none where it is not defined, such as the correlation of what does not vary.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Scored {
    /// The score of all rows.
    pub value: Option<f64>,
    /// Its bootstrap interval; none without resamples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
}

impl Scored {
    /// With the interval of a share of so many rows: [`Bootstrap::share_interval`].
    pub(super) fn as_share_of(self, rows: usize, bootstrap: &Bootstrap) -> Self {
        let interval = self.value.and_then(|share| bootstrap.share_interval(share, rows));
        Self { interval, ..self }
    }
}

/// Scores of `rows` rows with their intervals. `scores` gives them for any choice of rows, NaN where one is not defined;
/// all scores of a resample are of the same rows, so that differences are paired.
pub fn scored<const N: usize>(
    rows: usize,
    bootstrap: &Bootstrap,
    scores: impl Fn(&[usize]) -> [f64; N] + Sync,
) -> [Scored; N] {
    let all: Vec<usize> = (0..rows).collect();
    let values = scores(&all);
    let intervals = bootstrap.intervals_of(rows, &scores);
    std::array::from_fn(|at| Scored {
        value: values[at].is_finite().then_some(values[at]),
        interval: intervals
            .as_ref()
            .map(|intervals| intervals[at])
            .filter(|[low, high]| (low + high).is_finite()),
    })
}
