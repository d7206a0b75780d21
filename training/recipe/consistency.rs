//! `[consistency]`: the loss between a text's vector and that of what the decoder writes.

use serde::{Deserialize, Serialize};

use super::sections::{Recipe, TokenizerKind};
use super::validate::Problems;

/// `[consistency]`: the loss between a text's vector and that of what the decoder writes, beside the cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsistencySection {
    /// How it is computed. Default: `none`.
    pub kind: ConsistencyKind,
    /// Weight of 1 - cosine, where the cross-entropy of a token has weight 1. Default: 1.
    pub weight: f64,
    /// `soft`: weight of the mean square difference between the texts' cosines with each other and those of their targets.
    /// Default: 20, which is to `weight` as in STELLA's own distillation.
    pub similarity_weight: f64,
    /// Share of the training that goes by before it begins. Default: 0.5.
    pub begin: f64,
    /// Share of the training over which its weights rise to the full from there on. Default: 0.1.
    pub ramp: f64,
    /// Steps from one with it to the next. Default: 2.
    pub every: u64,
    /// Texts of such a step that it is computed on, of all processes together. Default: 16.
    pub texts: usize,
    /// `soft`: what the encoder is given at each position. Default: `mean`.
    pub estimator: Estimator,
    /// Scores are divided by it before the softmax, and before a sample is drawn. Default: 1.
    pub temperature: f64,
    /// `sampled`: texts drawn for each vector. Default: 4.
    pub samples: usize,
}

impl Default for ConsistencySection {
    fn default() -> Self {
        Self {
            kind: ConsistencyKind::None,
            weight: 1.0,
            similarity_weight: 20.0,
            begin: 0.5,
            ramp: 0.1,
            every: 2,
            texts: 16,
            estimator: Estimator::Mean,
            temperature: 1.0,
            samples: 4,
        }
    }
}

/// How the consistency loss is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsistencyKind {
    /// Not at all.
    None,
    /// The decoder's distribution at the true text's positions goes through the encoder, and the gradient back.
    Soft,
    /// The decoder's own texts are encoded; those nearer to the target than the others of theirs are made likelier.
    Sampled,
}

/// What the encoder is given at a position for the decoder's distribution p over the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// The likeliest word; its gradient is taken for that of the mean (Bengio et al. 2013, arXiv 1308.3432).
    StraightThrough,
    /// A word drawn by noise on the scores, likewise (Jang et al. 2017, arXiv 1611.01144).
    Gumbel,
    /// The mean of all words under p.
    Mean,
}

impl ConsistencySection {
    /// Notes what is wrong with it in a recipe.
    pub(super) fn check(&self, recipe: &Recipe, problems: &mut Problems) {
        let has_words = self.kind != ConsistencyKind::Soft || recipe.tokenizer.kind == TokenizerKind::Encoder;
        problems.need(has_words, "consistency.kind", || {
            "is soft, which needs the encoder's own tokens: take sampled, which is for any, or set \
             `tokenizer.kind` to encoder"
                .to_owned()
        });
        problems.need(self.kind == ConsistencyKind::None || self.weight > 0.0, "consistency.weight", || {
            format!("is {}; it must be a positive number, or `consistency.kind` none", self.weight)
        });
        for (key, weight) in [("weight", self.weight), ("similarity_weight", self.similarity_weight)] {
            problems.need(weight.is_finite() && weight >= 0.0, &format!("consistency.{key}"), || {
                format!("is {weight}; it must be 0 or a positive number")
            });
        }
        for (key, share) in [("begin", self.begin), ("ramp", self.ramp)] {
            problems.need((0.0..=1.0).contains(&share), &format!("consistency.{key}"), || {
                format!("is {share}; a share lies within 0 and 1")
            });
        }
        problems.need(self.every >= 1, "consistency.every", || "is 0; it must be at least 1".to_owned());
        problems.at_least_one("consistency.texts", self.texts);
        problems.positive("consistency.temperature", self.temperature);
        problems.need(self.samples >= 2, "consistency.samples", || {
            format!(
                "is {}; each sample is compared with the others, so there must be at least 2",
                self.samples
            )
        });
    }
}
