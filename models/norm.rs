//! RMSNorm (arXiv 1910.07467), and the sum into the residual stream before it.

use crate::Result;
use crate::params::{Group, Init, ParamStore};
use tch::{Kind, Tensor};

/// y = x / sqrt(mean(x^2) + eps) * gain.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    pub(crate) gain: Tensor,
    pub(crate) eps: f64,
}

impl RmsNorm {
    /// A norm over rows of `width` numbers.
    ///
    /// # Errors
    /// A parameter name that is taken.
    pub(crate) fn new(name: &str, width: i64, eps: f64, store: &mut ParamStore) -> Result<Self> {
        Ok(Self { gain: store.tensor(name, &[width], Init::Ones, Group::Gain)?, eps })
    }

    /// (…, width) -> the same.
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if torch_ext::has_kernels(x) {
            return Ok(torch_ext::rms_norm(x, &self.gain, self.eps)?);
        }
        self.of_libtorch(x)
    }

    /// (x + a, its norm).
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn add(&self, x: &Tensor, a: &Tensor) -> Result<(Tensor, Tensor)> {
        if torch_ext::has_kernels(x) {
            return Ok(torch_ext::add_rms_norm(x, a, &self.gain, self.eps)?);
        }
        let sum = x.f_add(a)?;
        let normed = self.of_libtorch(&sum)?;
        Ok((sum, normed))
    }

    /// One fused kernel on a GPU where `x` and the gain are of one type.
    fn of_libtorch(&self, x: &Tensor) -> Result<Tensor> {
        if x.device().is_cuda() && x.kind() == self.gain.kind() {
            return Ok(x.f_rms_norm(self.gain.size(), Some(&self.gain), self.eps)?);
        }
        self.composed(x)
    }

    /// Of libtorch's operations: the square sum in f32, the products in the type of `x`.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let precise = if x.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let norm = x.f_norm_scalaropt_dim_dtype(2.0, [-1].as_slice(), true, precise)?;
        let width = self.gain.size()[0] as f64;
        let scale = norm.f_square()?.f_div_scalar(width)?.f_add_scalar(self.eps)?.f_rsqrt()?;
        let scaled = if x.requires_grad() {
            x.f_mul(&scale.f_to_kind(x.kind())?)?
        } else {
            x.f_mul(&scale)?.f_to_kind(x.kind())?
        };
        Ok(scaled.f_mul(&self.gain)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::parity::{Case, check, random};
    use tch::Device;

    /// Against the composition in f64, at odd widths, with rows of zeros and strides.
    #[test]
    fn the_kernel_equals_the_composition() {
        for (shape, width) in [([5, 7], 16), ([1, 1], 1), ([3, 33], 37), ([0, 4], 8), ([70, 9], 384)] {
            let shape = [shape[0], shape[1], width];
            let (x, a) = (random(&shape) * 3.0, random(&shape));
            if shape[0] > 0 {
                let _ = x.get(0).get(0).fill_(0);
            }
            let gain = random(&[width]);
            let of = |t: &[Tensor]| RmsNorm { gain: t[1].shallow_clone(), eps: 1e-2 };
            check(&Case {
                inputs: &[x.shallow_clone(), gain.shallow_clone()],
                kernel: &|t| vec![of(t).forward(&t[0]).unwrap()],
                composed: &|t| vec![of(t).composed(&t[0]).unwrap()],
            });
            let turned = a.transpose(0, 1).contiguous().transpose(0, 1);
            check(&Case {
                inputs: &[x, gain, turned],
                kernel: &|t| {
                    let (sum, y) = of(t).add(&t[0], &t[2]).unwrap();
                    vec![sum, y]
                },
                composed: &|t| {
                    let sum = &t[0] + &t[2];
                    vec![sum.shallow_clone(), of(t).composed(&sum).unwrap()]
                },
            });
        }
    }

    #[test]
    fn it_equals_libtorchs() {
        let (x, gain) = (random(&[5, 7, 16]) * 3.0, random(&[16]));
        let norm = RmsNorm { gain: gain.shallow_clone(), eps: 1e-2 };
        let difference = norm.forward(&x).unwrap() - x.rms_norm([16], Some(&gain), 1e-2);
        assert!(difference.abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn zeros_have_a_finite_gradient_and_nan_stays() {
        let x = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let norm = RmsNorm { gain: Tensor::ones([4], (Kind::Float, Device::Cpu)), eps: 1e-5 };
        norm.forward(&x).unwrap().sum(Kind::Float).backward();
        assert!(bool::try_from(x.grad().isfinite().all()).unwrap());
        let _ = x.detach().narrow(1, 2, 1).fill_(f64::NAN);
        assert!(bool::try_from(norm.forward(&x).unwrap().isnan().all()).unwrap());
    }
}
