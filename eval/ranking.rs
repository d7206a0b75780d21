//! Ranked lists against judgements, as trec_eval (and so pytrec_eval and BEIR) has it.
//!
//! trec_eval (usnistgov/trec_eval, `m_ndcg_cut.c`, `m_recall.c`, `m_recip_rank.c`, `form_res_rels.c`): scores are compared
//! as f32, documents of equal scores stand in descending order of their names, gains are the grades themselves, and a
//! document is relevant from grade 1 on.

use std::cmp::Ordering;
use std::collections::HashMap;

/// Grades of the documents that were judged for a query, by the documents' numbers.
pub type Grades = HashMap<u32, i32>;

/// The `depth` best of all documents for a query, best first. `names` are the documents' names by number.
pub fn rank(scores: &[f32], names: &[String], depth: usize) -> Vec<u32> {
    let better = |a: &u32, b: &u32| -> Ordering {
        let [a, b] = [*a as usize, *b as usize];
        scores[b].total_cmp(&scores[a]).then_with(|| names[b].cmp(&names[a]))
    };
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    if depth < order.len() {
        order.select_nth_unstable_by(depth, better);
        order.truncate(depth);
    }
    order.sort_by(better);
    order
}

/// Normalised discounted cumulative gain of the first `cut` documents, 0 to 1; 0 where nothing is relevant.
pub fn ndcg(ranked: &[u32], grades: &Grades, cut: usize) -> f64 {
    let discounted = |gains: &mut dyn Iterator<Item = i32>| -> f64 {
        let gain = |(place, gain): (usize, i32)| f64::from(gain.max(0)) / ((place + 2) as f64).log2();
        gains.take(cut).enumerate().map(gain).sum()
    };
    let mut best: Vec<i32> = grades.values().copied().collect();
    best.sort_unstable_by(|a, b| b.cmp(a));
    let ideal = discounted(&mut best.into_iter());
    if ideal == 0.0 {
        return 0.0;
    }
    discounted(&mut ranked.iter().map(|document| grade(grades, *document))) / ideal
}

/// Share of the relevant documents among the first `cut`, 0 to 1; 0 where nothing is relevant.
pub fn recall(ranked: &[u32], grades: &Grades, cut: usize) -> f64 {
    let relevant = grades.values().filter(|grade| **grade > 0).count();
    let found = ranked.iter().take(cut).filter(|document| grade(grades, **document) > 0).count();
    if relevant == 0 { 0.0 } else { found as f64 / relevant as f64 }
}

/// 1 over the rank of the first relevant document among the first `cut`; 0 where there is none.
pub fn reciprocal_rank(ranked: &[u32], grades: &Grades, cut: usize) -> f64 {
    let first = ranked.iter().take(cut).position(|document| grade(grades, *document) > 0);
    first.map_or(0.0, |place| 1.0 / (place + 1) as f64)
}

/// Share of the first `cut` documents of one list that are among the first `cut` of another, 0 to 1.
pub fn overlap(one: &[u32], other: &[u32], cut: usize) -> f64 {
    let other = &other[..cut.min(other.len())];
    let count = one.len().min(cut);
    let shared = one.iter().take(cut).filter(|document| other.contains(document)).count();
    if count == 0 { 0.0 } else { shared as f64 / count as f64 }
}

fn grade(grades: &Grades, document: u32) -> i32 {
    grades.get(&document).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grades(of: &[(u32, i32)]) -> Grades {
        of.iter().copied().collect()
    }

    #[test]
    fn ties_stand_in_descending_order_of_names() {
        let names = ["b", "a", "d", "c"].map(str::to_owned);
        assert_eq!(rank(&[0.5, 0.5, 0.5, 0.9], &names, 10), [3, 2, 0, 1]);
        assert_eq!(rank(&[0.5, 0.5, 0.5, 0.9], &names, 2), [3, 2]);
    }

    #[test]
    fn gains_are_the_grades() {
        let judged = grades(&[(0, 2), (1, 1), (2, 0), (3, -1)]);
        assert_eq!(ndcg(&[0, 1, 2], &judged, 10), 1.0);
        let swapped = ndcg(&[1, 0, 2], &judged, 10);
        let log3 = 3f64.log2();
        assert!((swapped - (1.0 + 2.0 / log3) / (2.0 + 1.0 / log3)).abs() < 1e-12);
        assert_eq!(ndcg(&[3, 2], &judged, 10), 0.0);
        assert_eq!(ndcg(&[0], &grades(&[(0, 0)]), 10), 0.0);
    }

    #[test]
    fn cuts_are_kept() {
        let judged = grades(&[(7, 1), (9, 1)]);
        let ranked = [1, 2, 7, 3, 9];
        assert_eq!(recall(&ranked, &judged, 3), 0.5);
        assert_eq!(recall(&ranked, &judged, 100), 1.0);
        assert_eq!(reciprocal_rank(&ranked, &judged, 10), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&ranked, &judged, 2), 0.0);
        assert_eq!(overlap(&[1, 2, 3], &[3, 4, 1, 2], 3), 2.0 / 3.0);
        assert_eq!(overlap(&[], &[1], 3), 0.0);
    }
}
