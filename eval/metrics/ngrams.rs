//! Counting the n-grams that two sequences share.

/// Occurrences of n-grams of one order: in the hypothesis, in the reference, and in both (each n-gram counted at
/// most as often as it occurs in the other sequence).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Overlap {
    pub(crate) hypothesis: usize,
    pub(crate) reference: usize,
    pub(crate) matched: usize,
}

/// The overlap of n-grams of `order` items, each item a number below `2^bits`; `order * bits` is at most 128, so that
/// an n-gram is one integer and the count is exact.
pub(crate) fn overlap(hypothesis: &[u32], reference: &[u32], order: usize, bits: u32) -> Overlap {
    debug_assert!(order as u32 * bits <= u128::BITS);
    let (hypothesis, reference) = (sorted(hypothesis, order, bits), sorted(reference, order, bits));
    let (mut h, mut r, mut matched) = (0, 0, 0);
    while h < hypothesis.len() && r < reference.len() {
        match hypothesis[h].cmp(&reference[r]) {
            std::cmp::Ordering::Less => h += 1,
            std::cmp::Ordering::Greater => r += 1,
            std::cmp::Ordering::Equal => {
                matched += 1;
                h += 1;
                r += 1;
            }
        }
    }
    Overlap { hypothesis: hypothesis.len(), reference: reference.len(), matched }
}

fn sorted(items: &[u32], order: usize, bits: u32) -> Vec<u128> {
    let pack =
        |window: &[u32]| window.iter().fold(0u128, |packed, &item| (packed << bits) | u128::from(item));
    let mut grams: Vec<u128> = items.windows(order).map(pack).collect();
    grams.sort_unstable();
    grams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_count_as_often_as_in_both() {
        assert_eq!(
            overlap(&[1, 1, 1, 2], &[1, 1, 3], 1, 32),
            Overlap { hypothesis: 4, reference: 3, matched: 2 }
        );
        assert_eq!(overlap(&[1, 1, 1, 2], &[1, 1, 3], 2, 32).matched, 1);
        assert_eq!(overlap(&[1], &[1], 2, 32), Overlap::default());
    }
}
