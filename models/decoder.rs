//! The decoder: a plain Llama behind a vector prefix.
//!
//! Positions are [prefix (P), BOS, t1, t2, …]; the state at BOS predicts t1. A prefix is a row of input embeddings,
//! so the blocks, the embedding and the head are exactly Hugging Face's `LlamaForCausalLM`.
#![allow(non_snake_case)]

use crate::Result;
use crate::blocks::{Attend, Stack};
use crate::condition::Condition;
use crate::decoder_config::DecoderConfig;
use crate::kv_cache::KvCache;
use crate::params::{Group, Init, ParamStore};
use crate::projector::Projector;
use tch::{Device, Kind, Tensor};

/// The model vector -> text.
#[derive(Debug)]
pub struct Decoder {
    config: DecoderConfig,
    projector: Projector,
    /// (V, H), f32 in training: what tokens are looked up in
    pub(crate) embedding: Tensor,
    pub(crate) stack: Stack,
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

    /// Input embeddings of what texts are decoded from: (B, P, H), or (B, 3 P, H) with hypotheses.
    ///
    /// # Errors
    /// [`crate::Error::DoesNotRefine`] for hypotheses that it cannot read; libtorch's own (out of memory), here and in
    /// all that follows.
    pub fn prefix(&self, condition: &Condition) -> Result<Tensor> {
        self.projector.forward(condition)
    }

    /// Input embeddings of tokens: (B, T) i64 -> (B, T, H).
    ///
    /// # Errors
    /// libtorch's own.
    pub fn embed(&self, tokens_BT: &Tensor) -> Result<Tensor> {
        Ok(Tensor::f_embedding(&self.embedding, tokens_BT, -1, false, false)?.f_to_kind(self.kind)?)
    }

    /// Final-normed states at the token positions: B vectors and (B, T) i64 -> (B, T, H). Rows of tokens are
    /// [BOS, t1, …, tn], and with hypotheses [h1, …, hm, BOS, t1, …, tn]; they are padded on the right, and the mask
    /// is causal, so padding changes nothing before it.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn hidden(&self, condition: &Condition, tokens_BT: &Tensor) -> Result<Tensor> {
        self.hidden_after(&self.prefix(condition)?, tokens_BT)
    }

    /// As [`Decoder::hidden`] with a prefix at hand: (B, P', H) and (B, T) -> (B, T, H).
    ///
    /// # Errors
    /// libtorch's own.
    pub fn hidden_after(&self, prefix_BPH: &Tensor, tokens_BT: &Tensor) -> Result<Tensor> {
        let x_BSH = Tensor::f_cat(&[prefix_BPH, &self.embed(tokens_BT)?], 1)?;
        let length = tokens_BT.size()[1];
        self.stack.forward(&x_BSH, Attend::Causal, x_BSH.size()[1] - length)
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

    /// Fills an empty cache with what stands before the texts, (B, S, H), BOS its last position, and scores the first
    /// token: (B, V) f32.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn begin(&self, x_BSH: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let last = x_BSH.size()[1] - 1;
        self.next_scores(&self.stack.forward_cached(x_BSH, Attend::Causal, last, cache.layers())?)
    }

    /// Adds one token a row to the cache and scores the next: (B) i64 -> (B, V) f32.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn step(&self, tokens_B: &Tensor, cache: &mut KvCache) -> Result<Tensor> {
        let x_B1H = self.embed(&tokens_B.f_unsqueeze(1)?)?;
        self.next_scores(&self.stack.forward_cached(&x_B1H, Attend::Full, 0, cache.layers())?)
    }

    fn next_scores(&self, h_B1H: &Tensor) -> Result<Tensor> {
        Ok(self.logits(&h_B1H.f_squeeze_dim(1)?)?.f_to_kind(Kind::Float)?)
    }

    /// An empty cache for `rows` texts of up to `positions` positions, those before the first token among them.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn cache(&self, rows: i64, positions: i64) -> Result<KvCache> {
        KvCache::new(&self.config, rows, positions, self.kind, self.device)
    }
}
