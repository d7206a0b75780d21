//! `[refinement]` and `[noise]`: what a decoder learns beside first guesses at clean vectors.

use serde::{Deserialize, Serialize};

/// `[refinement]`: how the decoder learns to refine its guesses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RefinementSection {
    /// Share of the steps that refine hypotheses, once there are such; 0 trains for first guesses alone. Default: 0.
    pub share: f64,
    /// Progress of the training, 0 to 1, at which the first hypotheses are made. Default: 0.4.
    pub begin: f64,
    /// Steps between two sets of hypotheses. Default: 250.
    pub refresh_every: u64,
    /// Hypotheses in a set. Default: 8192.
    pub set_texts: usize,
    /// Hypotheses of a set beside the guesses: training texts that lie near the target. Default: 0.
    pub borrowed: usize,
    /// Sets that are trained on: the newest. Default: 4.
    pub keep_sets: usize,
    /// Share of a set that refines hypotheses of earlier sets; the rest are first guesses. Default: 0.5.
    pub iterates: f64,
    /// Share of a set that is drawn, the rest is greedy. Default: 0.5.
    pub drawn: f64,
    /// Temperature of what is drawn. Default: 0.7.
    pub temperature: f64,
    /// Share of the first guesses that are made from a vector near the target, not at it. Guesses at texts that are trained
    /// on are better than those at new texts will be; these are not. Default: 0.7.
    pub astray: f64,
    /// The least cosine of such a vector to its target; between that and 1 it is uniform. Default: 0.6.
    pub astray_cosine: f64,
    /// Vectors decoded at once. Default: 256.
    pub batch: usize,
}

impl Default for RefinementSection {
    fn default() -> Self {
        Self {
            share: 0.0,
            begin: 0.4,
            refresh_every: 250,
            set_texts: 8192,
            borrowed: 0,
            keep_sets: 4,
            iterates: 0.5,
            drawn: 0.5,
            temperature: 0.7,
            astray: 0.7,
            astray_cosine: 0.6,
            batch: 256,
        }
    }
}

/// `[noise]`: noise on the vectors that the decoder learns from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NoiseSection {
    /// Share of the vectors that noise is added to; their level is told to the decoder. Default: 0.
    pub share: f64,
    /// Least standard deviation of the noise in each number of a vector. Default: 1e-4.
    pub lowest: f64,
    /// The most; between the two its logarithm is uniform. Default: 0.03.
    pub highest: f64,
    /// Share of the vectors that are withheld, which guidance needs. Default: 0.
    pub withheld: f64,
}

impl Default for NoiseSection {
    fn default() -> Self {
        Self { share: 0.0, lowest: 1e-4, highest: 0.03, withheld: 0.0 }
    }
}
