//! What a training computes, and how long that takes.

use models::Flops;
use serde::Serialize;
use tch::Kind;

use super::gpu::Gpu;
use crate::recipe::Recipe;

/// FLOPs a target token, prefix and projector shared out over the tokens of a text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FlopsPerToken {
    /// Forward pass by part.
    #[serde(flatten)]
    pub parts: Flops,
    /// Forward pass.
    pub forward: f64,
    /// Forward and backward pass.
    pub training: f64,
}

impl FlopsPerToken {
    fn new(parts: Flops) -> Self {
        Self { parts, forward: parts.forward(), training: parts.training() }
    }
}

/// The time of a training: its FLOPs / (peak x utilization x share of the positions that are no padding).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// The GPU; there is one.
    pub gpu: Gpu,
    /// Operations a second that it does at most.
    pub peak: f64,
    /// Model FLOPs utilization, the share of the peak that is reached. Assumed.
    pub mfu: f64,
    /// Pairs that are trained on.
    pub pairs: u64,
    /// Target tokens of a pair, EOS included.
    pub tokens_per_text: f64,
    /// FLOPs a target token.
    pub flops_per_token: FlopsPerToken,
    /// Target tokens a second.
    pub tokens_per_s: f64,
    /// FLOPs of one pass over all pairs.
    pub pass_flops: f64,
    /// Seconds of one pass over all pairs.
    pub pass_seconds: f64,
    /// Passes until the recipe's end, its steps or its minutes.
    pub run_passes: f64,
    /// Seconds until the recipe's end.
    pub run_seconds: f64,
}

/// What is trained on: measured, or assumed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Texts {
    pub(super) pairs: u64,
    pub(super) tokens_per_text: f64,
    /// FLOPs of the forward pass of a text, in the mean.
    pub(super) flops: Flops,
    /// Target tokens of a step.
    pub(super) tokens_per_step: f64,
    /// Share of the positions that are padding, percent; 0 where it is not known.
    pub(super) padding_percent: f64,
}

impl Cost {
    pub(super) fn new(recipe: &Recipe, texts: Texts, gpu: Gpu, kind: Kind, mfu: f64) -> Self {
        let per_token = FlopsPerToken::new(texts.flops / texts.tokens_per_text);
        let peak = gpu.peak(kind);
        let tokens_per_s = peak * mfu * (1.0 - texts.padding_percent / 100.0) / per_token.training;
        let tokens = texts.pairs as f64 * texts.tokens_per_text;
        let of_steps =
            recipe.training.max_steps.map(|steps| steps as f64 * texts.tokens_per_step / tokens_per_s);
        let of_minutes = recipe.training.max_minutes.map(|minutes| minutes * 60.0);
        // a recipe has one of them at least
        let run_seconds = of_steps.into_iter().chain(of_minutes).fold(f64::INFINITY, f64::min);
        let pass_seconds = tokens / tokens_per_s;
        Self {
            gpu,
            peak,
            mfu,
            pairs: texts.pairs,
            tokens_per_text: texts.tokens_per_text,
            flops_per_token: per_token,
            tokens_per_s,
            pass_flops: per_token.training * tokens,
            pass_seconds,
            run_passes: run_seconds / pass_seconds,
            run_seconds,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn time_is_work_by_speed() {
        let flops = Flops { blocks: 6e9, attention: 1e9, head: 2e9, projector: 1e9 };
        let texts =
            Texts { pairs: 1000, tokens_per_text: 10.0, flops, tokens_per_step: 500.0, padding_percent: 0.0 };
        let mut recipe = Recipe::default();
        recipe.training.max_steps = Some(60);
        let cost = |recipe: &Recipe, texts| Cost::new(recipe, texts, Gpu::H200, Kind::BFloat16, 0.5);
        let found = cost(&recipe, texts);
        // 10 GFLOP a text forward, 3 GFLOP a token in training; 494.5 TFLOP/s
        assert_eq!(found.flops_per_token.training, 3e9);
        assert_eq!(found.pass_flops, 3e13);
        assert!((found.pass_seconds - 3e13 / 494.5e12).abs() < 1e-12);
        // 60 steps of 500 tokens are three passes of 10000
        assert!((found.run_passes - 3.0).abs() < 1e-12);
        assert!((found.run_seconds - 3.0 * found.pass_seconds).abs() < 1e-12);

        let padded = cost(&recipe, Texts { padding_percent: 20.0, ..texts });
        assert!((padded.pass_seconds - found.pass_seconds / 0.8).abs() < 1e-12);
        assert_eq!(padded.pass_flops, found.pass_flops);

        // the first end that is met ends it
        recipe.training.max_minutes = Some(found.pass_seconds / 60.0);
        assert!((cost(&recipe, texts).run_passes - 1.0).abs() < 1e-12);
        recipe.training.max_minutes = Some(1.0);
        assert!((cost(&recipe, texts).run_passes - 3.0).abs() < 1e-12);
    }
}
