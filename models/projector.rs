//! The projector: a vector becomes the input embeddings of the prefix.
#![allow(non_snake_case)]

use crate::Result;
use crate::decoder_config::{Activation, DecoderConfig};
use crate::params::{Group, Init, ParamStore};
use tch::{Kind, Tensor};

/// Parameters of the layer that the prefix embeddings come out of.
pub(crate) const OUTPUT: [&str; 2] = ["projector.fc2.weight", "projector.fc2.bias"];

/// Two linear layers with an activation between: (B, dim) -> (B, P, H).
#[derive(Debug)]
pub struct Projector {
    fc1: (Tensor, Tensor),
    fc2: (Tensor, Tensor),
    /// mean and scale per input number, where the recipe asked for them
    input: Option<(Tensor, Tensor)>,
    input_scale: f64,
    activation: Activation,
    prefix_tokens: i64,
    hidden: i64,
    kind: Kind,
}

impl Projector {
    /// Parameters `projector.fc1.weight` (projector_hidden, dim), `projector.fc2.weight` (P H, projector_hidden),
    /// their biases, and where the configuration says so the buffers `projector.input.mean` and
    /// `projector.input.scale` (dim).
    ///
    /// # Errors
    /// A parameter name that is taken.
    pub fn new(config: &DecoderConfig, store: &mut ParamStore) -> Result<Self> {
        let (middle, out) = (config.projector_hidden, config.prefix_tokens * config.hidden);
        let mut layer = |name: &str, rows: i64, columns: i64| -> Result<(Tensor, Tensor)> {
            let weight = format!("projector.{name}.weight");
            let weight = store.tensor(&weight, &[rows, columns], Init::Normal(0.02), Group::Matrix)?;
            let bias = store.tensor(&format!("projector.{name}.bias"), &[rows], Init::Zeros, Group::Gain)?;
            Ok((weight, bias))
        };
        let (fc1, fc2) = (layer("fc1", middle, config.dim)?, layer("fc2", out, middle)?);
        let input = if config.input_normalization {
            let mean = store.buffer("projector.input.mean", &[config.dim], Init::Zeros)?;
            Some((mean, store.buffer("projector.input.scale", &[config.dim], Init::Ones)?))
        } else {
            None
        };
        Ok(Self {
            fc1,
            fc2,
            input,
            input_scale: config.input_scale,
            activation: config.activation,
            prefix_tokens: config.prefix_tokens,
            hidden: config.hidden,
            kind: store.compute_kind(),
        })
    }

    /// (B, dim) f32 -> (B, P, H) in the compute type.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn forward(&self, v_BD: &Tensor) -> Result<Tensor> {
        let x = match &self.input {
            Some((mean, scale)) => v_BD.f_sub(mean)?.f_mul(scale)?,
            None => v_BD.f_mul_scalar(self.input_scale)?,
        };
        let x = x.f_to_kind(self.kind)?.f_linear(&self.fc1.0, Some(&self.fc1.1))?;
        let x = match self.activation {
            Activation::Gelu => x.f_gelu("none")?,
            Activation::Silu => x.f_silu()?,
        };
        let x = x.f_linear(&self.fc2.0, Some(&self.fc2.1))?;
        Ok(x.f_view([-1, self.prefix_tokens, self.hidden])?)
    }
}
