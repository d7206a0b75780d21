//! BERT (Devlin et al., <https://arxiv.org/abs/1810.04805>): bidirectional, post-norm, absolute positions.
//! Tensor names are those of Hugging Face's `BertModel`.
#![allow(non_snake_case)]

use std::path::Path;

use serde::Deserialize;
use tch::{Device, IndexOp, Kind, Tensor};

use super::activation::Activation;
use super::backbone::Backbone;
use crate::error::{Error, Result};
use crate::files;
use crate::weights::Weights;

/// The part of `config.json` that decides the numbers.
#[derive(Debug, Deserialize)]
struct BertConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    max_position_embeddings: i64,
    type_vocab_size: i64,
    layer_norm_eps: f64,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

/// The network. Embedding tables stay in the file's format and are converted row by row; all else is in the compute format.
pub(super) struct Bert {
    config: BertConfig,
    words_VH: Tensor,
    /// Position and token type 0 added: every text is of type 0.
    positions_PH: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    kind: Kind,
}

struct Layer {
    heads: i64,
    /// Query, key and value in one product.
    qkv: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    up: Linear,
    down: Linear,
    output_norm: LayerNorm,
    activation: Activation,
}

struct Linear {
    weight: Tensor,
    bias: Tensor,
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl Bert {
    pub(super) fn load(config_path: &Path, weights: &Weights, device: Device, kind: Kind) -> Result<Self> {
        let config: BertConfig = files::read_json(config_path)?;
        config.check(config_path)?;
        let activation = Activation::parse(config_path, &config.hidden_act)?;
        let load = Loader { weights, prefix: prefix(weights), device, kind };
        let h = config.hidden_size;
        let table = |name: &str, rows: i64, kind: Kind| {
            weights.load(&format!("{}embeddings.{name}.weight", load.prefix), &[rows, h], kind, device)
        };
        let words_VH = weights
            .get(&format!("{}embeddings.word_embeddings.weight", load.prefix), &[config.vocab_size, h])?
            .f_to_device(device)?;
        let types_2H = table("token_type_embeddings", config.type_vocab_size, Kind::Float)?;
        let positions_PH =
            table("position_embeddings", config.max_position_embeddings, Kind::Float)? + types_2H.i(0);
        let norm = load.norm("embeddings.LayerNorm", h, config.layer_norm_eps)?;
        let layers = (0..config.num_hidden_layers)
            .map(|n| Layer::load(&load, &format!("encoder.layer.{n}"), &config, activation))
            .collect::<Result<_>>()?;
        Ok(Self { config, words_VH, positions_PH, norm, layers, kind })
    }
}

impl Backbone for Bert {
    fn hidden_size(&self) -> i64 {
        self.config.hidden_size
    }

    fn vocab_size(&self) -> i64 {
        self.config.vocab_size
    }

    fn max_positions(&self) -> Option<usize> {
        Some(self.config.max_position_embeddings as usize)
    }

    fn hidden(&self, ids_BT: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let length = ids_BT.size()[1];
        let words_BTH =
            Tensor::f_embedding(&self.words_VH, ids_BT, -1, false, false)?.f_to_kind(Kind::Float)?;
        let summed_BTH = words_BTH.f_add(&self.positions_PH.i(..length))?;
        // in f32, as the sum is; the parameters of the norm are few
        let mut x_BTH = self.norm.forward_f32(&summed_BTH)?.f_to_kind(self.kind)?;
        let mask = mask_BT.map(|mask_BT| attention_mask(mask_BT, self.kind)).transpose()?;
        for layer in &self.layers {
            x_BTH = layer.forward(&x_BTH, mask.as_ref())?;
        }
        Ok(x_BTH)
    }
}

/// What is added to attention scores, `[B, 1, T, T]`: 0 where the key is a token, minus infinity where it is padding.
/// No row is without a token, so no softmax is of minus infinities alone.
fn attention_mask(mask_BT: &Tensor, kind: Kind) -> Result<Tensor> {
    let (rows, length) = mask_BT.size2()?;
    let zeros = Tensor::f_zeros([rows, length], (kind, mask_BT.device()))?;
    let added_BT = zeros.f_masked_fill(&mask_BT.f_logical_not()?, f64::NEG_INFINITY)?;
    Ok(added_BT.f_view([rows, 1, 1, length])?.f_expand([rows, 1, length, length], false)?)
}

impl Layer {
    fn load(load: &Loader<'_>, name: &str, config: &BertConfig, activation: Activation) -> Result<Self> {
        let (h, f, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let attention = |part: &str| load.linear(&format!("{name}.attention.self.{part}"), h, h);
        let parts = [attention("query")?, attention("key")?, attention("value")?];
        let weight = Tensor::f_cat(&parts.each_ref().map(|part| &part.weight), 0)?;
        let bias = Tensor::f_cat(&parts.each_ref().map(|part| &part.bias), 0)?;
        Ok(Self {
            heads: config.num_attention_heads,
            qkv: Linear { weight, bias },
            output: load.linear(&format!("{name}.attention.output.dense"), h, h)?,
            attention_norm: load.norm(&format!("{name}.attention.output.LayerNorm"), h, eps)?,
            up: load.linear(&format!("{name}.intermediate.dense"), h, f)?,
            down: load.linear(&format!("{name}.output.dense"), f, h)?,
            output_norm: load.norm(&format!("{name}.output.LayerNorm"), h, eps)?,
            activation,
        })
    }

    fn forward(&self, x_BTH: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let attended_BTH = self.output.forward(&self.attend(x_BTH, mask)?)?;
        let x_BTH = self.attention_norm.forward(&attended_BTH.f_add(x_BTH)?)?;
        let inner_BTF = self.activation.apply(self.up.forward(&x_BTH)?)?;
        self.output_norm.forward(&self.down.forward(&inner_BTF)?.f_add(&x_BTH)?)
    }

    fn attend(&self, x_BTH: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (b, t, h) = x_BTH.size3()?;
        let qkv = self
            .qkv
            .forward(x_BTH)?
            .f_view([b, t, 3, self.heads, h / self.heads])?
            .f_permute([2, 0, 3, 1, 4])?;
        let (q, k, v) = (qkv.i(0), qkv.i(1), qkv.i(2));
        let out_BNTD = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, false, None, false)?;
        Ok(out_BNTD.f_transpose(1, 2)?.f_reshape([b, t, h])?)
    }
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }
}

impl LayerNorm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }

    fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(Kind::Float)?, self.bias.f_to_kind(Kind::Float)?);
        Ok(x.f_layer_norm(weight.size(), Some(&weight), Some(&bias), self.eps, true)?)
    }
}

/// Loads parts by name, converted tensor by tensor.
struct Loader<'a> {
    weights: &'a Weights,
    prefix: &'static str,
    device: Device,
    kind: Kind,
}

impl Loader<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        self.weights.load(&format!("{}{name}", self.prefix), shape, self.kind, self.device)
    }

    fn linear(&self, name: &str, inputs: i64, outputs: i64) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Linear { weight, bias: self.tensor(&format!("{name}.bias"), &[outputs])? })
    }

    fn norm(&self, name: &str, size: i64, eps: f64) -> Result<LayerNorm> {
        let weight = self.tensor(&format!("{name}.weight"), &[size])?;
        Ok(LayerNorm { weight, bias: self.tensor(&format!("{name}.bias"), &[size])?, eps })
    }
}

/// Files written from a model with a task head have `bert.` before every name.
fn prefix(weights: &Weights) -> &'static str {
    if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" }
}

impl BertConfig {
    fn check(&self, path: &Path) -> Result<()> {
        if let Some(other) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "position embedding",
                name: other.to_owned(),
                supported: vec!["absolute"],
            });
        }
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        let bad = |key: &str, value: i64, reason: &str| Error::Config {
            path: path.to_owned(),
            key: key.to_owned(),
            value: value.to_string(),
            reason: reason.to_owned(),
        };
        if let Some((key, value)) = positive.into_iter().find(|(_, value)| *value < 1) {
            return Err(bad(key, value, "it must be at least 1"));
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            return Err(bad("hidden_size", self.hidden_size, "it must be a multiple of num_attention_heads"));
        }
        Ok(())
    }
}
