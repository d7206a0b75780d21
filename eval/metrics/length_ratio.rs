//! Length ratio: words in all hypotheses over words in all references. 1 is right; below, the decoder says too little.

use super::whitespace::words;

/// Columns: words of the hypothesis, words of the reference.
pub(crate) const COLUMNS: usize = 2;

/// Words, separated by white space, of the hypothesis and of the reference of one row.
pub(crate) fn statistics(reference: &str, hypothesis: &str) -> [f64; COLUMNS] {
    [words(hypothesis).count() as f64, words(reference).count() as f64]
}

/// The ratio from summed [`statistics`]. References without a single word count as one word, so that the ratio is
/// always a number; no words on either side are the ratio 1.
pub(crate) fn length_ratio(sums: &[f64]) -> f64 {
    let (hypothesis, reference) = (sums[0], sums[1]);
    if hypothesis == reference { 1.0 } else { hypothesis / reference.max(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_words() {
        assert_eq!(length_ratio(&statistics("a b c d", "a b")), 0.5);
        assert_eq!(length_ratio(&statistics("", "")), 1.0);
        assert_eq!(length_ratio(&statistics("", "a b")), 2.0);
    }
}
