//! Which checkpoints of a run may go.

/// The steps, among those `saved`, whose checkpoints are to be deleted: all but the last `keep_last` (at least one)
/// and those `kept` in any case, such as the best one and the one just written.
pub fn to_delete(saved: &[u64], keep_last: usize, kept: &[u64]) -> Vec<u64> {
    let mut steps = saved.to_vec();
    steps.sort_unstable();
    steps.dedup();
    let kept_from = steps.len().saturating_sub(keep_last.max(1));
    steps[..kept_from].iter().copied().filter(|step| !kept.contains(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_and_the_best_stay() {
        assert_eq!(to_delete(&[10, 20, 30, 40], 2, &[10]), [20]);
        assert_eq!(to_delete(&[40, 10, 30, 20], 2, &[40]), [10, 20]);
        assert_eq!(to_delete(&[10, 20], 5, &[]), [0u64; 0]);
        assert_eq!(to_delete(&[10, 20, 20], 0, &[]), [10], "one always stays");
        assert!(to_delete(&[], 3, &[5]).is_empty());
    }

    #[test]
    fn what_was_just_written_stays_before_higher_numbers() {
        assert_eq!(to_delete(&[4, 6, 8, 12], 2, &[6]), [4]);
    }
}
