//! The decoder one position a row, on the CPU: matrix products with weights laid out beforehand, and between them
//! kernels that take one pass. The residual stream stays in f32.
//!
//! A row is one position of one text. Rows of a call may stand at any positions, several of them in one text, so that
//! texts which begin (prefix and BOS) are computed together with those that go on.
#![allow(non_snake_case)]

use crate::{Decoder, Result};
use tch::{Device, Kind, Tensor};
use torch_ext::decode::{PackedLinear, Picked, Places, add_norm, cached_attention, pick};
use torch_ext::swiglu;

/// Weights of a decoder as a step reads them. One for each thread: [`Stepper::shallow_clone`].
#[derive(Debug)]
pub(super) struct Stepper {
    /// (V, H), what tokens are looked up in
    embedding_VH: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    /// The last norm's gain in f32, for the states that candidates are scored with.
    gain_H: Tensor,
    head: Linear,
    head_VH: Tensor,
    /// cos and sin of every position's angles, (capacity, D / 2) f32.
    rope: [Tensor; 2],
    heads: i64,
    shape: CacheShape,
}

#[derive(Debug, Clone, Copy)]
struct CacheShape {
    kv_heads: i64,
    capacity: i64,
    head_dim: i64,
    kind: Kind,
}

#[derive(Debug)]
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    gate_up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Norm {
    gain_H: Tensor,
    eps: f64,
}

#[derive(Debug)]
enum Linear {
    Packed(PackedLinear),
    Plain(Tensor, Option<Tensor>),
}

/// Keys and values of the texts in flight, (slots, K, capacity, D) a layer. A text's positions may lie in several
/// slots: a table says where, and nothing is ever moved.
#[derive(Debug)]
pub(super) struct Slots(Vec<[Tensor; 2]>);

impl Stepper {
    /// Whether there are kernels for this decoder.
    pub(super) fn fits(decoder: &Decoder) -> bool {
        let kind = matches!(decoder.kind(), Kind::Float | Kind::BFloat16);
        kind && decoder.device() == Device::Cpu
            && decoder.stack.blocks.iter().all(|block| block.qk_norm.is_none())
    }

    /// Takes over the weights as they are now, for texts of up to `capacity` positions and about `rows` rows a step.
    pub(super) fn new(decoder: &Decoder, capacity: i64, rows: i64) -> Result<Self> {
        let (config, kind) = (decoder.config(), decoder.kind());
        // oneDNN lays a bf16 weight out anew in every product: doing it once costs what one step loses
        let packs = kind == Kind::BFloat16 && torch_ext::cpu_bf16().fast();
        let linear = |weight: &Tensor, bias: Option<&Tensor>| -> Result<Linear> {
            Ok(if packs {
                Linear::Packed(PackedLinear::new(weight, bias, rows)?)
            } else {
                Linear::Plain(weight.shallow_clone(), bias.map(Tensor::shallow_clone))
            })
        };
        let norm = |norm: &crate::norm::RmsNorm| Norm { gain_H: norm.gain.shallow_clone(), eps: norm.eps };
        let layer = |block: &crate::blocks::Block| -> Result<Layer> {
            Ok(Layer {
                norm1: norm(&block.norm1),
                qkv: linear(&block.qkv, block.qkv_bias.as_ref())?,
                out: linear(&block.out, None)?,
                norm2: norm(&block.norm2),
                gate_up: linear(&block.gate_up, None)?,
                down: linear(&block.down, None)?,
            })
        };
        let shape = CacheShape { kv_heads: config.kv_heads, capacity, head_dim: config.head_dim, kind };
        Ok(Self {
            embedding_VH: decoder.embedding.shallow_clone(),
            layers: decoder.stack.blocks.iter().map(layer).collect::<Result<_>>()?,
            norm: norm(&decoder.stack.norm),
            gain_H: decoder.stack.norm.gain.f_to_kind(Kind::Float)?,
            head: linear(decoder.head_weight(), None)?,
            head_VH: decoder.head_weight().shallow_clone(),
            rope: decoder.stack.rope.half_angles(capacity)?,
            heads: config.heads,
            shape,
        })
    }

    /// The same for another thread.
    pub(super) fn shallow_clone(&self) -> Self {
        Self {
            embedding_VH: self.embedding_VH.shallow_clone(),
            layers: self.layers.iter().map(Layer::shallow_clone).collect(),
            norm: self.norm.shallow_clone(),
            gain_H: self.gain_H.shallow_clone(),
            head: self.head.shallow_clone(),
            head_VH: self.head_VH.shallow_clone(),
            rope: self.rope.each_ref().map(Tensor::shallow_clone),
            heads: self.heads,
            shape: self.shape,
        }
    }

    /// Longest text with its prefix.
    pub(super) fn capacity(&self) -> usize {
        self.shape.capacity as usize
    }

    /// Room for so many texts.
    pub(super) fn slots(&self, count: usize) -> Result<Slots> {
        let CacheShape { kv_heads, capacity, head_dim, kind } = self.shape;
        let empty = || Tensor::f_empty([count as i64, kv_heads, capacity, head_dim], (kind, Device::Cpu));
        let layer = |_: &Layer| Ok([empty()?, empty()?]);
        Ok(Slots(self.layers.iter().map(layer).collect::<Result<_>>()?))
    }

    /// Input embeddings of tokens, (R, H) f32.
    pub(super) fn embed(&self, tokens: &[i64]) -> Result<Tensor> {
        Ok(self.embedding_VH.f_index_select(0, &Tensor::f_from_slice(tokens)?)?.f_to_kind(Kind::Float)?)
    }

    /// Input embeddings (R, H) f32, which are used up, at their places -> the last norm's input at the `wanted` rows,
    /// (W, H) f32. Keys and values of all rows are in the slots then.
    pub(super) fn forward(
        &self,
        x_RH: Tensor,
        places: &Places,
        wanted: &[i64],
        slots: &mut Slots,
    ) -> Result<Tensor> {
        let mut x_RH = x_RH;
        let mut delta_RH: Option<Tensor> = None;
        for (index, (layer, [keys, values])) in self.layers.iter().zip(&slots.0).enumerate() {
            let h_RH = add_norm(&x_RH, delta_RH.as_ref(), &layer.norm1.gain_H, layer.norm1.eps)?;
            let qkv_RM = layer.qkv.forward(&h_RH)?;
            let mut y_RM =
                cached_attention(&qkv_RM, [keys, values], places, self.heads, self.rope.each_ref())?;
            // what follows the last attention is of use only where something is predicted
            if index + 1 == self.layers.len() && wanted.len() < places.slots.len() {
                let wanted = Tensor::f_from_slice(wanted)?;
                x_RH = x_RH.f_index_select(0, &wanted)?;
                y_RM = y_RM.f_index_select(0, &wanted)?;
            }
            let h_RH =
                add_norm(&x_RH, Some(&layer.out.forward(&y_RM)?), &layer.norm2.gain_H, layer.norm2.eps)?;
            let inner_RF = swiglu(&layer.gate_up.forward(&h_RH)?)?;
            delta_RH = Some(layer.down.forward(&inner_RF)?);
        }
        if let Some(delta_RH) = delta_RH {
            let _ = x_RH.f_add_(&delta_RH)?;
        }
        Ok(x_RH)
    }

    /// The `keep` most probable tokens of each row of the last norm's input, (W, H) f32.
    pub(super) fn pick(&self, x_WH: &Tensor, keep: usize) -> Result<Picked> {
        let logits_WV = self.scores(x_WH)?;
        let states_WH = add_norm(x_WH, None, &self.gain_H, self.norm.eps)?;
        Ok(pick(&logits_WV, &states_WH, &self.head_VH, keep)?)
    }

    /// Logits of all tokens, (W, H) f32 -> (W, V) f32.
    pub(super) fn logits(&self, x_WH: &Tensor) -> Result<Tensor> {
        Ok(self.scores(x_WH)?.f_to_kind(Kind::Float)?)
    }

    fn scores(&self, x_WH: &Tensor) -> Result<Tensor> {
        self.head.forward(&add_norm(x_WH, None, &self.norm.gain_H, self.norm.eps)?)
    }
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Packed(packed) => packed.forward(x)?,
            Self::Plain(weight, bias) => x.f_linear(weight, bias.as_ref())?,
        })
    }

    fn shallow_clone(&self) -> Self {
        match self {
            Self::Packed(packed) => Self::Packed(packed.shallow_clone()),
            Self::Plain(weight, bias) => {
                Self::Plain(weight.shallow_clone(), bias.as_ref().map(Tensor::shallow_clone))
            }
        }
    }
}

impl Norm {
    fn shallow_clone(&self) -> Self {
        Self { gain_H: self.gain_H.shallow_clone(), eps: self.eps }
    }
}

impl Layer {
    fn shallow_clone(&self) -> Self {
        Self {
            norm1: self.norm1.shallow_clone(),
            qkv: self.qkv.shallow_clone(),
            out: self.out.shallow_clone(),
            norm2: self.norm2.shallow_clone(),
            gate_up: self.gate_up.shallow_clone(),
            down: self.down.shallow_clone(),
        }
    }
}
