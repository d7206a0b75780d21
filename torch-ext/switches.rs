//! libtorch's global switches.

use crate::Result;
use crate::ffi::{self, check};

/// Whether operations without a deterministic kernel are refused.
///
/// # Errors
/// libtorch's own.
pub fn set_deterministic(on: bool) -> Result<()> {
    // SAFETY: sets a flag
    check("set_deterministic", unsafe { ffi::te_set_deterministic(on) })
}

/// Whether fp32 matrix products on a GPU may round their inputs to TF32.
///
/// # Errors
/// libtorch's own.
pub fn set_tf32(on: bool) -> Result<()> {
    // SAFETY: sets a flag
    check("set_tf32", unsafe { ffi::te_set_tf32(on) })
}
