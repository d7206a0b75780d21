//! Attention over short texts on the CPU: rotation, scores, softmax and sums of values of a head while it is in cache.

use crate::error::Result;
use crate::ffi;
use std::ffi::c_int;
use tch::Tensor;

/// What [`short_attention`] is asked for, beside queries, keys and values.
#[derive(Debug)]
pub struct ShortAttention<'a> {
    /// Cosines of the rotary angles, (T, D/2) f32.
    pub cos: &'a Tensor,
    /// Sines, (T, D/2) f32: the pair (i, i + D/2) of a query or key is turned by its angle.
    pub sin: &'a Tensor,
    /// Added to the scores of each key, (B, T) in the type of the input: 0, or -inf for a key that is hidden.
    pub key_mask: Option<&'a Tensor>,
    /// Heads of queries (N).
    pub heads: i64,
    /// Heads of keys and values (K); divides N.
    pub kv_heads: i64,
    /// The first position that asks; those before it are only seen.
    pub from: i64,
    /// Whether a position sees itself and those before it alone.
    pub causal: bool,
}

/// softmax(q k^T / sqrt(D) + mask) v, recorded for autograd: (B, T, (N + 2 K) D), queries before keys before values, f32 or
/// bf16 on the CPU, to (B, T - from, N D). Everything between is f32. Its time grows with the square of T as that of any
/// attention, and its products are plain f32 ones: for texts of some dozens of tokens.
///
/// # Errors
/// [`crate::Error::Torch`] for another device or dtype, or shapes that do not fit.
pub fn short_attention(qkv: &Tensor, asked: &ShortAttention<'_>) -> Result<Tensor> {
    let mask = asked.key_mask.map_or(std::ptr::null_mut(), ffi::raw);
    ffi::call_for_tensor("short_attention", |y, fault| {
        // SAFETY: live tensors, or null for no mask; the shim checks every shape before it reads.
        unsafe {
            ffi::te_short_attention(
                ffi::raw(qkv),
                ffi::raw(asked.cos),
                ffi::raw(asked.sin),
                mask,
                asked.heads,
                asked.kv_heads,
                asked.from,
                c_int::from(asked.causal),
                y,
                fault,
            )
        }
    })
}
