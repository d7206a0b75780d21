//! The candidates of one text that were encoded.

use std::collections::HashSet;

use crate::inverter::Inverted;

/// All candidates that one text ever had.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    seen: HashSet<String>,
}

#[derive(Debug)]
struct Candidate {
    inverted: Inverted,
    vector: Vec<f32>,
    cosine: f64,
    refined: bool,
}

impl Candidates {
    /// Whether a text has not been met before; from now on it has.
    pub(super) fn is_new(&mut self, text: &str) -> bool {
        !self.seen.contains(text) && self.seen.insert(text.to_owned())
    }

    pub(super) fn push(&mut self, inverted: Inverted, vector: Vec<f32>, cosine: f64) {
        self.all.push(Candidate { inverted, vector, cosine, refined: false });
    }

    /// Vector and text of a candidate.
    pub(super) fn get(&self, number: usize) -> (&[f32], &str) {
        let candidate = &self.all[number];
        (&candidate.vector, &candidate.inverted.text)
    }

    /// Whether a text has been met.
    pub(super) fn has(&self, text: &str) -> bool {
        self.seen.contains(text)
    }

    /// The `count` best, best first.
    pub(super) fn best(&self, count: usize) -> Vec<usize> {
        self.best_of((0..self.all.len()).collect(), count)
    }

    /// The `count` best that have not been refined, best first.
    pub(super) fn best_unrefined(&self, count: usize) -> Vec<usize> {
        self.best_of((0..self.all.len()).filter(|&at| !self.all[at].refined).collect(), count)
    }

    fn best_of(&self, mut numbers: Vec<usize>, count: usize) -> Vec<usize> {
        numbers.sort_by(|&a, &b| self.all[b].cosine.total_cmp(&self.all[a].cosine));
        numbers.truncate(count);
        numbers
    }

    pub(super) fn mark_refined(&mut self, number: usize) {
        self.all[number].refined = true;
    }

    /// The highest cosine; -1 without a candidate.
    pub(super) fn best_cosine(&self) -> f64 {
        self.all.iter().map(|candidate| candidate.cosine).fold(-1.0, f64::max)
    }

    /// The candidate with the highest cosine, the earlier one of equals; an empty text without any.
    pub(super) fn into_best(self) -> Inverted {
        let best =
            self.all.into_iter().reduce(|best, other| if other.cosine > best.cosine { other } else { best });
        best.map_or_else(Inverted::nothing, |best| best.inverted)
    }
}
