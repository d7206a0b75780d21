//! SwiGLU (GLU variants, arXiv 2002.05202).

use crate::{Result, gpu_kernels};
use tch::Tensor;

/// silu(gate) * up: (…, 2 F), gate before up, -> (…, F).
///
/// # Errors
/// libtorch's own.
pub(crate) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    if torch_ext::has_kernels(gate_up) {
        Ok(torch_ext::swiglu(gate_up)?)
    } else if gpu_kernels::take(gate_up) {
        Ok(torch_ext::cuda::fused::swiglu(gate_up)?)
    } else {
        composed(gate_up)
    }
}

/// Of libtorch's operations. One split in place of two slices: the backward pass of slices would pad each gradient with
/// zeros and add them.
pub(crate) fn composed(gate_up: &Tensor) -> Result<Tensor> {
    let width = gate_up.size().last().copied().unwrap_or(0) / 2;
    let parts = gate_up.f_split_with_sizes([width; 2], -1)?;
    let mut inner = parts[0].f_silu()?;
    inner = if inner.requires_grad() { inner.f_mul(&parts[1])? } else { inner.f_mul_(&parts[1])? };
    Ok(inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parity::{Case, check, random};
    use tch::Kind;

    #[test]
    fn the_kernel_equals_the_composition() {
        for shape in [[3, 5, 74], [1, 1, 2], [0, 3, 8], [20, 40, 100]] {
            let x = (random(&shape) * 4.0).transpose(0, 1).contiguous().transpose(0, 1);
            check(&Case {
                inputs: &[x],
                kernel: &|t| vec![swiglu(&t[0]).unwrap()],
                composed: &|t| vec![composed(&t[0]).unwrap()],
            });
        }
    }

    /// silu(x) = x s(x) shows the kernel's exponential over its whole range: within 4 units in the last place of f64's.
    #[test]
    fn the_exponential_is_exact_to_rounding_and_has_no_edge() {
        let x = Tensor::linspace(-86.9, 88.0, 200_001, (Kind::Double, tch::Device::Cpu));
        let gate = x.to_kind(Kind::Float);
        let up = gate.ones_like();
        let found = swiglu(&Tensor::stack(&[&gate, &up], 1)).unwrap().squeeze().to_kind(Kind::Double);
        let expected = gate.to_kind(Kind::Double).silu();
        let farthest = ((found - &expected) / expected.abs().clamp_min(1e-35)).abs().max().double_value(&[]);
        assert!(farthest < 4.0 * f64::from(f32::EPSILON), "{farthest:e}");
        for (gate, expected) in [(-200.0, 0.0), (1e30, 1e30), (f64::NAN, f64::NAN)] {
            let found = swiglu(&Tensor::from_slice(&[gate as f32, 1.0])).unwrap().double_value(&[0]);
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs().max(1e-29)
                    || (found.is_nan() && expected.is_nan()),
                "{gate}"
            );
        }
    }
}
