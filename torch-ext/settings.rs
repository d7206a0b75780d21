//! Process-wide switches of libtorch.

use crate::ffi;
use std::ffi::c_int;

/// Makes libtorch choose deterministic kernels, and refuse operations that have none.
///
/// On CUDA the matrix library also needs `CUBLAS_WORKSPACE_CONFIG=:4096:8` in the environment, from the start.
pub fn set_deterministic(on: bool) {
    // SAFETY: no pointer but the place for the message. These setters only store a flag.
    let _ = ffi::call("setDeterministicAlgorithms", |fault| unsafe {
        ffi::te_set_deterministic(c_int::from(on), fault)
    });
}

/// Lets CUDA compute f32 matrix products in TF32 (10 bits of mantissa), which tensor cores do many times faster.
pub fn set_tf32(on: bool) {
    // SAFETY: as above.
    let _ = ffi::call("setAllowTF32CuBLAS", |fault| unsafe { ffi::te_set_tf32(c_int::from(on), fault) });
}

/// Lets cuDNN compute attention. It plans for every shape anew (tens of milliseconds of the host each), which is for
/// models whose shapes stay: here batches and lengths change from step to step, and the other kernels need no plan.
pub fn set_cudnn_attention(on: bool) {
    // SAFETY: as above.
    let _ =
        ffi::call("setSDPUseCuDNN", |fault| unsafe { ffi::te_set_cudnn_attention(c_int::from(on), fault) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_can_be_thrown_without_cuda() {
        set_deterministic(true);
        let sum = tch::Tensor::ones([8, 8], (tch::Kind::Float, tch::Device::Cpu)).sum(tch::Kind::Float);
        assert_eq!(sum.double_value(&[]), 64.0);
        set_deterministic(false);
        set_tf32(true);
        set_tf32(false);
        set_cudnn_attention(false);
    }
}
