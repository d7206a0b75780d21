//! What libtorch has and tch lacks: fused and multi-tensor kernels, zero-copy tensors over a memory-mapped file,
//! generator states, allocator statistics, the opening of `libtorch_cuda`, and what the CPU can do.
//!
//! This crate holds the project's only C++ (`shim.cpp`) and its only `unsafe`. Every C++ exception becomes an
//! [`Error`] that names the operation.

#![allow(unsafe_code)]

pub mod cpu;
pub mod cuda_library;
pub mod decode;
pub mod error;
mod ffi;
pub mod foreach;
pub mod half;
pub mod mapped;
pub mod memory;
pub mod optimizer;
pub mod rng;
pub mod settings;
pub mod version;

pub use cpu::{CpuBf16, cpu_bf16};
pub use cuda_library::{CudaLibrary, load_cuda};
pub use error::{Error, Result};
pub use foreach::{foreach_add_scalar, foreach_copy, foreach_lerp, foreach_mul_scalar_tensor, global_norm};
pub use mapped::{MappedFile, tensor_over};
pub use memory::{MemoryStats, cuda_memory_stats, empty_cuda_cache, reset_cuda_peak_memory};
pub use optimizer::{AdamW, fused_adamw};
pub use rng::{rng_state, set_rng_state};
pub use settings::{set_deterministic, set_tf32};
pub use version::{libtorch_version_built, libtorch_version_loaded};
