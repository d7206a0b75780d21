//! ROUGE-L, equal to the `rouge-score` package without stemming: the F-measure of the longest common subsequence.
//!
//! Lin 2004, "ROUGE: a package for automatic evaluation of summaries". Tokens are runs of ASCII letters and digits of
//! the lower-cased text; every other character separates, so a text in another script has no tokens and scores 0.

/// ROUGE-L F-measure of one row, 0 to 1; 0 where a side has no tokens.
pub(crate) fn rouge_l(reference: &str, hypothesis: &str) -> f64 {
    let (reference, hypothesis) = (reference.to_lowercase(), hypothesis.to_lowercase());
    let (reference, hypothesis) = (tokens(&reference), tokens(&hypothesis));
    let common = common_subsequence(&reference, &hypothesis);
    if common == 0 {
        return 0.0;
    }
    let precision = common as f64 / hypothesis.len() as f64;
    let recall = common as f64 / reference.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

fn tokens(lower_case: &str) -> Vec<&str> {
    lower_case
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit()))
        .filter(|token| !token.is_empty())
        .collect()
}

/// Length of the longest common subsequence, by the usual table of which only one row is kept.
fn common_subsequence(a: &[&str], b: &[&str]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_counts() {
        assert_eq!(common_subsequence(&["a", "b", "c", "d"], &["b", "d", "a", "c"]), 2);
        assert_eq!(rouge_l("Police killed the gunman.", "police KILLED the gunman"), 1.0);
        assert_eq!(rouge_l("", ""), 0.0);
    }
}
