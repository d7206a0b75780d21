//! RMSNorm (arXiv 1910.07467) on the CPU, with the residual sum before it, in one pass.

use crate::error::Result;
use crate::ffi;
use tch::Tensor;

/// `x / sqrt(mean(x^2) + eps) * gain` over the last dimension, recorded for autograd: (…, H) and (H), f32 or bf16 on the
/// CPU, sums in f32. What is kept for the backward pass is `x` and a number a row.
///
/// # Errors
/// [`crate::Error::Torch`] for another device or dtype, or a gain that does not fit.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    ffi::call_for_tensor("rms_norm", |y, fault| {
        // SAFETY: live tensors; without a summand no sum is written.
        unsafe {
            let null = std::ptr::null_mut();
            ffi::te_add_rms_norm(ffi::raw(x), null, ffi::raw(gain), eps, null.cast(), y, fault)
        }
    })
}

/// (`x + a`, its RMSNorm), recorded for autograd: (…, H), the same, and a gain (H), of one dtype. The backward pass adds
/// what reaches the sum to what comes through the norm, in one pass too.
///
/// # Errors
/// As [`rms_norm`]; shapes that differ.
pub fn add_rms_norm(x: &Tensor, a: &Tensor, gain: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let mut sum = std::ptr::null_mut();
    let y = ffi::call_for_tensor("add_rms_norm", |y, fault| {
        // SAFETY: live tensors, and places for two results.
        unsafe { ffi::te_add_rms_norm(ffi::raw(x), ffi::raw(a), ffi::raw(gain), eps, &raw mut sum, y, fault) }
    })?;
    // SAFETY: on success the shim leaves a fresh tensor there.
    Ok((unsafe { Tensor::from_ptr(sum.cast()) }, y))
}
