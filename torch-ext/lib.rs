//! What libtorch has and tch lacks: fused and multi-tensor kernels, zero-copy tensors over a memory-mapped file,
//! generator states, allocator statistics, the opening of `libtorch_cuda` and what needs it ([`cuda`]), several
//! processes as one ([`c10d`]), what the CPU can do, and single-pass CPU kernels for a decoder's blocks and loss.
//!
//! This crate holds the project's only C++ and its only `unsafe`. Every C++ exception becomes an
//! [`Error`] that names the operation.

#![allow(unsafe_code)]

pub mod c10d;
pub mod cpu;
pub mod cross_entropy;
pub mod cuda;
pub mod cuda_library;
pub mod decode;
pub mod error;
mod ffi;
pub mod foreach;
pub mod gradient_hook;
pub mod half;
pub mod mapped;
pub mod memory;
pub mod optimizer;
pub mod profile;
pub mod rms_norm;
pub mod rng;
pub mod send;
pub mod settings;
pub mod short_attention;
pub mod swiglu;
pub mod version;

pub use c10d::{Reduce, World};
pub use cpu::{CpuBf16, cpu_bf16};
pub use cross_entropy::cross_entropy_into_gradient;
pub use cuda::{CudaGraph, NoCuda};
pub use cuda_library::{CudaLibrary, load_cuda};
pub use error::{Error, Result};
pub use foreach::{foreach_add_scalar, foreach_copy, foreach_lerp, foreach_mul_scalar_tensor, global_norm};
pub use gradient_hook::GradientHook;
pub use mapped::{MappedFile, tensor_over};
pub use memory::{
    MemoryStats, cuda_device_memory, cuda_memory_stats, empty_cuda_cache, keep_freed_memory,
    release_freed_memory, reset_cuda_peak_memory,
};
pub use optimizer::{AdamW, fused_adamw};
pub use profile::{ProfileEvent, Profiler};
pub use rms_norm::{add_rms_norm, rms_norm};
pub use rng::{rng_state, set_rng_state};
pub use send::send;
pub use settings::{set_deterministic, set_tf32};
pub use short_attention::{ShortAttention, short_attention};
pub use swiglu::swiglu;
pub use version::{libtorch_version_built, libtorch_version_loaded};

/// Whether the CPU kernels of this crate take such a tensor: f32 or bf16, on the CPU.
pub fn has_kernels(x: &tch::Tensor) -> bool {
    x.device() == tch::Device::Cpu && matches!(x.kind(), tch::Kind::Float | tch::Kind::BFloat16)
}
