//! BERT (Devlin et al., <https://arxiv.org/abs/1810.04805>): bidirectional, post-norm, absolute positions; and RoBERTa
//! (<https://arxiv.org/abs/1907.11692>) with XLM-R, whose positions begin behind the padding token's id.
//! Tensor names are those of Hugging Face's `BertModel` and `XLMRobertaModel`.
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
use crate::weights::Weights;

/// Which of the models with BERT's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Bert,
    /// RoBERTa and XLM-R.
    Roberta,
}

impl Family {
    /// Files written from a model with a task head have a prefix before every name.
    fn prefix(self, weights: &Weights) -> &'static str {
        let prefix = match self {
            Self::Bert => "bert.",
            Self::Roberta => "roberta.",
        };
        let word = format!("{prefix}embeddings.word_embeddings.weight");
        if weights.contains(&word) { prefix } else { "" }
    }

    /// The position of a text's first token (`create_position_ids_from_input_ids` in `modeling_roberta.py`).
    fn first_position(self, config: &BertConfig) -> i64 {
        self.padding(config).map_or(0, |padding| padding + 1)
    }

    /// The padding token's id where positions begin behind it. A text may hold the token: it is not counted then, and its
    /// position is its id.
    fn padding(self, config: &BertConfig) -> Option<i64> {
        match self {
            Self::Bert => None,
            Self::Roberta => Some(config.pad_token_id.unwrap_or(1)),
        }
    }
}

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
    pad_token_id: Option<i64>,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

/// The network. The table of words stays in the file's format and is converted row by row; all else is in the compute format.
pub(super) struct Bert {
    config: BertConfig,
    words_VH: Tensor,
    /// Of all positions, token type 0 added: every text is of type 0.
    positions_PH: Tensor,
    /// The row of a text's first token.
    first: i64,
    /// The id that has no place in a text's count, but the row before the first.
    unplaced: Option<u32>,
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

impl Bert {
    pub(super) fn load(family: Family, source: &Source<'_>) -> Result<Self> {
        let config: BertConfig = files::read_json(source.config)?;
        let first = family.first_position(&config);
        config.check(source.config, first)?;
        let activation = Activation::parse(source.config, &config.hidden_act)?;
        let load = Loader {
            prefix: family.prefix(&source.weights),
            weights: source.weights.clone(),
            device: source.device,
            kind: source.kind,
        };
        let h = config.hidden_size;
        let words_VH = load.embedding("embeddings.word_embeddings", config.vocab_size, h)?;
        let types_2H = load.table_f32("embeddings.token_type_embeddings", config.type_vocab_size, h)?;
        let positions_PH = load
            .table_f32("embeddings.position_embeddings", config.max_position_embeddings, h)?
            .f_add(&types_2H.f_select(0, 0)?)?;
        let unplaced = family.padding(&config).and_then(|padding| u32::try_from(padding).ok());
        let norm = load.norm("embeddings.LayerNorm", h, config.layer_norm_eps)?;
        let layers = (0..config.num_hidden_layers)
            .map(|n| Layer::load(&load, &format!("encoder.layer.{n}"), &config, activation))
            .collect::<Result<_>>()?;
        Ok(Self { config, words_VH, positions_PH, first, unplaced, norm, layers, kind: source.kind })
    }

    /// Of rows of the tables of words and of positions, (B, T, H) or (T, H) in f32.
    fn hidden_of_rows(
        &self,
        words_BTH: &Tensor,
        positions: &Tensor,
        mask_BT: Option<&Tensor>,
    ) -> Result<Tensor> {
        let summed_BTH = words_BTH.f_to_kind(Kind::Float)?.f_add(positions)?;
        // in f32, as the sum is; the parameters of the norm are few
        let mut x_BTH = self.norm.forward_f32(&summed_BTH)?.f_to_kind(self.kind)?;
        let mask = Mask::new(mask_BT.map_or(Attend::Full, Attend::Keys), &x_BTH)?;
        for layer in &self.layers {
            x_BTH = layer.forward(&x_BTH, &mask)?;
        }
        Ok(x_BTH)
    }
}

impl Backbone for Bert {
    fn dimensions(&self) -> Dimensions {
        let positions = (self.positions_PH.size()[0] - self.first) as usize;
        Dimensions { hidden: self.config.hidden_size, vocab: self.config.vocab_size, positions }
    }

    fn flops(&self, tokens: usize) -> f64 {
        let (h, f) = (self.config.hidden_size, self.config.intermediate_size);
        layer_flops(self.layers.len() as i64, 4 * h * h + 2 * h * f, h, tokens)
    }

    fn words(&self) -> &Tensor {
        &self.words_VH
    }

    fn hidden_of_words(&self, words_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let (_, length, _) = words_BTH.size3()?;
        let positions_TH = self.positions_PH.f_narrow(0, self.first, length)?;
        self.hidden_of_rows(words_BTH, &positions_TH, mask_BT)
    }

    fn odd_positions(&self, ids: &[u32]) -> Option<Vec<i64>> {
        let unplaced = self.unplaced.filter(|unplaced| ids.contains(unplaced))?;
        let mut counted = 0i64;
        let position = |&id: &u32| {
            if id == unplaced {
                return -1;
            }
            counted += 1;
            counted - 1
        };
        Some(ids.iter().map(position).collect())
    }

    fn hidden_at(&self, ids_BT: &Tensor, positions_BT: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let words_BTH = Tensor::f_embedding(&self.words_VH, ids_BT, -1, false, false)?;
        let rows_BT = positions_BT.f_add_scalar(self.first)?;
        let positions_BTH = Tensor::f_embedding(&self.positions_PH, &rows_BT, -1, false, false)?;
        self.hidden_of_rows(&words_BTH, &positions_BTH, mask_BT)
    }
}

impl Layer {
    fn load(load: &Loader, name: &str, config: &BertConfig, activation: Activation) -> Result<Self> {
        let (h, f, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let qkv = ["query", "key", "value"].map(|part| format!("{name}.attention.self.{part}"));
        Ok(Self {
            heads: config.num_attention_heads,
            qkv: load.stacked(&qkv.each_ref().map(String::as_str), h, h, Bias::Yes)?,
            output: load.linear(&format!("{name}.attention.output.dense"), h, h, Bias::Yes)?,
            attention_norm: load.norm(&format!("{name}.attention.output.LayerNorm"), h, eps)?,
            up: load.linear(&format!("{name}.intermediate.dense"), h, f, Bias::Yes)?,
            down: load.linear(&format!("{name}.output.dense"), f, h, Bias::Yes)?,
            output_norm: load.norm(&format!("{name}.output.LayerNorm"), h, eps)?,
            activation,
        })
    }

    fn forward(&self, x_BTH: &Tensor, mask: &Mask) -> Result<Tensor> {
        let attended_BTH = self.output.forward(&self.attend(x_BTH, mask)?)?;
        let x_BTH = self.attention_norm.forward(&attended_BTH.f_add(x_BTH)?)?;
        let inner_BTF = self.activation.apply(self.up.forward(&x_BTH)?)?;
        self.output_norm.forward(&self.down.forward(&inner_BTF)?.f_add(&x_BTH)?)
    }

    fn attend(&self, x_BTH: &Tensor, mask: &Mask) -> Result<Tensor> {
        let (b, t, h) = x_BTH.size3()?;
        let qkv = self
            .qkv
            .forward(x_BTH)?
            .f_view([b, t, 3, self.heads, h / self.heads])?
            .f_permute([2, 0, 3, 1, 4])?;
        let out_BNTD = attend(&qkv.i(0), &qkv.i(1), &qkv.i(2), mask)?;
        Ok(out_BNTD.f_transpose(1, 2)?.f_reshape([b, t, h])?)
    }
}

impl BertConfig {
    fn check(&self, path: &Path, first_position: i64) -> Result<()> {
        let checks = Checks(path);
        if let Some(other) = self.position_embedding_type.as_deref().filter(|kind| *kind != "absolute") {
            return Err(checks.unsupported("position embedding", other, "absolute"));
        }
        checks.positive(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings - first_position),
            ("type_vocab_size", self.type_vocab_size),
        ])?;
        if first_position < 0 {
            return Err(checks.bad("pad_token_id", first_position - 1, "positions begin behind it"));
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let reason = "it must be a multiple of num_attention_heads";
            return Err(checks.bad("hidden_size", self.hidden_size, reason));
        }
        Ok(())
    }
}
