//! Batches by token count: texts of like length together, so that little of a batch is padding.

/// Texts that go through the network together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Positions of the texts among those given.
    pub rows: Vec<usize>,
    /// Tokens that every row is padded to: the length of the longest.
    pub length: usize,
    /// Whether some row is shorter than that.
    pub ragged: bool,
}

/// Cuts texts of the given lengths (in tokens) into batches of at most `batch_tokens` padded tokens, longest first, so that
/// a batch too large for the memory fails at the start. A text longer than `batch_tokens` is a batch of its own. Every text
/// is in exactly one batch.
///
/// A batch ends early, where the length changes, once it is a quarter full (most batches then have no padding at all, and
/// need no attention mask), or once it has 256 tokens (a sixteenth of a smaller budget) and more than a twentieth of it
/// would be padding.
pub fn batches(lengths: &[usize], batch_tokens: usize) -> Vec<Batch> {
    batches_from(ENOUGH_TOKENS, lengths, batch_tokens)
}

/// The same where batches end early from so many tokens on (or a sixteenth of a smaller budget).
pub(super) fn batches_from(enough_tokens: usize, lengths: &[usize], batch_tokens: usize) -> Vec<Batch> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches: Vec<Batch> = vec![];
    // tokens in the last batch that are no padding
    let mut real = 0;
    for row in order {
        let length = lengths[row];
        match batches.last_mut() {
            Some(batch) if fits(batch, real, length, batch_tokens, enough_tokens) => {
                batch.ragged |= length != batch.length;
                batch.rows.push(row);
                real += length;
            }
            _ => {
                batches.push(Batch { rows: vec![row], length, ragged: false });
                real = length;
            }
        }
    }
    batches
}

/// Tokens from which on a larger batch saves less than its padding costs: the matrix products are near their full rate.
pub(super) const ENOUGH_TOKENS: usize = 256;

/// The same on a GPU, which a small batch does not fill.
pub(super) const ENOUGH_ON_GPU: usize = 8192;

fn fits(batch: &Batch, real: usize, length: usize, batch_tokens: usize, enough_tokens: usize) -> bool {
    let filled = batch.rows.len() * batch.length;
    let padded = filled + batch.length;
    let enough = enough_tokens.min(batch_tokens / 16);
    let wasteful = filled >= enough && 20 * (padded - real - length) > padded;
    let full_enough = 4 * filled >= batch_tokens;
    padded <= batch_tokens && (length == batch.length || !(full_enough || wasteful))
}

/// The share of padded tokens that are padding, in percent.
pub fn padding_percent(lengths: &[usize], batches: &[Batch]) -> f64 {
    let padded: usize = batches.iter().map(|batch| batch.rows.len() * batch.length).sum();
    let real: usize = lengths.iter().sum();
    if padded == 0 { 0.0 } else { 100.0 * (padded - real) as f64 / padded as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_text_once_and_within_the_budget(
            lengths in proptest::collection::vec(1usize..300, 0..400),
            batch_tokens in 1usize..5000,
        ) {
            let batches = batches(&lengths, batch_tokens);
            let mut seen: Vec<usize> = batches.iter().flat_map(|batch| batch.rows.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
            for batch in &batches {
                let longest = batch.rows.iter().map(|&row| lengths[row]).max();
                prop_assert_eq!(longest, Some(batch.length));
                prop_assert!(batch.rows.len() == 1 || batch.rows.len() * batch.length <= batch_tokens);
                prop_assert_eq!(batch.ragged, batch.rows.iter().any(|&row| lengths[row] != batch.length));
            }
            prop_assert!(batches.windows(2).all(|pair| pair[0].length >= pair[1].length));
        }
    }

    #[test]
    fn captions_hardly_need_padding() {
        // lengths as captions have them: many of few kinds
        let lengths: Vec<usize> = (0..3000).map(|i| 8 + (i * i) % 17).collect();
        let batches = batches(&lengths, 8192);
        assert!(padding_percent(&lengths, &batches) < 5.0);
        assert!(batches.len() < 40, "{}", batches.len());
    }

    #[test]
    fn long_texts_and_few_texts_hardly_need_padding() {
        // abstracts cut at 512, and a handful of sentences
        let abstracts: Vec<usize> = (0..1000).map(|i| (40 + (i * i * 7) % 900).min(512)).collect();
        assert!(padding_percent(&abstracts, &batches(&abstracts, 8192)) < 5.0);
        let few: Vec<usize> = (0..32).map(|i| 8 + (i * i * 5) % 40).collect();
        let batches = batches(&few, 8192);
        assert!(padding_percent(&few, &batches) < 15.0 && batches.len() <= 5, "{}", batches.len());
    }

    #[test]
    fn equal_lengths_fill_batches_in_order() {
        let found = batches(&[4; 5], 8);
        assert_eq!(
            found.iter().map(|batch| batch.rows.clone()).collect::<Vec<_>>(),
            [vec![0, 1], vec![2, 3], vec![4]]
        );
        assert!(batches(&[], 8).is_empty());
    }
}
