//! The JSON files of an export: what transformers and vLLM read, and `projector.json`.

use crate::causal_config::CausalConfig;
use crate::decoder_config::Activation;
use crate::{DecoderConfig, Error, Result, Vocabulary, Weights, files};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use tch::Kind;

/// `projector.json`: how a vector becomes the prefix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProjectorSpec {
    dim: i64,
    hidden: i64,
    prefix_tokens: i64,
    activation: Activation,
    #[serde(default = "one")]
    input_scale: f64,
    bos_token_id: i64,
    eos_token_id: i64,
    pad_token_id: i64,
}

fn one() -> f64 {
    1.0
}

#[derive(Debug, Default, Deserialize)]
struct GenerationSpec {
    max_new_tokens: Option<i64>,
}

/// The decoder's shape, from the files of an export.
pub(super) fn read_config(folder: &Path) -> Result<DecoderConfig> {
    let model = CausalConfig::read(&folder.join("config.json"))?;
    let projector: ProjectorSpec = files::read_json(&folder.join("projector.json"))?;
    let weights = Weights::open(folder.join("projector.safetensors"))?;
    let middle = weights.shape("fc1.bias").and_then(|shape| shape.first().copied()).unwrap_or(1);
    let generation = folder.join("generation_config.json");
    let generation: GenerationSpec =
        if generation.exists() { files::read_json(&generation)? } else { Default::default() };
    let refines = weights.contains("hypothesis.fc1.weight");
    // as many positions as `model_json` says, from which the longest text follows where nothing else tells it
    let room = match refines {
        true => (model.positions - 3 * projector.prefix_tokens - 1) / 2,
        false => model.positions - projector.prefix_tokens - 1,
    };
    let config = DecoderConfig {
        dim: projector.dim,
        hidden: model.hidden,
        layers: model.layers,
        heads: model.heads,
        kv_heads: model.kv_heads,
        head_dim: model.head_dim,
        ffn: model.ffn,
        vocab: model.vocab,
        prefix_tokens: projector.prefix_tokens,
        projector_hidden: middle,
        max_tokens: generation.max_new_tokens.unwrap_or(room),
        rope_theta: model.rope_theta,
        rms_norm_eps: model.rms_norm_eps,
        tie_embeddings: model.tie_embeddings,
        bos_token_id: projector.bos_token_id,
        eos_token_id: projector.eos_token_id,
        pad_token_id: projector.pad_token_id,
        activation: projector.activation,
        input_scale: projector.input_scale,
        input_normalization: weights.contains("input.mean"),
        qkv_bias: model.qkv_bias,
        refines,
        knows_noise: weights.contains("level"),
        knows_length: weights.contains("length"),
        guides: weights.contains("nothing"),
    };
    if projector.hidden != config.hidden {
        return Err(Error::Config {
            path: folder.join("projector.json"),
            key: "hidden".into(),
            value: projector.hidden.to_string(),
            reason: format!("config.json has hidden_size {}", config.hidden),
        });
    }
    config.validate()?;
    Ok(config)
}

/// Writes config.json, generation_config.json, tokenizer_config.json and projector.json.
pub(super) fn write_config(
    folder: &Path,
    config: &DecoderConfig,
    vocabulary: &Vocabulary,
    dtype: Kind,
) -> Result<()> {
    files::write_json(&folder.join("config.json"), &model_json(config, dtype))?;
    let (bos, eos, pad) = (config.bos_token_id, config.eos_token_id, config.pad_token_id);
    let generation = json!({
        "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
        "do_sample": false, "max_new_tokens": config.max_tokens,
    });
    files::write_json(&folder.join("generation_config.json"), &generation)?;
    let tokenizer = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.token(vocabulary.bos), "eos_token": vocabulary.token(vocabulary.eos),
        "pad_token": vocabulary.token(vocabulary.pad),
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_tokens,
    });
    files::write_json(&folder.join("tokenizer_config.json"), &tokenizer)?;
    let projector = ProjectorSpec {
        dim: config.dim,
        hidden: config.hidden,
        prefix_tokens: config.prefix_tokens,
        activation: config.activation,
        input_scale: config.input_scale,
        bos_token_id: bos,
        eos_token_id: eos,
        pad_token_id: pad,
    };
    files::write_json(&folder.join("projector.json"), &projector)
}

/// config.json as transformers 4.5x and 5.x both read it.
fn model_json(config: &DecoderConfig, dtype: Kind) -> Value {
    let dtype = if dtype == Kind::BFloat16 { "bfloat16" } else { "float32" };
    let (architecture, model_type) =
        if config.qkv_bias { ("Qwen2ForCausalLM", "qwen2") } else { ("LlamaForCausalLM", "llama") };
    let mut json = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": config.hidden,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.beginning_positions() + config.max_tokens,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": true,
    });
    if !config.qkv_bias {
        json["attention_bias"] = false.into();
        json["mlp_bias"] = false.into();
    }
    json
}
