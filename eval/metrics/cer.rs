//! Character error rate: edits between the texts' characters over the characters of the references. 0 is right.

/// Columns: edits, characters of the reference.
pub(crate) const COLUMNS: usize = 2;

/// Levenshtein distance in Unicode characters, and the reference's length, of one row; white space around a text does not
/// count, as for `jiwer.cer`.
pub(crate) fn statistics(reference: &str, hypothesis: &str) -> [f64; COLUMNS] {
    let (reference, hypothesis) = (reference.trim(), hypothesis.trim());
    let edits = strsim::levenshtein(reference, hypothesis);
    [edits as f64, reference.chars().count() as f64]
}

/// The rate from summed [`statistics`]; references without a character count as one character.
pub(crate) fn cer(sums: &[f64]) -> f64 {
    sums[0] / sums[1].max(1.0)
}
