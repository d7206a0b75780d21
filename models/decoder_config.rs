//! The shape of a decoder, and what follows from it by counting.

use serde::{Deserialize, Serialize};

use crate::blocks::BlockConfig;
use crate::{Error, Result};

/// Activation of the projector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x Phi(x), the exact form.
    #[default]
    Gelu,
    /// x sigmoid(x).
    Silu,
}

/// Shape of a decoder: `decoder.json` of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Numbers in a vector.
    pub dim: i64,
    /// Width of the residual stream (H).
    pub hidden: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Number of query heads.
    pub heads: i64,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: i64,
    /// Width of a head, even.
    pub head_dim: i64,
    /// Width of the feed-forward layers.
    pub ffn: i64,
    /// Rows of the embedding (V).
    pub vocab: i64,
    /// Embeddings that a vector becomes (P).
    pub prefix_tokens: i64,
    /// Width of the projector's middle layer.
    pub projector_hidden: i64,
    /// Longest text in tokens, BOS excluded and EOS included.
    pub max_tokens: i64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding.
    pub tie_embeddings: bool,
    /// Token before every text.
    pub bos_token_id: i64,
    /// Token after every text.
    pub eos_token_id: i64,
    /// Token that fills short rows; never predicted.
    pub pad_token_id: i64,
    /// Activation of the projector.
    #[serde(default)]
    pub activation: Activation,
    /// Factor on every input number; sqrt(dim) gives the numbers of a unit vector variance 1.
    pub input_scale: f64,
    /// Whether the projector has a mean and a scale per input number in place of `input_scale`.
    #[serde(default)]
    pub input_normalization: bool,
    /// Whether query, key and value have biases (Qwen2 instead of Llama).
    #[serde(default)]
    pub qkv_bias: bool,
    /// Whether it reads hypotheses: it has networks for a hypothesis' vector and for its difference to the target.
    #[serde(default)]
    pub refines: bool,
    /// Whether it is told how noisy a vector is.
    #[serde(default)]
    pub knows_noise: bool,
    /// Whether it can be told how long a text is.
    #[serde(default)]
    pub knows_length: bool,
    /// Whether it also writes without a vector, which guidance needs.
    #[serde(default)]
    pub guides: bool,
}

/// Up to this, products of two sizes stay within 64 bits.
const LARGEST: i64 = 1 << 31;

/// Numbers of trained parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ParameterCounts {
    /// Embedding table.
    pub embedding: i64,
    /// All blocks and the final norm.
    pub blocks: i64,
    /// Vocabulary head; 0 where it is the embedding.
    pub head: i64,
    /// Projector.
    pub projector: i64,
    /// Sum.
    pub total: i64,
}

impl DecoderConfig {
    /// Checks that the numbers fit together.
    ///
    /// # Errors
    /// [`Error::DecoderConfig`] with the field and what it may be.
    pub fn validate(&self) -> Result<()> {
        let fail =
            |field: &str, problem: String| Err(Error::DecoderConfig { field: field.to_owned(), problem });
        let positive = [
            ("dim", self.dim),
            ("hidden", self.hidden),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
            ("prefix_tokens", self.prefix_tokens),
            ("projector_hidden", self.projector_hidden),
            ("max_tokens", self.max_tokens),
        ];
        for (field, value) in positive {
            if !(1..=LARGEST).contains(&value) {
                return fail(field, format!("is {value}; it must lie in 1..={LARGEST}"));
            }
        }
        if self.heads % self.kv_heads != 0 {
            return fail("kv_heads", format!("is {}; it must divide heads = {}", self.kv_heads, self.heads));
        }
        if self.head_dim % 2 != 0 {
            return fail("head_dim", format!("is {}; rotary positions need an even width", self.head_dim));
        }
        let reals = [
            ("rope_theta", self.rope_theta),
            ("rms_norm_eps", self.rms_norm_eps),
            ("input_scale", self.input_scale),
        ];
        for (field, value) in reals {
            if !(value.is_finite() && value > 0.0) {
                return fail(field, format!("is {value}; it must be a positive number"));
            }
        }
        let ids = [
            ("bos_token_id", self.bos_token_id),
            ("eos_token_id", self.eos_token_id),
            ("pad_token_id", self.pad_token_id),
        ];
        for (field, id) in ids {
            if !(0..self.vocab).contains(&id) {
                return fail(field, format!("is {id}; it must lie in 0..{} (vocab)", self.vocab));
            }
        }
        Ok(())
    }

    /// Parameters by part.
    pub fn parameters(&self) -> ParameterCounts {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let bias = if self.qkv_bias { q + 2 * kv } else { 0 };
        let attention = self.hidden * (2 * q + 2 * kv) + bias;
        let block = attention + 3 * self.hidden * self.ffn + 2 * self.hidden;
        let embedding = self.vocab * self.hidden;
        let out = self.prefix_tokens * self.hidden;
        let network = (self.dim + 1) * self.projector_hidden + (self.projector_hidden + 1) * out;
        let refining = if self.refines { 2 * network + self.projector_hidden } else { 0 };
        let told = i64::from(self.knows_noise) + i64::from(self.knows_length);
        let told = told * self.projector_hidden;
        let nothing = if self.guides { out } else { 0 };
        let projector = network + refining + told + nothing;
        let (blocks, head) =
            (self.layers * block + self.hidden, if self.tie_embeddings { 0 } else { embedding });
        ParameterCounts { embedding, blocks, head, projector, total: embedding + blocks + head + projector }
    }

    /// Positions of the prefix: P for a first guess, 3 P for a refinement.
    pub fn prefix_positions(&self, refining: bool) -> i64 {
        if refining { 3 * self.prefix_tokens } else { self.prefix_tokens }
    }

    /// Most positions before the first token of a text, BOS included: prefix and hypothesis.
    pub fn beginning_positions(&self) -> i64 {
        let hypothesis = if self.refines { self.max_tokens } else { 0 };
        self.prefix_positions(self.refines) + hypothesis + 1
    }

    /// Shape of the blocks.
    pub fn blocks(&self) -> BlockConfig {
        BlockConfig {
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.rope_theta,
            qkv_bias: self.qkv_bias,
            qk_norm: false,
        }
    }
}
