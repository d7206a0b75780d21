//! What needs libtorch_cuda's own symbols: NCCL's process group, CUDA graphs, and kernels.
//!
//! The program itself links libtorch_cpu alone. The C++ of this folder is a shared object of its own, built with the
//! cargo feature `cuda`, which lies in the program as bytes and is opened where libtorch_cuda is ([`object`]).

pub mod fused;
pub mod graph;
pub mod object;

pub use fused::load_kernels;
pub use graph::CudaGraph;
pub use object::{NoCuda, embedded, nccl_version, set_device, synchronize};
