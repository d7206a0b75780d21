//! Which libtorch this program was built with, and which one it runs on.

use crate::ffi;
use std::ffi::CStr;

/// The version in the headers that this program was compiled with, such as "2.11.0".
pub fn libtorch_version_built() -> &'static str {
    // SAFETY: a string literal of the shim.
    unsafe { CStr::from_ptr(ffi::te_version_built()) }.to_str().unwrap_or("unknown")
}

/// The version of the library that was loaded, such as "2.11.0".
///
/// ```
/// assert_eq!(torch_ext::libtorch_version_loaded(), torch_ext::libtorch_version_built());
/// ```
pub fn libtorch_version_loaded() -> String {
    // SAFETY: a function without arguments.
    version_of(unsafe { ffi::te_abi_version_loaded() })
}

/// Whether the loaded libtorch is the one this program was built for; tch relies on the C++ ABI of exactly that one.
pub fn libtorch_versions_agree() -> bool {
    // SAFETY: functions without arguments.
    unsafe { ffi::te_abi_version_built() == ffi::te_abi_version_loaded() }
}

/// One byte each for major, minor and patch, from the highest (`torch/headeronly/version.h`).
fn version_of(abi: u64) -> String {
    let [major, minor, patch, ..] = abi.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_version_is_the_built_one() {
        assert_eq!(version_of((2 << 56) | (11 << 48)), "2.11.0");
        assert_eq!(libtorch_version_loaded(), libtorch_version_built());
        assert!(libtorch_versions_agree());
    }
}
