//! The architecture that gte-en-v1.5 and STELLA 400M v5 call `new`: BERT's post-norm order with rotary positions, one
//! packed projection for query, key and value, and a gated feed-forward layer.
//!
//! Names and formulas as `modeling.py` of Alibaba-NLP/new-impl has them; docs/stella.md lists the sources compared.
#![allow(non_snake_case)]

use std::path::Path;

use serde::Deserialize;
use tch::{IndexOp, Kind, Tensor};

use super::activation::Activation;
use super::backbone::{Backbone, Dimensions, Source, layer_flops};
use super::checks::Checks;
use super::parts::{Bias, LayerNorm, Linear, Loader};
use crate::attention::{Attend, Mask, attend};
use crate::error::Result;
use crate::files;
use crate::rope::{self, Rope, Rotation};

/// The part of `config.json` that decides the numbers.
#[derive(Debug, Deserialize)]
struct GteConfig {
    vocab_size: i64,
    hidden_size: i64,
    num_hidden_layers: usize,
    num_attention_heads: i64,
    intermediate_size: i64,
    hidden_act: String,
    max_position_embeddings: i64,
    type_vocab_size: i64,
    layer_norm_eps: f64,
    rope_theta: f64,
    rope_scaling: Option<RopeScaling>,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    layer_norm_type: Option<String>,
    #[serde(default = "yes")]
    pack_qkv: bool,
}

#[derive(Debug, Deserialize)]
struct RopeScaling {
    #[serde(rename = "type")]
    kind: String,
    factor: f64,
    mixed_b: Option<f64>,
}

fn yes() -> bool {
    true
}

/// The network. The table of words stays in the file's format and is converted row by row; all else is in the compute format.
pub(super) struct Gte {
    config: GteConfig,
    words_VH: Tensor,
    /// Of token type 0, which every text is of; (H) f32.
    type_H: Option<Tensor>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    rope: Rope,
    kind: Kind,
}

struct Layer {
    heads: i64,
    qkv: Linear,
    output: Linear,
    attention_norm: LayerNorm,
    /// First the half that is multiplied, then the half that goes through the activation.
    up_gate: Linear,
    down: Linear,
    output_norm: LayerNorm,
    activation: Activation,
}

impl Gte {
    pub(super) fn load(source: &Source<'_>) -> Result<Self> {
        let config: GteConfig = files::read_json(source.config)?;
        config.check(source.config)?;
        let activation = Activation::parse(source.config, &config.hidden_act)?;
        let prefixed = source.weights.contains("new.embeddings.word_embeddings.weight");
        let load = Loader {
            weights: source.weights.clone(),
            prefix: if prefixed { "new." } else { "" },
            device: source.device,
            kind: source.kind,
        };
        let (h, eps) = (config.hidden_size, config.layer_norm_eps);
        let type_H = if config.type_vocab_size > 0 {
            Some(load.table_f32("embeddings.token_type_embeddings", config.type_vocab_size, h)?.i(0))
        } else {
            None
        };
        let layers = (0..config.num_hidden_layers)
            .map(|n| Layer::load(&load, &format!("encoder.layer.{n}"), &config, activation))
            .collect::<Result<_>>()?;
        let rope = Rope::new(config.frequencies()?, source.kind, source.device)?;
        Ok(Self {
            words_VH: load.embedding("embeddings.word_embeddings", config.vocab_size, h)?,
            type_H,
            norm: load.norm("embeddings.LayerNorm", h, eps)?,
            layers,
            rope,
            config,
            kind: source.kind,
        })
    }
}

impl Backbone for Gte {
    fn dimensions(&self) -> Dimensions {
        let positions = self.config.max_position_embeddings as usize;
        Dimensions { hidden: self.config.hidden_size, vocab: self.config.vocab_size, positions }
    }

    fn flops(&self, tokens: usize) -> f64 {
        let (h, f) = (self.config.hidden_size, self.config.intermediate_size);
        layer_flops(self.layers.len() as i64, 4 * h * h + 3 * h * f, h, tokens)
    }

    fn words(&self) -> &Tensor {
        &self.words_VH
    }

    fn hidden_of_words(&self, words_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let mut x_BTH = words_BTH.f_to_kind(Kind::Float)?;
        if let Some(type_H) = &self.type_H {
            x_BTH = x_BTH.f_add(type_H)?;
        }
        x_BTH = self.norm.forward_f32(&x_BTH)?.f_to_kind(self.kind)?;
        let rotation = self.rope.at(0, words_BTH.size()[1])?;
        let mask = Mask::new(mask_BT.map_or(Attend::Full, Attend::Keys), &x_BTH)?;
        for layer in &self.layers {
            x_BTH = layer.forward(&x_BTH, &rotation, &mask)?;
        }
        Ok(x_BTH)
    }
}

impl Layer {
    fn load(load: &Loader, name: &str, config: &GteConfig, activation: Activation) -> Result<Self> {
        let (h, f, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let qkv = if config.pack_qkv {
            load.linear(&format!("{name}.attention.qkv_proj"), h, 3 * h, Bias::Yes)?
        } else {
            let parts = ["q", "k", "v"].map(|part| format!("{name}.attention.{part}_proj"));
            load.stacked(&parts.each_ref().map(String::as_str), h, h, Bias::Yes)?
        };
        Ok(Self {
            heads: config.num_attention_heads,
            qkv,
            output: load.linear(&format!("{name}.attention.o_proj"), h, h, Bias::Yes)?,
            attention_norm: load.norm(&format!("{name}.attn_ln"), h, eps)?,
            up_gate: load.linear(&format!("{name}.mlp.up_gate_proj"), h, 2 * f, Bias::No)?,
            down: load.linear(&format!("{name}.mlp.down_proj"), f, h, Bias::Yes)?,
            output_norm: load.norm(&format!("{name}.mlp_ln"), h, eps)?,
            activation,
        })
    }

    fn forward(&self, x_BTH: &Tensor, rotation: &Rotation, mask: &Mask) -> Result<Tensor> {
        let attended_BTH = self.output.forward(&self.attend(x_BTH, rotation, mask)?)?;
        let x_BTH = self.attention_norm.forward(&attended_BTH.f_add(x_BTH)?)?;
        let up_gate = self.up_gate.forward(&x_BTH)?.f_chunk(2, -1)?;
        let mut gate_BTF = self.activation.apply(up_gate[1].f_contiguous()?)?;
        // in place where no gradient needs what was there
        let inner_BTF = if gate_BTF.requires_grad() {
            gate_BTF.f_mul(&up_gate[0])?
        } else {
            gate_BTF.f_mul_(&up_gate[0])?
        };
        self.output_norm.forward(&self.down.forward(&inner_BTF)?.f_add(&x_BTH)?)
    }

    fn attend(&self, x_BTH: &Tensor, rotation: &Rotation, mask: &Mask) -> Result<Tensor> {
        let (b, t, h) = x_BTH.size3()?;
        let (n, d) = (self.heads, h / self.heads);
        let qkv_BTMD = self.qkv.forward(x_BTH)?.f_view([b, t, 3 * n, d])?;
        let turned = rotation.apply(&qkv_BTMD.f_narrow(2, 0, 2 * n)?)?.f_transpose(1, 2)?;
        let v_BNTD = qkv_BTMD.f_narrow(2, 2 * n, n)?.f_transpose(1, 2)?;
        let out_BNTD = attend(&turned.f_narrow(1, 0, n)?, &turned.f_narrow(1, n, n)?, &v_BNTD, mask)?;
        Ok(out_BNTD.f_transpose(1, 2)?.f_reshape([b, t, h])?)
    }
}

impl GteConfig {
    /// Radians a position. With NTK scaling by a factor s, theta is s times as large and each frequency divided by
    /// s^(2/D) (`NTKScalingRotaryEmbedding` without `mixed_b`).
    fn frequencies(&self) -> Result<Tensor> {
        let dim = self.hidden_size / self.num_attention_heads;
        match &self.rope_scaling {
            None => rope::frequencies(dim, self.rope_theta),
            Some(RopeScaling { factor, .. }) => {
                let stretched = rope::frequencies(dim, self.rope_theta * factor)?;
                Ok(stretched.f_div_scalar(factor.powf(2.0 / dim as f64))?)
            }
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let checks = Checks(path);
        if let Some(other) = self.position_embedding_type.as_deref().filter(|kind| *kind != "rope") {
            return Err(checks.unsupported("position embedding", other, "rope"));
        }
        if let Some(other) = self.layer_norm_type.as_deref().filter(|kind| *kind != "layer_norm") {
            return Err(checks.unsupported("layer norm", other, "layer_norm"));
        }
        if let Some(RopeScaling { kind, mixed_b, .. }) = &self.rope_scaling
            && (kind != "ntk" || mixed_b.is_some())
        {
            let name = if mixed_b.is_some() { "ntk with mixed_b" } else { kind };
            return Err(checks.unsupported("rope scaling", name, "ntk"));
        }
        checks.positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
        ])?;
        let factor = self.rope_scaling.as_ref().map_or(1.0, |scaling| scaling.factor);
        checks.positive(&[("rope_theta", self.rope_theta), ("rope_scaling.factor", factor)])?;
        if self.hidden_size % (2 * self.num_attention_heads) != 0 {
            let reason = "it must be an even multiple of num_attention_heads";
            return Err(checks.bad("hidden_size", self.hidden_size, reason));
        }
        Ok(())
    }
}
