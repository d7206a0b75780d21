//! F1 over word tokens: of the sets of types (vec2text's `token_set_f1`) and of the multisets.
//!
//! vec2text computes `token_set_f1` for each pair from the sets of `nltk.word_tokenize` types and takes the mean
//! (`vec2text/trainers/base.py`, `_text_comparison_metrics`). An empty text shares nothing: two empty texts score 0.
//! The multiset variant counts a repeated word as often as it stands in both texts, as SQuAD's F1 does.

use std::collections::HashMap;

use super::treebank::word_tokenize;

/// `[F1 of the multisets, F1 of the sets]`, each 0 to 1, of one row.
pub(crate) fn token_f1(reference: &str, hypothesis: &str) -> [f64; 2] {
    let (reference, hypothesis) = (word_tokenize(reference), word_tokenize(hypothesis));
    let (reference_counts, hypothesis_counts) = (counts(&reference), counts(&hypothesis));
    let (mut shared_types, mut shared_tokens) = (0, 0);
    for (token, &count) in &hypothesis_counts {
        if let Some(&reference_count) = reference_counts.get(token) {
            shared_types += 1;
            shared_tokens += count.min(reference_count);
        }
    }
    [
        f1(shared_tokens, reference.len(), hypothesis.len()),
        f1(shared_types, reference_counts.len(), hypothesis_counts.len()),
    ]
}

fn counts(tokens: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::with_capacity(tokens.len());
    for token in tokens {
        *counts.entry(token.as_str()).or_insert(0) += 1;
    }
    counts
}

/// The harmonic mean of `shared / hypothesis` and `shared / reference`; 0 where nothing is shared.
fn f1(shared: usize, reference: usize, hypothesis: usize) -> f64 {
    if shared == 0 { 0.0 } else { 2.0 * shared as f64 / (reference + hypothesis) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_count_in_the_multiset_alone() {
        let [multiset, set] = token_f1("the cat saw the cat", "the cat saw");
        assert_eq!(set, 1.0);
        assert_eq!(multiset, 2.0 * 3.0 / 8.0);
        assert_eq!(token_f1("", ""), [0.0, 0.0]);
    }
}
