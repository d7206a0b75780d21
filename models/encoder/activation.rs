//! Activation functions by the names that configurations use.

use std::path::Path;

use tch::Tensor;

use crate::error::{Error, Result};

/// An element-wise function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    Identity,
    /// With the error function.
    Gelu,
    /// With the hyperbolic tangent in its place.
    GeluTanh,
    Relu,
    Tanh,
    Silu,
    Sigmoid,
}

impl Activation {
    /// Reads Hugging Face's names (`gelu`) and PyTorch's class names (`torch.nn.modules.activation.GELU`).
    pub(super) fn parse(path: &Path, name: &str) -> Result<Self> {
        match name.rsplit('.').next().unwrap_or_default() {
            "Identity" => Ok(Self::Identity),
            "gelu" | "GELU" => Ok(Self::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Self::GeluTanh),
            "relu" | "ReLU" => Ok(Self::Relu),
            "tanh" | "Tanh" => Ok(Self::Tanh),
            "silu" | "swish" | "SiLU" => Ok(Self::Silu),
            "Sigmoid" => Ok(Self::Sigmoid),
            _ => Err(Error::Unsupported {
                path: path.to_owned(),
                what: "activation",
                name: name.to_owned(),
                supported: vec![
                    "Identity",
                    "gelu",
                    "gelu_new",
                    "gelu_pytorch_tanh",
                    "relu",
                    "tanh",
                    "silu",
                    "Sigmoid",
                ],
            }),
        }
    }

    /// The function, in place where no gradient needs what was there.
    pub(super) fn apply(self, mut x: Tensor) -> Result<Tensor> {
        if x.requires_grad() {
            return self.of(&x);
        }
        Ok(match self {
            Self::Identity => x,
            Self::Gelu => x.f_gelu_("none")?,
            Self::GeluTanh => x.f_gelu_("tanh")?,
            Self::Relu => x.f_relu_()?,
            Self::Tanh => x.f_tanh_()?,
            Self::Silu => x.f_silu_()?,
            Self::Sigmoid => x.f_sigmoid_()?,
        })
    }

    fn of(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Identity => x.shallow_clone(),
            Self::Gelu => x.f_gelu("none")?,
            Self::GeluTanh => x.f_gelu("tanh")?,
            Self::Relu => x.f_relu()?,
            Self::Tanh => x.f_tanh()?,
            Self::Silu => x.f_silu()?,
            Self::Sigmoid => x.f_sigmoid()?,
        })
    }
}
