//! The decoder: a plain Llama behind a vector prefix.
//!
//! Positions are [prefix (P), BOS, t1, t2, …]; the state at BOS predicts t1. A prefix is a row of input embeddings,
//! so the blocks, the embedding and the head are exactly Hugging Face's `LlamaForCausalLM`.
#![allow(non_snake_case)]

use crate::blocks::{Attend, BlockConfig, Stack};
use crate::kv_cache::KvCache;
use crate::params::{Group, Init, ParamStore};
use crate::projector::Projector;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

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
}

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
            if !(1..=1 << 31).contains(&value) {
                return fail(field, format!("is {value}; it must be at least 1"));
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
        if self.eos_token_id == self.bos_token_id || self.eos_token_id == self.pad_token_id {
            return fail(
                "eos_token_id",
                format!("is {}; it must differ from bos and pad", self.eos_token_id),
            );
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
        let projector = (self.dim + 1) * self.projector_hidden + (self.projector_hidden + 1) * out;
        let (blocks, head) =
            (self.layers * block + self.hidden, if self.tie_embeddings { 0 } else { embedding });
        ParameterCounts { embedding, blocks, head, projector, total: embedding + blocks + head + projector }
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

/// The model vector -> text.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    projector: Projector,
    /// (V, H), f32 in training: what tokens are looked up in
    embedding: Tensor,
    stack: Stack,
    /// (V, H) in the compute type
    head: Tensor,
    kind: Kind,
    device: Device,
}

impl Decoder {
    /// A decoder whose parameters are added to `store`.
    ///
    /// # Errors
    /// A configuration that does not fit together, or a store that holds a decoder already.
    pub fn new(config: &DecoderConfig, store: &mut ParamStore) -> Result<Self> {
        config.validate()?;
        let (shape, init) = ([config.vocab, config.hidden], Init::Normal(0.02));
        let (embedding, shared) =
            store.tensor_and_master("model.embed_tokens.weight", &shape, init, Group::Embedding)?;
        let stack = Stack::new(&config.blocks(), config.layers, "model.", store)?;
        let head = if config.tie_embeddings {
            shared
        } else {
            store.tensor("lm_head.weight", &shape, init, Group::Embedding)?
        };
        let projector = Projector::new(config, store)?;
        let (kind, device) = (store.compute_kind(), store.device());
        Ok(Self { config: config.clone(), projector, embedding, stack, head, kind, device })
    }

    /// Its shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Type in which it computes.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Input embeddings of vectors: (B, dim) f32 -> (B, P, H).
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and in all that follows.
    pub fn prefix(&self, v_BD: &Tensor) -> Result<Tensor> {
        self.projector.forward(v_BD)
    }

    /// Input embeddings of tokens: (B, T) i64 -> (B, T, H).
    ///
    /// # Errors
    /// libtorch's own.
    pub fn embed(&self, tokens_BT: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(&self.embedding, tokens_BT, -1, false, false)?.f_to_kind(self.kind)?)
    }

    /// Final-normed states at the token positions: (B, dim) f32 and (B, T) i64 -> (B, T, H). Rows of tokens are
    /// [BOS, t1, …, tn], padded on the right; the mask is causal, so padding changes nothing before it.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn hidden(&self, v_BD: &Tensor, tokens_BT: &Tensor) -> Result<Tensor> {
        self.hidden_after(&self.prefix(v_BD)?, tokens_BT)
    }

    /// As [`Decoder::hidden`] with a prefix at hand: (B, P', H) and (B, T) -> (B, T, H).
    ///
    /// # Errors
    /// libtorch's own.
    pub fn hidden_after(&self, prefix_BPH: &Tensor, tokens_BT: &Tensor) -> Result<Tensor> {
        let x_BSH = Tensor::f_cat(&[prefix_BPH, &self.embed(tokens_BT)?], 1)?;
        let length = tokens_BT.size()[1];
        let y_BSH = self.stack.forward(&x_BSH, Attend::Causal)?;
        self.stack.norm(&y_BSH.f_narrow(1, x_BSH.size()[1] - length, length)?)
    }

    /// Scores of the next token: (…, H) -> (…, V) in the compute type.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn logits(&self, h: &Tensor) -> Result<Tensor> {
        Ok(h.f_linear(&self.head, None::<Tensor>)?)
    }

    /// The head's matrix, (V, H) in the compute type; the embedding's own where they are tied.
    pub fn head_weight(&self) -> &Tensor {
        &self.head
    }

    /// Fills an empty cache with prefix and BOS, and scores the first token: (B, dim) f32 -> (B, V) f32.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn begin(&self, v_BD: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let options = (Kind::Int64, self.device);
        let bos_B1 = Tensor::f_full([v_BD.size()[0], 1], self.config.bos_token_id, options)?;
        let x_BSH = Tensor::f_cat(&[self.prefix(v_BD)?, self.embed(&bos_B1)?], 1)?;
        let y_BSH = self.stack.forward_cached(&x_BSH, Attend::Causal, cache.layers())?;
        self.last_logits(&y_BSH)
    }

    /// Adds one token a row to the cache and scores the next: (B) i64 -> (B, V) f32.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn step(&self, tokens_B: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let x_B1H = self.embed(&tokens_B.f_unsqueeze(1)?)?;
        self.last_logits(&self.stack.forward_cached(&x_B1H, Attend::Full, cache.layers())?)
    }

    fn last_logits(&self, y_BTH: &Tensor) -> Result<Tensor> {
        let h_BH = self.stack.norm(&y_BTH.f_select(1, -1)?)?;
        Ok(self.logits(&h_BH)?.f_to_kind(Kind::Float)?)
    }

    /// An empty cache for `rows` texts of up to `max_tokens` tokens.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn cache(&self, rows: i64, max_tokens: i64) -> Result<KvCache> {
        KvCache::new(&self.config, rows, self.config.prefix_tokens + 1 + max_tokens, self.kind, self.device)
    }
}
