//! The candidates of one text that were encoded.

use std::collections::HashSet;

use crate::inverter::Inverted;

/// All candidates that one text ever had.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    all: Vec<Candidate>,
    seen: HashSet<String>,
    /// The one to return, where that is not the nearest.
    chosen: Option<usize>,
}

#[derive(Debug)]
struct Candidate {
    inverted: Inverted,
    vector: Vec<f32>,
    cosine: f64,
    /// How often it has been refined.
    refined: u32,
}

impl Candidates {
    /// Whether a text has not been met before; from now on it has.
    pub(super) fn is_new(&mut self, text: &str) -> bool {
        !self.seen.contains(text) && self.seen.insert(text.to_owned())
    }

    pub(super) fn push(&mut self, inverted: Inverted, vector: Vec<f32>, cosine: f64) {
        self.all.push(Candidate { inverted, vector, cosine, refined: 0 });
    }

    /// Vector and text of a candidate.
    pub(super) fn get(&self, number: usize) -> (&[f32], &str) {
        let candidate = &self.all[number];
        (&candidate.vector, &candidate.inverted.text)
    }

    /// Number of candidates.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Cosine of a candidate to the target.
    pub(super) fn cosine(&self, number: usize) -> f64 {
        self.all[number].cosine
    }

    /// Makes a candidate the one to return; `log_prob` is its own, given the target.
    pub(super) fn choose(&mut self, number: usize, log_prob: f64) {
        self.chosen = Some(number);
        self.all[number].inverted.log_prob = Some(log_prob);
    }

    /// Vector of the candidate of this text, where it was encoded.
    pub(super) fn vector_of(&self, text: &str) -> Option<&[f32]> {
        let found = self.all.iter().find(|candidate| candidate.inverted.text == text);
        found.map(|candidate| candidate.vector.as_slice())
    }

    /// Whether a text has been met.
    pub(super) fn has(&self, text: &str) -> bool {
        self.seen.contains(text)
    }

    /// The `count` best, best first.
    pub(super) fn best(&self, count: usize) -> Vec<usize> {
        self.best_by(count, |candidate| Some(candidate.cosine))
    }

    /// The `count` to be refined next, best first: each refinement that one has had counts as if its cosine were lower by
    /// `fatigue`; without it, none is refined twice.
    pub(super) fn parents(&self, count: usize, fatigue: Option<f64>) -> Vec<usize> {
        self.best_by(count, |candidate| match fatigue {
            Some(fatigue) => Some(candidate.cosine - fatigue * f64::from(candidate.refined)),
            None => (candidate.refined == 0).then_some(candidate.cosine),
        })
    }

    fn best_by(&self, count: usize, score: impl Fn(&Candidate) -> Option<f64>) -> Vec<usize> {
        let scores = self.all.iter().enumerate().filter_map(|(at, candidate)| Some((at, score(candidate)?)));
        let mut scores: Vec<(usize, f64)> = scores.collect();
        scores.sort_by(|a, b| b.1.total_cmp(&a.1));
        scores.into_iter().take(count).map(|(at, _)| at).collect()
    }

    /// How often a candidate has been refined.
    pub(super) fn visits(&self, number: usize) -> u32 {
        self.all[number].refined
    }

    pub(super) fn mark_refined(&mut self, number: usize) {
        self.all[number].refined += 1;
    }

    /// The highest cosine; -1 without a candidate.
    pub(super) fn best_cosine(&self) -> f64 {
        self.all.iter().map(|candidate| candidate.cosine).fold(-1.0, f64::max)
    }

    /// The chosen candidate, else the one with the highest cosine, the earlier one of equals; an empty text without any.
    pub(super) fn into_best(mut self) -> Inverted {
        if let Some(chosen) = self.chosen {
            return self.all.swap_remove(chosen).inverted;
        }
        let best =
            self.all.into_iter().reduce(|best, other| if other.cosine > best.cosine { other } else { best });
        best.map_or_else(Inverted::nothing, |best| best.inverted)
    }
}
