//! `config.json` of a causal language model as transformers 4 and 5 write it: the shape of an export, and of a
//! pre-trained model that a decoder starts from.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::{Error, Result, files};

/// What `config.json` says of the blocks, the embedding and the head.
#[derive(Debug, Clone, PartialEq)]
pub struct CausalConfig {
    /// The file.
    pub path: PathBuf,
    /// `LlamaForCausalLM` or `Qwen2ForCausalLM`.
    pub architecture: &'static str,
    /// Width of the residual stream (`hidden_size`).
    pub hidden: i64,
    /// Number of blocks (`num_hidden_layers`).
    pub layers: i64,
    /// Number of query heads (`num_attention_heads`).
    pub heads: i64,
    /// Number of key and value heads (`num_key_value_heads`).
    pub kv_heads: i64,
    /// Width of a head (`head_dim`).
    pub head_dim: i64,
    /// Width of the feed-forward layers (`intermediate_size`).
    pub ffn: i64,
    /// Rows of the embedding (`vocab_size`).
    pub vocab: i64,
    /// Positions that it was made for (`max_position_embeddings`).
    pub positions: i64,
    /// Base of the rotary frequencies (`rope_theta`).
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm (`rms_norm_eps`).
    pub rms_norm_eps: f64,
    /// Whether the head is the embedding (`tie_word_embeddings`).
    pub tie_embeddings: bool,
    /// Whether query, key and value have biases: they do in a Qwen2.
    pub qkv_bias: bool,
}

/// The keys of `config.json` that matter here; transformers writes many more.
#[derive(Debug, Deserialize)]
struct Spec {
    architectures: Vec<String>,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    num_key_value_heads: Option<i64>,
    head_dim: Option<i64>,
    vocab_size: i64,
    max_position_embeddings: i64,
    rms_norm_eps: f64,
    /// transformers 5
    rope_parameters: Option<RopeSpec>,
    /// transformers 4
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeSpec>,
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct RopeSpec {
    rope_theta: Option<f64>,
    #[serde(alias = "type")]
    rope_type: Option<String>,
    partial_rotary_factor: Option<f64>,
}

const LLAMA: &str = "LlamaForCausalLM";
const QWEN2: &str = "Qwen2ForCausalLM";

impl CausalConfig {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Unsupported`] for what our blocks do not compute: other
    /// architectures and activations, scaled rotary positions, biases elsewhere, sliding windows, quantised weights.
    pub fn read(path: &Path) -> Result<Self> {
        let spec: Spec = files::read_json(path)?;
        let architecture = match spec.architectures.first().map(String::as_str) {
            Some(LLAMA) => LLAMA,
            Some(QWEN2) => QWEN2,
            other => return unsupported(path, "architecture", other.unwrap_or("none"), &[LLAMA, QWEN2]),
        };
        spec.require_supported(path)?;
        let in_parameters = spec.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        Ok(Self {
            path: path.to_owned(),
            architecture,
            hidden: spec.hidden_size,
            layers: spec.num_hidden_layers,
            heads: spec.num_attention_heads,
            kv_heads: spec.num_key_value_heads.unwrap_or(spec.num_attention_heads),
            head_dim: spec.head_dim.unwrap_or(spec.hidden_size / spec.num_attention_heads.max(1)),
            ffn: spec.intermediate_size,
            vocab: spec.vocab_size,
            positions: spec.max_position_embeddings,
            rope_theta: in_parameters.or(spec.rope_theta).unwrap_or(10_000.0),
            rms_norm_eps: spec.rms_norm_eps,
            tie_embeddings: spec.tie_word_embeddings,
            qkv_bias: architecture == QWEN2,
        })
    }
}

impl Spec {
    fn require_supported(&self, path: &Path) -> Result<()> {
        if self.hidden_act != "silu" {
            return unsupported(path, "activation", &self.hidden_act, &["silu"]);
        }
        // without a kind it is still a scaling, of one that nobody names
        let scaling = self.rope_scaling.as_ref().map(|rope| rope.rope_type.as_deref().unwrap_or("unknown"));
        let kind = self.rope_parameters.as_ref().and_then(|rope| rope.rope_type.as_deref());
        if let Some(kind) = scaling.into_iter().chain(kind).find(|kind| *kind != "default") {
            return unsupported(path, "rope_type", kind, &["default"]);
        }
        let partial = self.rope_parameters.as_ref().and_then(|rope| rope.partial_rotary_factor);
        if let Some(share) = partial.filter(|share| *share != 1.0) {
            return unsupported(path, "partial_rotary_factor", &share.to_string(), &["1.0"]);
        }
        let switches = [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
            ("use_sliding_window", self.use_sliding_window),
        ];
        if let Some((key, _)) = switches.into_iter().find(|(_, on)| *on) {
            return unsupported(path, key, "true", &["false"]);
        }
        match &self.quantization_config {
            Some(config) if !config.is_null() => {
                let method = config["quant_method"].as_str().unwrap_or("unknown");
                unsupported(path, "quantization", method, &["none"])
            }
            _ => Ok(()),
        }
    }
}

fn unsupported<T>(path: &Path, what: &'static str, name: &str, supported: &[&'static str]) -> Result<T> {
    Err(Error::Unsupported {
        path: path.to_owned(),
        what,
        name: name.to_owned(),
        supported: supported.to_vec(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(extra: Value) -> Result<CausalConfig> {
        let mut all = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 8, "hidden_act": "silu", "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6
        });
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        files::write_json(&path, &all).unwrap();
        CausalConfig::read(&path)
    }

    #[test]
    fn both_spellings_are_read() {
        let old = read(json!({"rope_theta": 5.0, "rope_scaling": null, "torch_dtype": "bfloat16"})).unwrap();
        assert_eq!((old.rope_theta, old.head_dim, old.kv_heads, old.qkv_bias), (5.0, 4, 2, false));
        let new = json!({"rope_parameters": {"rope_theta": 6.0, "rope_type": "default"}, "head_dim": 6,
            "architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 1});
        let new = read(new).unwrap();
        assert_eq!((new.rope_theta, new.head_dim, new.kv_heads, new.qkv_bias), (6.0, 6, 1, true));
    }

    #[test]
    fn what_the_blocks_do_not_compute_is_refused_by_name() {
        for (bad, name) in [
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 32.0}}), "rope_type `llama3`"),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_type `linear`"),
            (json!({"rope_scaling": {"factor": 2.0}}), "rope_type `unknown`"),
            (json!({"rope_parameters": {"rope_theta": 6.0, "rope_type": "yarn"}}), "rope_type `yarn`"),
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"mlp_bias": true}), "mlp_bias"),
            (json!({"use_sliding_window": true}), "use_sliding_window"),
            (json!({"hidden_act": "gelu"}), "`gelu`"),
            (json!({"architectures": ["MistralForCausalLM"]}), "`MistralForCausalLM`"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "`gptq`"),
        ] {
            let error = read(bad.clone()).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains(name) && error.contains("config.json"), "{bad}: {error}");
        }
    }
}
