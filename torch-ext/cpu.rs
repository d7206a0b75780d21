//! What this CPU has for matrix products in bfloat16.

use crate::ffi;
use std::sync::OnceLock;

/// The CPU's instructions that matter for bf16 matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuBf16 {
    /// AMX tiles with bf16 products, and the system's leave to use them. About 6 times the speed of f32.
    pub amx_tile: bool,
    /// Vector products of bf16 pairs (AVX512_BF16). About twice the speed of f32.
    pub avx512_bf16: bool,
    /// AVX-512 (F, BW, VL, DQ), which bf16 kernels without products of their own need to be worth their while.
    pub avx512: bool,
}

impl CpuBf16 {
    /// Whether bf16 products run on instructions of their own.
    pub fn fast(self) -> bool {
        self.amx_tile || self.avx512_bf16
    }
}

/// Asks the CPU, and the system for the use of AMX; the answer is kept.
pub fn cpu_bf16() -> CpuBf16 {
    static FOUND: OnceLock<CpuBf16> = OnceLock::new();
    *FOUND.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> CpuBf16 {
    use std::arch::is_x86_feature_detected;
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    CpuBf16 {
        amx_tile: amx_bf16_bits() && amx_granted(),
        avx512_bf16: avx512 && is_x86_feature_detected!("avx512bf16"),
        avx512,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> CpuBf16 {
    CpuBf16::default()
}

/// CPUID leaf 7: AMX-TILE is bit 24 of EDX, AMX-BF16 bit 22 (Intel SDM, volume 2A).
#[cfg(target_arch = "x86_64")]
fn amx_bf16_bits() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let leaves = __cpuid(0).eax;
    let bits = (1 << 24) | (1 << 22);
    leaves >= 7 && __cpuid_count(7, 0).edx & bits == bits
}

/// Linux hands tiles out on request only; libtorch asks in the same way before its first product.
#[cfg(target_arch = "x86_64")]
fn amx_granted() -> bool {
    let mut ready = 0;
    // SAFETY: both pointers are valid for a write.
    let asked = ffi::call("init_amx", |fault| unsafe { ffi::te_init_amx(&raw mut ready, fault) });
    asked.is_ok() && ready != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_agrees_with_the_system() {
        let found = cpu_bf16();
        assert_eq!(found, cpu_bf16());
        #[allow(clippy::disallowed_methods)]
        let Ok(flags) = std::fs::read_to_string("/proc/cpuinfo") else { return };
        assert_eq!(found.avx512_bf16, flags.contains(" avx512_bf16"));
        assert_eq!(found.avx512, flags.contains(" avx512bw") && flags.contains(" avx512dq"));
        assert!(!found.amx_tile || flags.contains(" amx_tile"));
    }
}
