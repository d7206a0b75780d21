//! Correlation of two lists of numbers, as `scipy.stats.pearsonr` and `spearmanr` have it.

/// Pearson's correlation coefficient, -1 to 1; `None` for fewer than two pairs or where one list has one value only.
pub fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let count = x.len().min(y.len());
    if count < 2 {
        return None;
    }
    let mean = |numbers: &[f64]| numbers[..count].iter().sum::<f64>() / count as f64;
    let (mean_x, mean_y) = (mean(x), mean(y));
    let (mut products, mut squares_x, mut squares_y) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - mean_x, y - mean_y);
        products += x * y;
        squares_x += x * x;
        squares_y += y * y;
    }
    let lengths = squares_x.sqrt() * squares_y.sqrt();
    (lengths > 0.0).then(|| (products / lengths).clamp(-1.0, 1.0))
}

/// Spearman's rank correlation coefficient: Pearson's of the ranks. `None` as for Pearson's.
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    pearson(&ranks(x), &ranks(y))
}

/// Ranks from 1 on in ascending order; equal numbers have the mean of the ranks that they take up.
pub fn ranks(numbers: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[a].total_cmp(&numbers[b]));
    let mut ranks = vec![0.0; numbers.len()];
    let mut start = 0;
    for tie in order.chunk_by(|&a, &b| numbers[a] == numbers[b]) {
        let end = start + tie.len();
        // ranks start + 1 to end
        let mean = (start + 1 + end) as f64 / 2.0;
        tie.iter().for_each(|&at| ranks[at] = mean);
        start = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_ranks() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(ranks(&[0.0, -0.0]), [1.5, 1.5]);
        assert!(ranks(&[]).is_empty());
    }

    #[test]
    fn order_alone_counts_for_spearman() {
        let x = [1.0, 2.0, 3.0, 4.0];
        let near =
            |found: Option<f64>, wanted: f64| found.is_some_and(|found| (found - wanted).abs() < 1e-12);
        assert!(near(spearman(&x, &x.map(f64::exp)), 1.0));
        assert!(pearson(&x, &x.map(f64::exp)).unwrap_or(1.0) < 0.95);
        assert!(near(spearman(&x, &x.map(|x| -x)), -1.0));
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        assert_eq!(pearson(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0]), None);
        assert_eq!(spearman(&[1.0], &[1.0]), None);
        assert_eq!(pearson(&[], &[]), None);
    }
}
