//! Layers that encoders share, loaded by their names on disk.

use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::weights::Weights;

/// y = W x + b.
pub(super) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// Layer normalisation over the last dimension (arXiv 1607.06450).
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)?)
    }

    /// For states in f32, whatever the format of the parameters.
    pub(super) fn forward_f32(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight.f_to_kind(Kind::Float)?, self.bias.f_to_kind(Kind::Float)?);
        Ok(x.f_layer_norm(weight.size(), Some(&weight), Some(&bias), self.eps, true)?)
    }
}

/// Whether a linear layer has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    Yes,
    No,
}

/// Loads parts by name, converted tensor by tensor.
pub(super) struct Loader {
    pub(super) weights: Rc<Weights>,
    /// What stands before every name in this file.
    pub(super) prefix: &'static str,
    pub(super) device: Device,
    pub(super) kind: Kind,
}

impl Loader {
    /// A table of token embeddings in the file's own format: rows are converted as they are looked up, so that a large
    /// table costs no copy.
    pub(super) fn embedding(&self, name: &str, rows: i64, width: i64) -> Result<Tensor> {
        let name = format!("{}{name}.weight", self.prefix);
        Ok(self.weights.get(&name, &[rows, width])?.f_to_device(self.device)?)
    }

    /// A small table in f32.
    pub(super) fn table_f32(&self, name: &str, rows: i64, width: i64) -> Result<Tensor> {
        let name = format!("{}{name}.weight", self.prefix);
        self.weights.load(&name, &[rows, width], Kind::Float, self.device)
    }

    pub(super) fn linear(&self, name: &str, inputs: i64, outputs: i64, bias: Bias) -> Result<Linear> {
        self.stacked(&[name], inputs, outputs, bias)
    }

    /// Several layers of the same input and output widths as one.
    pub(super) fn stacked(&self, names: &[&str], inputs: i64, outputs: i64, bias: Bias) -> Result<Linear> {
        let load = |part: &str, columns: &[i64]| {
            let full: Vec<_> = names.iter().map(|name| format!("{}{name}.{part}", self.prefix)).collect();
            match full.as_slice() {
                [name] => {
                    let shape: Vec<i64> = std::iter::once(outputs).chain(columns.iter().copied()).collect();
                    self.weights.load(name, &shape, self.kind, self.device)
                }
                _ => {
                    let parts: Vec<_> = full.iter().map(|name| (name.as_str(), outputs)).collect();
                    self.weights.load_stacked(&parts, columns, self.kind, self.device)
                }
            }
        };
        Ok(Linear {
            weight: load("weight", &[inputs])?,
            bias: (bias == Bias::Yes).then(|| load("bias", &[])).transpose()?,
        })
    }

    pub(super) fn norm(&self, name: &str, size: i64, eps: f64) -> Result<LayerNorm> {
        let load = |part: &str| {
            self.weights.load(&format!("{}{name}.{part}", self.prefix), &[size], self.kind, self.device)
        };
        Ok(LayerNorm { weight: load("weight")?, bias: load("bias")?, eps })
    }
}
