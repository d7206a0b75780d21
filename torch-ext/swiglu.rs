//! SwiGLU (arXiv 2002.05202) on the CPU in one pass.

use crate::error::Result;
use crate::ffi;
use tch::Tensor;

/// `silu(gate) * up`, recorded for autograd: (…, 2 F), gate before up, to (…, F), f32 or bf16 on the CPU. Only the input is
/// kept for the backward pass.
///
/// # Errors
/// [`crate::Error::Torch`] for another device or dtype, or an odd width.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    // SAFETY: a live tensor and a place for the result.
    ffi::call_for_tensor("swiglu", |y, fault| unsafe { ffi::te_swiglu(ffi::raw(x), y, fault) })
}
