//! How a search goes.

use serde::{Deserialize, Serialize};

use crate::generate::{GenerateOptions, Strategy};
use crate::{Error, Result};

/// What is decoded from one vector, or from one hypothesis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decodes {
    /// Beams; 1 is greedy, 0 none.
    pub beam: usize,
    /// Texts that are drawn.
    pub samples: usize,
}

/// Options of [`super::Search`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchOptions {
    /// First guesses at a vector, beside a greedy one.
    pub first: Decodes,
    /// Rounds of refinement at most.
    pub rounds: usize,
    /// Hypotheses of a text that are refined in a round.
    pub parents: usize,
    /// Refinements of each of them.
    pub each: Decodes,
    /// Greedy guesses from each of them at vectors beyond the target, which need no refining decoder.
    #[serde(default)]
    pub beyond: usize,
    /// Trails of a text: greedy guesses a round whose errors add up.
    #[serde(default)]
    pub feedback: usize,
    /// Texts a round that are one token away from the best of them, as the decoder would have it.
    #[serde(default)]
    pub neighbours: usize,
    /// New texts a round that are put together of those that were encoded.
    #[serde(default)]
    pub recombined: usize,
    /// Encodings a text may cost; `None` for no bound.
    pub budget: Option<usize>,
    /// Weight of the decoder's log-probability, in nats, beside -ln of what a cosine lacks of 1, when one of the nearest
    /// candidates is chosen in the end; 0 for the nearest.
    #[serde(default)]
    pub prior: f64,
    /// A text ends when its best cosine is at least 1 - epsilon.
    pub epsilon: f64,
    /// A text ends when its best cosine has not risen for so many rounds.
    pub patience: usize,
    /// Exponent of the length in the beams' scores.
    pub length_penalty: f64,
    /// Temperature of what is drawn.
    pub temperature: f64,
    /// Tokens that are drawn from, as in [`Strategy::Sample`].
    pub top_k: Option<i64>,
    /// The same.
    pub top_p: Option<f64>,
    /// The same.
    pub min_p: Option<f64>,
    /// Seed of what is drawn.
    pub seed: u64,
    /// How all of them are decoded; its strategy is not looked at.
    pub generate: GenerateOptions,
}

impl Default for SearchOptions {
    /// One greedy guess without refinement.
    fn default() -> Self {
        Self {
            first: Decodes { beam: 1, samples: 0 },
            rounds: 0,
            parents: 1,
            each: Decodes { beam: 1, samples: 0 },
            beyond: 0,
            feedback: 0,
            neighbours: 0,
            recombined: 0,
            budget: None,
            prior: 0.0,
            epsilon: 1e-4,
            patience: 2,
            length_penalty: 1.0,
            temperature: 0.7,
            top_k: None,
            top_p: None,
            min_p: None,
            seed: 0,
            generate: GenerateOptions::default(),
        }
    }
}

impl SearchOptions {
    pub(super) fn check(&self) -> Result<()> {
        let fail = |option: &'static str, problem: &str| {
            Err(Error::GenerateOption { option, problem: problem.to_owned() })
        };
        if self.first.beam + self.first.samples == 0 {
            return fail("first", "must be at least one beam or one sample");
        }
        let each = self.each.beam
            + self.each.samples
            + self.beyond
            + self.feedback
            + self.neighbours
            + self.recombined;
        if self.rounds > 0 && (self.parents == 0 || each == 0) {
            return fail("each", "must be at least one text of at least one parent");
        }
        if self.rounds > 4000 || self.parents > 4000 {
            return fail("rounds", "and parents must be at most 4000");
        }
        if self.budget == Some(0) {
            return fail("budget", "must be at least 1");
        }
        if self.patience == 0 {
            return fail("patience", "must be at least 1");
        }
        if !(self.prior.is_finite() && self.prior >= 0.0) {
            return fail("prior", "must be a number of at least 0");
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return fail("epsilon", "must be a number of at least 0");
        }
        Ok(())
    }

    /// The strategies that make what `decodes` says, the more probable texts first.
    pub(super) fn strategies(&self, decodes: &Decodes) -> Vec<Strategy> {
        let mut strategies = Vec::new();
        match decodes.beam {
            0 => {}
            1 => strategies.push(Strategy::Greedy),
            width => strategies.push(Strategy::Beam { width, length_penalty: self.length_penalty }),
        }
        if decodes.samples > 0 {
            strategies.push(Strategy::Sample {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                seed: self.seed,
                samples: decodes.samples,
            });
        }
        strategies
    }
}
