//! Operations on lists of tensors, one kernel launch for many tensors (libtorch's `_foreach_*`).
//!
//! None of them is recorded for autograd.

use crate::error::{Error, Result};
use crate::ffi;
use tch::{Kind, Tensor};

/// Copies each tensor of `src` into the one of `dst` at its place, converting the dtype (f32 masters to bf16).
///
/// # Errors
/// [`Error::Argument`] when the lists or the shapes differ (libtorch would broadcast), [`Error::Torch`] otherwise.
pub fn foreach_copy(dst: &[Tensor], src: &[Tensor]) -> Result<()> {
    const OP: &str = "_foreach_copy_";
    same_shapes(OP, dst, src)?;
    let (d, s) = (ffi::raw_list(dst), ffi::raw_list(src));
    // SAFETY: both arrays hold `dst.len()` pointers to live tensors.
    if_any(dst, || {
        ffi::call(OP, |fault| unsafe { ffi::te_foreach_copy(d.as_ptr(), s.as_ptr(), d.len(), fault) })
    })
}

/// Adds `value` to every element of every tensor, in place.
///
/// # Errors
/// [`Error::Torch`] when libtorch refuses, such as on integer tensors with a fraction.
pub fn foreach_add_scalar(tensors: &[Tensor], value: f64) -> Result<()> {
    let t = ffi::raw_list(tensors);
    if_any(tensors, || {
        // SAFETY: the array holds `t.len()` pointers to live tensors.
        ffi::call("_foreach_add_", |fault| unsafe {
            ffi::te_foreach_add_scalar(t.as_ptr(), t.len(), value, fault)
        })
    })
}

/// Multiplies every tensor by the 0-dim tensor `factor`, in place; `factor` is never read by the host.
///
/// # Errors
/// [`Error::Argument`] when `factor` has dimensions, [`Error::Torch`] otherwise.
pub fn foreach_mul_scalar_tensor(tensors: &[Tensor], factor: &Tensor) -> Result<()> {
    const OP: &str = "_foreach_mul_";
    if factor.dim() != 0 {
        let message = format!("the factor must have no dimension, and has the shape {:?}", factor.size());
        return Err(Error::Argument { op: OP, message });
    }
    let t = ffi::raw_list(tensors);
    if_any(tensors, || {
        // SAFETY: the array holds `t.len()` pointers to live tensors, and `factor` is one.
        ffi::call(OP, |fault| unsafe {
            ffi::te_foreach_mul_tensor(t.as_ptr(), t.len(), ffi::raw(factor), fault)
        })
    })
}

/// Moves each tensor of `ema` the share `weight` of its way to the one of `params` at its place, in place:
/// `ema += weight * (params - ema)`.
///
/// # Errors
/// [`Error::Argument`] when the lists or the shapes differ, [`Error::Torch`] otherwise.
pub fn foreach_lerp(ema: &[Tensor], params: &[Tensor], weight: f64) -> Result<()> {
    const OP: &str = "_foreach_lerp_";
    same_shapes(OP, ema, params)?;
    let (e, p) = (ffi::raw_list(ema), ffi::raw_list(params));
    if_any(ema, || {
        // SAFETY: both arrays hold `e.len()` pointers to live tensors.
        ffi::call(OP, |fault| unsafe { ffi::te_foreach_lerp(e.as_ptr(), p.as_ptr(), e.len(), weight, fault) })
    })
}

/// The Euclidean norm of all elements of all tensors together: a 0-dim f32 tensor on their device, computed without
/// the host waiting for it. Zero for no tensors.
///
/// # Errors
/// [`Error::Torch`] when libtorch refuses, such as on tensors of several devices.
pub fn global_norm(tensors: &[Tensor]) -> Result<Tensor> {
    const OP: &str = "_foreach_norm";
    if tensors.is_empty() {
        return Tensor::f_zeros([0i64; 0], (Kind::Float, tch::Device::Cpu))
            .map_err(|error| Error::Torch { op: OP, message: error.to_string() });
    }
    let t = ffi::raw_list(tensors);
    // SAFETY: the array holds `t.len()` pointers to live tensors.
    ffi::call_for_tensor(OP, |out, fault| unsafe { ffi::te_global_norm(t.as_ptr(), t.len(), out, fault) })
}

/// libtorch refuses empty lists; nothing to do is no fault.
fn if_any(tensors: &[Tensor], call: impl FnOnce() -> Result<()>) -> Result<()> {
    if tensors.is_empty() { Ok(()) } else { call() }
}

/// Lists of equal length whose tensors have pairwise equal shapes.
pub(crate) fn same_shapes(op: &'static str, one: &[Tensor], other: &[Tensor]) -> Result<()> {
    if one.len() != other.len() {
        let message = format!("lists of {} and {} tensors", one.len(), other.len());
        return Err(Error::Argument { op, message });
    }
    for (index, (a, b)) in one.iter().zip(other).enumerate() {
        if a.size() != b.size() {
            let message = format!("tensors {index} have the shapes {:?} and {:?}", a.size(), b.size());
            return Err(Error::Argument { op, message });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Device;

    fn randn(shapes: &[&[i64]]) -> Vec<Tensor> {
        shapes.iter().map(|shape| Tensor::randn(*shape, (Kind::Float, Device::Cpu))).collect()
    }

    fn copies(tensors: &[Tensor]) -> Vec<Tensor> {
        tensors.iter().map(Tensor::copy).collect()
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
    }

    #[test]
    fn copy_converts_and_reaches_leaves() {
        let src: Vec<_> =
            randn(&[&[3, 5], &[7], &[]]).into_iter().map(|t| t.set_requires_grad(true)).collect();
        let dst: Vec<_> = src
            .iter()
            .map(|t| Tensor::zeros(t.size(), (Kind::BFloat16, Device::Cpu)).set_requires_grad(true))
            .collect();
        foreach_copy(&dst, &src).unwrap();
        for (d, s) in dst.iter().zip(&src) {
            assert_eq!(d.kind(), Kind::BFloat16);
            assert_eq!(values(d), values(&s.to_kind(Kind::BFloat16)));
            assert!(d.is_leaf() && d.requires_grad());
        }
    }

    #[test]
    fn copy_does_not_broadcast() {
        let dst = randn(&[&[3, 4]]);
        let refused = foreach_copy(&dst, &randn(&[&[4]])).unwrap_err();
        assert!(refused.to_string().contains("[3, 4] and [4]"), "{refused}");
        assert!(foreach_copy(&dst, &[]).is_err());
        foreach_copy(&[], &[]).unwrap();
    }

    #[test]
    fn global_norm_is_the_norm_of_everything() {
        let tensors =
            [Tensor::from_slice(&[3.0f32, 0.0]), Tensor::from_slice(&[4.0f32]).to_kind(Kind::BFloat16)];
        let norm = global_norm(&tensors).unwrap();
        assert_eq!((norm.kind(), norm.dim()), (Kind::Float, 0));
        assert!((norm.double_value(&[]) - 5.0).abs() < 1e-6);
        assert_eq!(global_norm(&[]).unwrap().double_value(&[]), 0.0);
        let with_nan = [Tensor::from_slice(&[1.0f32]), Tensor::from_slice(&[f32::NAN])];
        assert!(global_norm(&with_nan).unwrap().double_value(&[]).is_nan());
    }

    #[test]
    fn multiplication_by_a_tensor_that_stays_on_its_device() {
        let tensors = randn(&[&[4, 4], &[2]]);
        let before = copies(&tensors);
        foreach_mul_scalar_tensor(&tensors, &Tensor::from(0.25f32)).unwrap();
        for (t, b) in tensors.iter().zip(&before) {
            assert_eq!(values(t), values(&(b * 0.25)));
        }
        assert!(foreach_mul_scalar_tensor(&tensors, &Tensor::from_slice(&[1.0f32])).is_err());
    }

    #[test]
    fn addition_counts_steps() {
        let steps = [Tensor::from(0.0f32), Tensor::from(41.0f32)];
        foreach_add_scalar(&steps, 1.0).unwrap();
        assert_eq!(steps.each_ref().map(|step| step.double_value(&[])), [1.0, 42.0]);
    }

    #[test]
    fn lerp_is_an_exponential_average() {
        let ema = randn(&[&[6], &[2, 3]]);
        let before = copies(&ema);
        let params = randn(&[&[6], &[2, 3]]);
        foreach_lerp(&ema, &params, 0.1).unwrap();
        for ((e, b), p) in ema.iter().zip(&before).zip(&params) {
            for ((e, b), p) in values(e).iter().zip(values(b)).zip(values(p)) {
                assert!((e - (b + 0.1 * (p - b))).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn an_exception_names_its_operation() {
        let integers = [Tensor::from_slice(&[1i64, 2])];
        let error = foreach_lerp(&integers, &[Tensor::from_slice(&[3i64, 4])], 0.5).unwrap_err();
        assert!(matches!(error, Error::Torch { op: "_foreach_lerp_", .. }), "{error:?}");
    }
}
