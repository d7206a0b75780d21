//! What a decoder computes for a text, in floating-point operations.
//!
//! A multiplication and an addition are two. Counted are the matrix products, as Kaplan et al. 2020 (arXiv 2001.08361,
//! section 2.1 and table 1) count them: two operations a weight and position, attention's scores and values, and a
//! backward pass of twice the forward. Not counted are lookups, norms, rotations, activations and softmax, which
//! compute little and wait for memory. Of attention's square only the causal half counts, as in Kaplan's table; PaLM
//! (arXiv 2204.02311, appendix B) counts all of it. Padding and recomputation do not count: they are what a model
//! FLOPs utilization (MFU, the same appendix) loses to.

use std::ops::{Add, Div, Mul};

use serde::Serialize;

use crate::decoder_config::DecoderConfig;

/// FLOPs of a forward pass by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Flops {
    /// Projections of attention and feed-forward.
    pub blocks: f64,
    /// Attention's scores and its sums of values.
    pub attention: f64,
    /// Vocabulary head.
    pub head: f64,
    /// Projector.
    pub projector: f64,
}

/// Operations of a forward and a backward pass, as a multiple of those of the forward pass: the gradient of each
/// matrix product is two of its size.
pub const TRAINING: f64 = 3.0;

impl Flops {
    /// Sum of the forward pass.
    pub fn forward(&self) -> f64 {
        self.blocks + self.attention + self.head + self.projector
    }

    /// Forward and backward pass.
    pub fn training(&self) -> f64 {
        TRAINING * self.forward()
    }
}

impl DecoderConfig {
    /// FLOPs of the forward pass of one text of `tokens` target tokens, EOS included: P + `tokens` positions, of which
    /// the last `tokens` are scored against the vocabulary. `tokens` may be a mean; attention, which grows with the
    /// square, is then that of a text of mean length and a lower bound.
    pub fn flops(&self, tokens: f64) -> Flops {
        self.flops_behind(0.0, false, tokens)
    }

    /// The same of a refinement: 3 P positions of prefix and those of a hypothesis before the text, none of them scored.
    pub fn refinement_flops(&self, hypothesis: f64, tokens: f64) -> Flops {
        self.flops_behind(hypothesis, true, tokens)
    }

    fn flops_behind(&self, hypothesis: f64, refining: bool, tokens: f64) -> Flops {
        let [q, kv] = [self.heads, self.kv_heads].map(|heads| (heads * self.head_dim) as f64);
        let (hidden, layers) = (self.hidden as f64, self.layers as f64);
        let positions = self.prefix_positions(refining) as f64 + hypothesis + tokens;
        let weights = hidden * (2.0 * q + 2.0 * kv) + 3.0 * hidden * self.ffn as f64;
        // position i sees i + 1 keys
        let visible = positions * (positions + 1.0) / 2.0;
        let projector = self.projector_hidden as f64 * (self.dim as f64 + self.prefix_tokens as f64 * hidden);
        Flops {
            blocks: 2.0 * layers * weights * positions,
            attention: 4.0 * layers * q * visible,
            head: 2.0 * self.vocab as f64 * hidden * tokens,
            projector: 2.0 * projector * if refining { 3.0 } else { 1.0 },
        }
    }
}

impl Add for Flops {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            attention: self.attention + other.attention,
            head: self.head + other.head,
            projector: self.projector + other.projector,
        }
    }
}

impl Mul<f64> for Flops {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self {
            blocks: self.blocks * factor,
            attention: self.attention * factor,
            head: self.head * factor,
            projector: self.projector * factor,
        }
    }
}

impl Div<f64> for Flops {
    type Output = Self;

    fn div(self, divisor: f64) -> Self {
        Self {
            blocks: self.blocks / divisor,
            attention: self.attention / divisor,
            head: self.head / divisor,
            projector: self.projector / divisor,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut serde_json::Value)) -> DecoderConfig {
        let mut value = serde_json::json!({
            "dim": 5, "hidden": 4, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 2, "ffn": 3, "vocab": 10,
            "prefix_tokens": 1, "projector_hidden": 6, "max_tokens": 8, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
            "tie_embeddings": true, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "input_scale": 1.0});
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn small_shapes_are_counted_by_hand() {
        // positions: a prefix and 2 tokens. weights: query 4x4, key 2x4, value 2x4, output 4x4 = 48; gate, up 3x4 each
        // and down 4x3 = 36. 3 positions x 84 weights x 2
        let flops = config(|_| ()).flops(2.0);
        assert_eq!(flops.blocks, 504.0);
        // keys seen: 1 + 2 + 3 = 6; a head's score is 2 products and its sum of values 2 more, each 2 operations:
        // 6 keys x 2 heads x 8
        assert_eq!(flops.attention, 96.0);
        // 2 tokens x 10 rows x 4 numbers x 2
        assert_eq!(flops.head, 160.0);
        // 6x5 and 4x6 weights x 2
        assert_eq!(flops.projector, 108.0);
        assert_eq!(flops.forward(), 868.0);
        assert_eq!(flops.training(), 2604.0);
    }

    #[test]
    fn layers_multiply_and_an_untied_head_costs_the_same() {
        let one = config(|_| ()).flops(2.0);
        let three = config(|c| c["layers"] = 3.into()).flops(2.0);
        assert_eq!((three.blocks, three.attention), (3.0 * one.blocks, 3.0 * one.attention));
        assert_eq!((three.head, three.projector), (one.head, one.projector));
        assert_eq!(config(|c| c["tie_embeddings"] = false.into()).flops(2.0), one);
    }

    #[test]
    fn of_a_long_text_only_attention_grows_faster_than_its_length() {
        let c = config(|c| c["prefix_tokens"] = 2.into());
        let (short, long) = (c.flops(8.0), c.flops(18.0));
        // 10 and 20 positions: 55 and 210 visible keys
        assert_eq!(long.blocks / short.blocks, 2.0);
        assert_eq!(long.attention / short.attention, 210.0 / 55.0);
        assert_eq!(short.projector, long.projector);
        assert_eq!((short + long) * 2.0 / 2.0, short + long);
    }

    /// Six operations a parameter and token (Kaplan's 6 N) is what is left without attention, prefix and projector.
    #[test]
    fn a_large_decoder_needs_about_six_operations_a_parameter() {
        let c = config(|c| {
            for (key, value) in
                [("hidden", 2048), ("layers", 16), ("heads", 32), ("kv_heads", 8), ("head_dim", 64)]
            {
                c[key] = value.into();
            }
            for (key, value) in [("ffn", 8192), ("vocab", 50_000), ("dim", 1024), ("projector_hidden", 2048)]
            {
                c[key] = value.into();
            }
        });
        let p = c.parameters();
        let flops = c.flops(512.0);
        let products = (flops.blocks * 512.0 / 513.0 + flops.head) * TRAINING / 512.0;
        // the norms' gains, 33 vectors of the width, are no matrix
        let matrices = (p.blocks + p.embedding - 33 * 2048) as f64;
        assert!((products / (6.0 * matrices) - 1.0).abs() < 1e-12);
    }
}
