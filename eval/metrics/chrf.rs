//! chrF, equal to sacreBLEU 2's default (chrF2: six character orders, no word orders, beta 2, white space left out).
//!
//! Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation"; `sacrebleu/metrics/chrf.py`.

use super::ngrams::overlap;
use super::whitespace::is_space;

/// The highest character order.
const ORDERS: usize = 6;

/// Columns of chrF's sufficient statistics.
pub(crate) const COLUMNS: usize = 3 * ORDERS;

/// A code point needs 21 bits, so that six fit in 128.
const BITS: u32 = 21;

/// Counts of one row, or their sums: for each order the n-grams of the hypothesis, of the reference, and the matched.
pub(crate) fn statistics(reference: &str, hypothesis: &str) -> [f64; COLUMNS] {
    let (reference, hypothesis) = (code_points(reference), code_points(hypothesis));
    let mut row = [0.0; COLUMNS];
    for (order, counts) in (1..).zip(row.chunks_exact_mut(3)) {
        let grams = overlap(&hypothesis, &reference, order, BITS);
        // sacreBLEU does not hold n-grams against a hypothesis whose reference has none of that order
        counts[0] = if grams.reference > 0 { grams.hypothesis as f64 } else { 0.0 };
        counts[1] = grams.reference as f64;
        counts[2] = grams.matched as f64;
    }
    row
}

fn code_points(text: &str) -> Vec<u32> {
    text.chars().filter(|&c| !is_space(c)).map(u32::from).collect()
}

/// chrF2, 0 to 100, from summed [`statistics`]: precision and recall are averaged over the orders that both sides
/// have, then joined by F with beta 2 (`CHRF._compute_f_score`).
pub(crate) fn chrf(sums: &[f64]) -> f64 {
    const FACTOR: f64 = 4.0; // beta squared
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
    for counts in sums[..COLUMNS].chunks_exact(3) {
        let (hypothesis, reference, matched) = (counts[0], counts[1], counts[2]);
        if hypothesis > 0.0 && reference > 0.0 {
            precision += matched / hypothesis;
            recall += matched / reference;
            orders += 1.0;
        }
    }
    if orders == 0.0 || precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / orders, recall / orders);
    100.0 * (1.0 + FACTOR) * precision * recall / (FACTOR * precision + recall)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_does_not_count() {
        assert!((chrf(&statistics("a b\tc", "abc")) - 100.0).abs() < 1e-9);
        assert_eq!(chrf(&statistics("", "")), 0.0);
        assert_eq!(chrf(&statistics("abc", "xyz")), 0.0);
    }
}
