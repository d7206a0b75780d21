//! The best evaluation of a run.

use serde::{Deserialize, Serialize};

/// The best evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// What was measured: `dev_loss`, lower is better.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// The step of the evaluation.
    pub step: u64,
    /// Dev pairs that it was measured on, the first so many of one order; absent where that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<usize>,
}

impl Best {
    /// The better one of an earlier evaluation and one that gave `loss` on so many dev pairs at `step`. What was measured on
    /// another number of them does not compare, so that the new one takes its place. A loss that is no finite number is
    /// better than nothing at all no more than it is better than another.
    pub fn of(earlier: Option<Self>, loss: Option<f64>, pairs: usize, step: u64) -> Option<Self> {
        let compares = |best: &&Self| best.pairs.is_none_or(|of| of == pairs);
        let is_better = |loss: &f64| earlier.as_ref().filter(compares).is_none_or(|best| *loss < best.value);
        match loss.filter(|loss| loss.is_finite()).filter(is_better) {
            Some(value) => Some(Self { metric: "dev_loss".into(), value, step, pairs: Some(pairs) }),
            None => earlier,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_finite_loss_can_be_the_best() {
        assert_eq!(Best::of(None, Some(f64::NAN), 7, 1), None);
        assert_eq!(Best::of(None, Some(f64::INFINITY), 7, 1), None);
        let first = Best::of(None, Some(2.0), 7, 5);
        assert_eq!(first.as_ref().map(|best| (best.value, best.step)), Some((2.0, 5)));
        for loss in [None, Some(f64::NAN), Some(2.0), Some(3.0)] {
            assert_eq!(Best::of(first.clone(), loss, 7, 10), first);
        }
        assert_eq!(Best::of(first, Some(1.5), 7, 10).map(|best| best.step), Some(10));
    }

    #[test]
    fn losses_on_other_pairs_do_not_compare() {
        let first = Best::of(None, Some(2.0), 7, 5);
        let other = Best::of(first.clone(), Some(3.0), 9, 10).unwrap();
        assert_eq!((other.value, other.step, other.pairs), (3.0, 10, Some(9)));
        for loss in [None, Some(f64::NAN)] {
            assert_eq!(Best::of(first.clone(), loss, 9, 10), first, "nothing to take its place");
        }
        // one of before, which does not say
        let older: Best = serde_json::from_str(r#"{"metric": "dev_loss", "value": 2.0, "step": 5}"#).unwrap();
        assert_eq!(Best::of(Some(older.clone()), Some(3.0), 9, 10), Some(older.clone()));
        assert!(!serde_json::to_string(&older).unwrap().contains("pairs"));
    }
}
