//! Cross-entropy and its gradient on the CPU, in place of the scores.

use crate::error::Result;
use crate::ffi;
use tch::Tensor;

/// Turns scores (C, V) into the gradient of their summed loss, softmax minus the target distribution, in place, and
/// returns the loss of each row, (C) f32. `smoothing` is the share of the target's probability that is spread evenly over the
/// vocabulary. Scores are f32 or bf16 on the CPU, contiguous; `targets` are (C) i64. Everything between is f32, and what a
/// sure target's probability lacks to 1 is summed from the others'.
///
/// # Errors
/// [`crate::Error::Torch`] for another device, dtype or shape, or a target outside of the vocabulary.
pub fn cross_entropy_into_gradient(scores: &mut Tensor, targets: &Tensor, smoothing: f64) -> Result<Tensor> {
    ffi::call_for_tensor("cross_entropy_into_gradient", |losses, fault| {
        // SAFETY: live tensors; the shim checks shapes and targets before it writes.
        unsafe { ffi::te_cross_entropy_(ffi::raw(scores), ffi::raw(targets), smoothing, losses, fault) }
    })
}
