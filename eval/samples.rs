//! Rows to look at: the best, the worst, and some drawn at random.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::bootstrap::below;
use crate::result::{Row, Samples};

/// `count` rows of each kind. Best and worst go by cosine, then by sentence BLEU; among equally good rows the longer
/// reference comes first, for it was harder. The random rows are drawn without replacement and stand in row order.
pub fn samples(rows: &[Row], count: usize, seed: u64) -> Samples {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&rows[a], &rows[b]);
        let quality = |row: &Row| (row.cosine.unwrap_or(0.0), row.sentence_bleu);
        let ((a_cosine, a_bleu), (b_cosine, b_bleu)) = (quality(a), quality(b));
        b_cosine
            .total_cmp(&a_cosine)
            .then(b_bleu.total_cmp(&a_bleu))
            .then(b.tokens.cmp(&a.tokens))
            .then(a.index.cmp(&b.index))
    });
    let pick =
        |order: &mut dyn Iterator<Item = &usize>| order.take(count).map(|&row| rows[row].clone()).collect();
    Samples {
        best: pick(&mut order.iter()),
        worst: pick(&mut order.iter().rev()),
        random: pick(&mut draw(rows.len(), count, seed).iter()),
    }
}

/// `count` different numbers below `rows`, ascending: the beginning of a seeded Fisher-Yates shuffle.
fn draw(rows: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    // a stream of its own, beside those of the bootstrap
    generator.set_stream(u64::MAX);
    let mut numbers: Vec<usize> = (0..rows).collect();
    let count = count.min(rows);
    for i in 0..count {
        let j = i + below(&mut generator, rows - i);
        numbers.swap(i, j);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_rows_differ_and_are_fixed_by_the_seed() {
        let drawn = draw(100, 10, 3);
        assert_eq!(drawn, draw(100, 10, 3));
        assert_ne!(drawn, draw(100, 10, 4));
        assert!(drawn.windows(2).all(|pair| pair[0] < pair[1]) && drawn[9] < 100);
        assert_eq!(draw(3, 10, 0), [0, 1, 2]);
    }
}
