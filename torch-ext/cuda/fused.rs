//! Operations of a decoder's blocks on a GPU, each one pass over its memory where libtorch's single operations take many.
//! They must be loaded first ([`load_kernels`]); [`crate::swiglu()`] and [`crate::short_attention()`] are the CPU's.

use std::ffi::CStr;
use std::sync::OnceLock;

use tch::Tensor;

use super::object::{NoCuda, object};
use crate::error::{Error, Result};
use crate::ffi::{self, RawTensor, call, call_for_tensor};

#[cfg(feature = "cuda")]
const PTX: Option<&[u8]> = Some(include_bytes!(concat!(env!("OUT_DIR"), "/kernels.ptx")));
#[cfg(not(feature = "cuda"))]
const PTX: Option<&[u8]> = None;

/// The kernels as PTX, which the driver compiles for its card; `None` where the program was built without the feature
/// `cuda`.
pub fn kernels() -> Option<&'static CStr> {
    CStr::from_bytes_until_nul(PTX?).ok()
}

/// Hands the kernels to the driver, once a process. Not in the middle of a recording ([`crate::CudaGraph`]).
///
/// # Errors
/// [`Error::NoCuda`]; [`Error::Torch`] for a driver that is older than CUDA 13. The answer is kept.
pub fn load_kernels() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let object = object()?;
    let ptx = kernels().ok_or(Error::NoCuda { reason: NoCuda::NotBuilt })?;
    // SAFETY: text with a nul at its end.
    let load = || call("cudaLibraryLoadData", |fault| unsafe { (object.load_kernels)(ptx.as_ptr(), fault) });
    let loaded = LOADED.get_or_init(|| load().map_err(|error| error.to_string()));
    loaded.clone().map_err(|message| Error::Torch { op: "cudaLibraryLoadData", message })
}

/// `silu(gate) * up` ([GLU variants](https://arxiv.org/abs/2002.05202)), recorded for autograd: (…, 2 F), gate before up, to
/// (…, F), f32 or bf16 on a GPU. Only the input is kept for the backward pass.
///
/// # Errors
/// [`Error::NoCuda`], [`Error::Torch`] for another device or dtype, an odd width, or kernels that are not loaded.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    let object = object()?;
    // SAFETY: a live tensor and a place for the result.
    call_for_tensor("swiglu", |y, fault| unsafe { (object.swiglu)(ffi::raw(x), y, fault) })
}

/// Queries, keys and values apart, (B, T, N, D) and twice (B, T, K, D), of (B, T, (N + 2 K) D), f32 or bf16 on a GPU; queries
/// and keys turned by the angles of their positions, of which `cos` and `sin` are given, (T, D/2) f32 ([RoFormer](
/// https://arxiv.org/abs/2104.09864), rotate-half). Recorded for autograd; nothing is kept for the backward pass but the
/// angles.
///
/// # Errors
/// As [`swiglu`]; shapes that do not fit.
pub fn turn(
    qkv: &Tensor,
    [cos, sin]: [&Tensor; 2],
    (heads, kv_heads): (i64, i64),
) -> Result<(Tensor, Tensor, Tensor)> {
    let object = object()?;
    let [mut q, mut k, mut v]: [RawTensor; 3] = [std::ptr::null_mut(); 3];
    call("turn", |fault| {
        let [qkv, cos, sin] = [qkv, cos, sin].map(ffi::raw);
        // SAFETY: live tensors, and places for three results.
        unsafe { (object.turn)(qkv, cos, sin, heads, kv_heads, &raw mut q, &raw mut k, &raw mut v, fault) }
    })?;
    // SAFETY: on success the object leaves fresh tensors there.
    let [q, k, v] = [q, k, v].map(|tensor| unsafe { Tensor::from_ptr(tensor.cast()) });
    Ok((q, k, v))
}
