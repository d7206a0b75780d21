//! Recombination: what several candidates change of the best one, put together anew.
//!
//! A small change of a text moves its vector by nearly the same whatever else is changed. From the vectors of the
//! candidates that are there, the move of every single edit is estimated, and those edits are made together whose moves
//! sum up to the target: all the good changes of several candidates, without the bad ones that came with them.
#![allow(non_snake_case)]

use std::collections::{BTreeMap, BTreeSet};

use tch::{Kind, Tensor};

use super::edits::{Edit, apply, edits, pieces};
use crate::Result;

/// A text and its vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) text: &'a str,
    pub(super) vector: &'a [f32],
}

/// Candidates that change more than this of the best one say too little about each change.
const MOST_EDITS: usize = 8;

/// Square of what a vector moves beside the sum of its edits' moves, over that of one edit's move.
const RIDGE: f64 = 0.2;

/// Sets of edits that are looked at together.
const WIDTH: usize = 16;

/// Up to `count` new texts that promise a higher cosine to the target than the base, the most promising first. `seen`
/// says which texts are no longer new.
pub(super) fn recombine(
    base: Known<'_>,
    others: &[Known<'_>],
    target: &[f32],
    count: usize,
    seen: impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let base_pieces = pieces(base.text);
    let mut numbers: BTreeMap<Edit, usize> = BTreeMap::new();
    let mut rows: Vec<(Vec<usize>, &[f32])> = Vec::new();
    for other in others {
        let found = edits(&base_pieces, &pieces(other.text));
        if (1..=MOST_EDITS).contains(&found.len()) {
            let number = |edit| {
                let next = numbers.len();
                *numbers.entry(edit).or_insert(next)
            };
            rows.push((found.into_iter().map(number).collect(), other.vector));
        }
    }
    if numbers.len() < 2 {
        return Ok(Vec::new());
    }
    let mut all: Vec<(Edit, usize)> = numbers.into_iter().collect();
    all.sort_by_key(|(_, number)| *number);
    let all: Vec<Edit> = all.into_iter().map(|(edit, _)| edit).collect();
    let moves = Moves::estimate(base.vector, &rows, all.len(), target)?;
    let (mut texts, mut made) = (Vec::new(), BTreeSet::new());
    for set in moves.best_sets(&all) {
        let chosen: Vec<&Edit> = set.iter().map(|&edit| &all[edit]).collect();
        let text = apply(&base_pieces, &chosen);
        if !seen(&text) && made.insert(text.clone()) {
            texts.push(text);
            if texts.len() == count {
                break;
            }
        }
    }
    Ok(texts)
}

/// Products of the vectors that a sum of moves is judged by.
struct Moves {
    edits: usize,
    /// (E): of each move and the target.
    target_E: Vec<f64>,
    /// (E): of each move and the base.
    base_E: Vec<f64>,
    /// (E E): of two moves.
    gram_EE: Vec<f64>,
    /// Of the base and the target.
    base_target: f64,
    /// Of the base with itself.
    base_base: f64,
    /// Length of the target.
    length: f64,
}

impl Moves {
    /// The least squares of the differences of `rows` from the base, each explained by its edits, with a ridge.
    fn estimate(base: &[f32], rows: &[(Vec<usize>, &[f32])], edits: usize, target: &[f32]) -> Result<Self> {
        let (count, dim) = (rows.len() as i64, base.len() as i64);
        let mut has_NE = vec![0f64; rows.len() * edits];
        let mut difference_ND: Vec<f64> = Vec::with_capacity(rows.len() * base.len());
        for (row, (own, vector)) in rows.iter().enumerate() {
            own.iter().for_each(|&edit| has_NE[row * edits + edit] = 1.0);
            difference_ND.extend(vector.iter().zip(base).map(|(to, from)| f64::from(to - from)));
        }
        let has_NE = Tensor::f_from_slice(&has_NE)?.f_view([count, edits as i64])?;
        let difference_ND = Tensor::f_from_slice(&difference_ND)?.f_view([count, dim])?;
        let ridge_NN = Tensor::f_eye(count, (Kind::Double, difference_ND.device()))?.f_mul_scalar(RIDGE)?;
        let has_EN = has_NE.f_transpose(0, 1)?;
        let gram_NN = has_NE.f_matmul(&has_EN)?.f_add(&ridge_NN)?;
        let moves_ED = has_EN.f_matmul(&Tensor::f_linalg_solve(&gram_NN, &difference_ND, true)?)?;
        let column = |x: &[f32]| -> Result<Tensor> { Ok(Tensor::f_from_slice(x)?.f_to_kind(Kind::Double)?) };
        let (base_D, target_D) = (column(base)?, column(target)?);
        let numbers = |x: Tensor| -> Result<Vec<f64>> { Ok(x.f_contiguous()?.f_view([-1])?.try_into()?) };
        Ok(Self {
            edits,
            target_E: numbers(moves_ED.f_mv(&target_D)?)?,
            base_E: numbers(moves_ED.f_mv(&base_D)?)?,
            gram_EE: numbers(moves_ED.f_matmul(&moves_ED.f_transpose(0, 1)?)?)?,
            base_target: base_D.f_dot(&target_D)?.f_double_value(&[])?,
            base_base: base_D.f_dot(&base_D)?.f_double_value(&[])?,
            length: target_D.f_norm()?.f_double_value(&[])?,
        })
    }

    fn cosine(&self, target: f64, square: f64) -> f64 {
        target / (square.max(1e-12).sqrt() * self.length.max(1e-12))
    }

    /// Sets of edits that do not clash and promise a higher cosine than the base's, the most promising first.
    fn best_sets(&self, edits: &[Edit]) -> Vec<Vec<usize>> {
        // a set grows by edits of a lower promise than those it has: each set is met once
        let alone = |edit: usize| {
            let square = self.base_base + 2.0 * self.base_E[edit] + self.gram_EE[edit * self.edits + edit];
            self.cosine(self.base_target + self.target_E[edit], square)
        };
        let mut order: Vec<usize> = (0..self.edits).collect();
        order.sort_by(|&a, &b| alone(b).total_cmp(&alone(a)));
        let base = self.cosine(self.base_target, self.base_base);
        let start = Set { places: vec![], target: self.base_target, square: self.base_base, cosine: base };
        let (mut open, mut found) = (vec![start], Vec::new());
        for _ in 0..MOST_EDITS {
            let mut grown: Vec<Set> = open.iter().flat_map(|set| self.grown(set, &order, edits)).collect();
            grown.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
            grown.truncate(WIDTH);
            found.extend(grown.iter().filter(|set| set.cosine > base).cloned());
            open = grown;
        }
        found.sort_by(|a, b| b.cosine.total_cmp(&a.cosine));
        found.into_iter().map(|set| set.places.into_iter().map(|place| order[place]).collect()).collect()
    }

    /// The sets with one edit more.
    fn grown(&self, set: &Set, order: &[usize], edits: &[Edit]) -> Vec<Set> {
        let next = set.places.last().map_or(0, |last| last + 1);
        let grow = |place: usize| {
            let edit = order[place];
            let mut own = set.places.iter().map(|&other| order[other]);
            if own.clone().any(|other| edits[other].clashes(&edits[edit])) {
                return None;
            }
            let with_own: f64 = own.by_ref().map(|other| self.gram_EE[edit * self.edits + other]).sum();
            let itself = self.gram_EE[edit * self.edits + edit];
            let square = set.square + itself + 2.0 * (self.base_E[edit] + with_own);
            let target = set.target + self.target_E[edit];
            let places = set.places.iter().copied().chain([place]).collect();
            Some(Set { places, target, square, cosine: self.cosine(target, square) })
        };
        (next..self.edits).filter_map(grow).collect()
    }
}

/// Some edits, made together.
#[derive(Debug, Clone)]
struct Set {
    /// Their places in the order of promise, ascending.
    places: Vec<usize>,
    /// Product of where they lead and the target.
    target: f64,
    /// Square of the length of where they lead.
    square: f64,
    cosine: f64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A vector in which words simply add up.
    fn bag(text: &str) -> Vec<f32> {
        let mut vector = vec![0.1; 64];
        for word in pieces(text) {
            let place = word.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte)) % 64;
            vector[place as usize] += 1.0;
        }
        vector
    }

    fn texts(base: &str, others: &[&str], target: &str, count: usize) -> Vec<String> {
        let vectors: Vec<Vec<f32>> = others.iter().map(|text| bag(text)).collect();
        let known = |(text, vector)| Known { text, vector };
        let others: Vec<Known<'_>> =
            others.iter().copied().zip(vectors.iter().map(Vec::as_slice)).map(known).collect();
        let base_vector = bag(base);
        let seen = |text: &str| text == base || others.iter().any(|other| other.text == text);
        recombine(Known { text: base, vector: &base_vector }, &others, &bag(target), count, seen).unwrap()
    }

    #[test]
    fn good_changes_come_together_and_bad_ones_stay_out() {
        let base = "A man in a red hat plays the guitar.";
        // each has something of the target, and something that is not
        let others = [
            "A woman in a red hat plays the drums.",
            "A man in a green hat plays the drums.",
            "A man in a green hat plays the guitar loudly.",
            "A man in a red hat plays the guitar loudly.",
            "A woman in a red hat plays the piano.",
        ];
        let found = texts(base, &others, "A woman in a green hat plays the guitar.", 3);
        assert_eq!(found[0], "A woman in a green hat plays the guitar.");
        assert!(found.len() > 1 && found.iter().all(|text| !others.contains(&text.as_str())), "{found:?}");
    }

    #[test]
    fn nothing_comes_of_nothing() {
        let base = "A man in a red hat.";
        assert!(texts(base, &[], "A woman.", 4).is_empty());
        assert!(texts(base, &["A man in a blue hat."], "A woman in a blue hat.", 4).is_empty());
        // no change promises anything where the base is the target
        assert!(texts(base, &["A man in a blue hat.", "A boy in a red hat."], base, 4).is_empty());
    }
}
