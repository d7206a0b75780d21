//! Qwen2 (arXiv 2407.10671) and Qwen3 (arXiv 2505.09388) as encoders, on the decoder's own blocks. STELLA 1.5B is a Qwen2
//! without the causal mask. Tensor names are those of Hugging Face's `Qwen2Model` and `Qwen3Model`.
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::backbone::{Backbone, Dimensions, Source, layer_flops};
use super::checks::Checks;
use crate::blocks::{Attend, BlockConfig, Stack};
use crate::error::Result;
use crate::files;
use crate::params::{Group, Init, ParamStore};
use crate::space::{Attention, Pooling};

/// The part of `config.json` that decides the numbers.
#[derive(Debug, Deserialize)]
struct QwenConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    intermediate_size: i64,
    hidden_act: String,
    max_position_embeddings: i64,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    /// Where transformers 5 puts theta and scaling.
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    use_sliding_window: bool,
    /// Qwen3 has biases only where this says so.
    #[serde(default)]
    attention_bias: bool,
    is_causal: Option<bool>,
    /// Code that comes with the repository, by class.
    #[serde(default)]
    auto_map: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// The network. The table of words stays in the file's format and is converted row by row; all else is in the compute format.
pub(super) struct Qwen {
    config: QwenConfig,
    words_VH: Tensor,
    stack: Stack,
    blocks: BlockConfig,
    attention: Attention,
    kind: Kind,
}

impl Qwen {
    pub(super) fn load(model_type: &str, source: &Source<'_>) -> Result<Self> {
        let config: QwenConfig = files::read_json(source.config)?;
        let blocks = config.blocks(model_type, source.config)?;
        // files written from a model with a language head have `model.` before every name
        let prefix = if source.weights.contains("model.embed_tokens.weight") { "model." } else { "" };
        let words_VH = source
            .weights
            .get(&format!("{prefix}embed_tokens.weight"), &[config.vocab_size, config.hidden_size])?
            .f_to_device(source.device)?;
        let mut store = ParamStore::read(source.device, source.kind, source.weights.clone());
        let stack = Stack::new(&blocks, config.num_hidden_layers, prefix, &mut store)?;
        let attention = source.attention.unwrap_or_else(|| config.attention(source.pooling));
        Ok(Self { config, words_VH, stack, blocks, attention, kind: source.kind })
    }
}

impl Qwen {
    /// A Qwen2 of STELLA 1.5B's widths with random weights, and how many numbers those are.
    pub(super) fn untrained(layers: i64, vocab: i64, device: Device, kind: Kind) -> Result<(Self, i64)> {
        let config = QwenConfig::stella(layers, vocab);
        let blocks = config.blocks("qwen2", Path::new("config.json"))?;
        let mut store = ParamStore::untrained(device, kind);
        let shape = [vocab, config.hidden_size];
        let words_VH = store.tensor("embed_tokens.weight", &shape, Init::Normal(0.02), Group::Embedding)?;
        let stack = Stack::new(&blocks, layers, "", &mut store)?;
        let attention = Attention::Bidirectional;
        Ok((Self { config, words_VH, stack, blocks, attention, kind }, store.numel()))
    }
}

impl Backbone for Qwen {
    fn dimensions(&self) -> Dimensions {
        let positions = self.config.max_position_embeddings as usize;
        Dimensions { hidden: self.config.hidden_size, vocab: self.config.vocab_size, positions }
    }

    fn attention(&self) -> Attention {
        self.attention
    }

    fn flops(&self, tokens: usize) -> f64 {
        let BlockConfig { hidden, heads, kv_heads, head_dim, ffn, .. } = self.blocks;
        let weights = hidden * head_dim * (2 * heads + 2 * kv_heads) + 3 * hidden * ffn;
        layer_flops(self.config.num_hidden_layers, weights, heads * head_dim, tokens)
    }

    fn words(&self) -> &Tensor {
        &self.words_VH
    }

    fn hidden_of_words(&self, words_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let x_BTH = words_BTH.f_to_kind(self.kind)?;
        let attend = match (self.attention, mask_BT) {
            // what is padded on the right, no token sees
            (Attention::Causal, _) => Attend::Causal,
            (Attention::Bidirectional, Some(mask_BT)) => Attend::Keys(mask_BT),
            (Attention::Bidirectional, None) => Attend::Full,
        };
        self.stack.forward(&x_BTH, attend, 0)
    }
}

impl QwenConfig {
    /// `config.json` of NovaSearch/stella_en_1.5B_v5, which has 28 layers and 151,646 words.
    fn stella(layers: i64, vocab: i64) -> Self {
        Self {
            vocab_size: vocab,
            hidden_size: 1536,
            num_hidden_layers: layers,
            num_attention_heads: 12,
            num_key_value_heads: Some(2),
            head_dim: None,
            intermediate_size: 8960,
            hidden_act: "silu".into(),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            rope_theta: Some(1e6),
            rope_scaling: None,
            rope_parameters: None,
            use_sliding_window: false,
            attention_bias: false,
            is_causal: Some(false),
            auto_map: BTreeMap::new(),
        }
    }

    /// Which attention is meant: what `is_causal` says; where it is absent (as in STELLA's file), bidirectional for the
    /// code that comes with STELLA and gte-Qwen2, and for pooling by the mean, which makes no sense of states that have
    /// not seen the text; else causal, as transformers runs these models. docs/stella.md has the evidence.
    fn attention(&self, pooling: Pooling) -> Attention {
        // with the repository that the code lies in before it where the folder was saved elsewhere: `owner/name--class`
        let class = self.auto_map.get("AutoModel").and_then(|class| class.as_str());
        let own_code = class.and_then(|class| class.rsplit("--").next());
        let bidirectional = match self.is_causal {
            Some(causal) => !causal,
            None => own_code == Some("modeling_qwen.Qwen2Model") || pooling == Pooling::Mean,
        };
        if bidirectional { Attention::Bidirectional } else { Attention::Causal }
    }

    fn blocks(&self, model_type: &str, path: &Path) -> Result<BlockConfig> {
        let qwen3 = model_type == "qwen3";
        let heads = self.num_attention_heads;
        let blocks = BlockConfig {
            hidden: self.hidden_size,
            heads,
            kv_heads: self.num_key_value_heads.unwrap_or(heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / heads.max(1)),
            ffn: self.intermediate_size,
            rms_norm_eps: self.rms_norm_eps,
            rope_theta: self.theta(path)?,
            qkv_bias: !qwen3,
            qk_norm: qwen3,
        };
        let checks = Checks(path);
        checks.positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", blocks.hidden),
            ("num_attention_heads", blocks.heads),
            ("num_key_value_heads", blocks.kv_heads),
            ("head_dim", blocks.head_dim),
            ("intermediate_size", blocks.ffn),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        if blocks.heads % blocks.kv_heads != 0 {
            let reason = format!("it must divide num_attention_heads, {heads}");
            return Err(checks.bad("num_key_value_heads", blocks.kv_heads, reason));
        }
        if blocks.head_dim % 2 != 0 {
            return Err(checks.bad("head_dim", blocks.head_dim, "rotary positions need an even width"));
        }
        if self.hidden_act != "silu" {
            return Err(checks.unsupported("activation", &self.hidden_act, "silu"));
        }
        if self.use_sliding_window {
            return Err(checks.unsupported("attention", "sliding window", "use_sliding_window: false"));
        }
        if qwen3 && self.attention_bias {
            return Err(checks.unsupported("attention", "attention_bias: true", "attention_bias: false"));
        }
        Ok(blocks)
    }

    /// Base of the rotary frequencies, which nothing may scale.
    fn theta(&self, path: &Path) -> Result<f64> {
        let checks = Checks(path);
        let scaled = self.rope_scaling.as_ref().filter(|scaling| !scaling.is_null());
        let kind = match scaled {
            Some(scaling) => ["rope_type", "type"].iter().find_map(|key| scaling[key].as_str()),
            None => self.rope_parameters.as_ref().and_then(|p| p.rope_type.as_deref()),
        };
        if let Some(other) = kind.or(scaled.map(|_| "unknown")).filter(|kind| *kind != "default") {
            return Err(checks.unsupported("rope scaling", other, "default"));
        }
        let theta = self.rope_theta.or(self.rope_parameters.as_ref().and_then(|p| p.rope_theta));
        let theta = theta.unwrap_or(10_000.0);
        checks.positive(&[("rope_theta", theta)])?;
        Ok(theta)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn config(extra: serde_json::Value) -> QwenConfig {
        let mut all = serde_json::json!({
            "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 8, "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-6
        });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn the_first_of_key_code_and_pooling_that_speaks_decides_the_attention() {
        use serde_json::json;
        let stellas = |prefix: &str| json!({"AutoModel": format!("{prefix}modeling_qwen.Qwen2Model")});
        let own = config(json!({"auto_map": stellas("")}));
        let copied = config(json!({"auto_map": stellas("owner/name--")}));
        let other = config(json!({"auto_map": {"AutoModel": "modeling_other.Model"}}));
        for (config, pooling, expected) in [
            (&own, Pooling::LastToken, Attention::Bidirectional),
            (&copied, Pooling::LastToken, Attention::Bidirectional),
            (&other, Pooling::LastToken, Attention::Causal),
            (&other, Pooling::Mean, Attention::Bidirectional),
            (&config(json!({"is_causal": true, "auto_map": stellas("")})), Pooling::Mean, Attention::Causal),
            (&config(json!({"is_causal": false})), Pooling::LastToken, Attention::Bidirectional),
        ] {
            assert_eq!(config.attention(pooling), expected, "{config:?} {pooling:?}");
        }
    }

    #[test]
    fn theta_is_found_where_either_transformers_puts_it_and_scaling_refused() {
        use serde_json::json;
        let theta = |extra| config(extra).theta(Path::new("config.json"));
        assert_eq!(theta(json!({"rope_theta": 5.0, "rope_scaling": null})).unwrap(), 5.0);
        let new = json!({"rope_parameters": {"rope_theta": 6.0, "rope_type": "default"}});
        assert_eq!(theta(new).unwrap(), 6.0);
        assert_eq!(theta(json!({})).unwrap(), 10_000.0);
        for bad in [
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}),
            json!({"rope_parameters": {"rope_theta": 6.0, "rope_type": "linear"}}),
            json!({"rope_scaling": {}}),
            json!({"rope_theta": 0.0}),
        ] {
            let error = theta(bad.clone()).unwrap_err().to_string();
            assert!(error.contains("rope"), "{bad}: {error}");
        }
    }
}
