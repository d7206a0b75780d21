//! The opening of `libtorch_cuda` at start, so that one binary serves machines with and without GPUs.
//!
//! The program links `libtorch_cpu` and `libc10` alone. Where CUDA's libraries are installed and a driver is there,
//! `libtorch_cuda` is opened before libtorch is asked for the first time, and registers itself as the linked library
//! would have.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_NOW};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Whether libtorch's CUDA half is in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CudaLibrary {
    /// It is, from this file.
    Loaded {
        /// The file that was opened.
        path: PathBuf,
    },
    /// It is not.
    Absent {
        /// Why, in words.
        reason: String,
    },
}

impl CudaLibrary {
    /// Whether it was loaded.
    pub fn is_loaded(&self) -> bool {
        matches!(self, Self::Loaded { .. })
    }
}

/// Opens `libtorch_cuda.so` beside the libtorch that this process runs on; call it before any call of tch.
///
/// Without an NVIDIA driver nothing is opened, which saves a CPU machine with the full set of libraries a second at
/// every start. The first answer is kept.
pub fn load_cuda() -> CudaLibrary {
    static LIBRARY: OnceLock<CudaLibrary> = OnceLock::new();
    LIBRARY.get_or_init(open).clone()
}

fn open() -> CudaLibrary {
    // SAFETY: opening runs the library's initialisers; the driver's are meant to be run by any program.
    if let Err(error) = unsafe { Library::open(Some("libcuda.so.1"), RTLD_LAZY) } {
        return CudaLibrary::Absent { reason: format!("no NVIDIA driver ({})", cause(&error)) };
    }
    let path =
        libtorch_folder().map_or_else(|| PathBuf::from("libtorch_cuda.so"), |f| f.join("libtorch_cuda.so"));
    // SAFETY: libtorch's own library, of the folder that libtorch_cpu came from; its initialisers register kernels.
    match unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => {
            // Kernels are registered for good: the library must stay until the end of the process.
            std::mem::forget(library);
            crate::settings::set_cudnn_attention(false);
            CudaLibrary::Loaded { path }
        }
        Err(error) => CudaLibrary::Absent { reason: cause(&error) },
    }
}

/// What the system's linker said, which names the library that is missing.
pub(crate) fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The folder of the `libtorch_cpu.so` in this process, by the map of its memory.
pub fn libtorch_folder() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "a file of the kernel, whose absence is an answer")]
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = PathBuf::from(line.get(line.find('/')?..)?);
    Some(path.parent()?.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_agrees_with_libtorch() {
        let library = load_cuda();
        assert_eq!(library, load_cuda());
        match &library {
            CudaLibrary::Loaded { path } => assert!(path.is_file()),
            CudaLibrary::Absent { reason } => {
                assert!(reason.contains(".so"), "{reason} names no library");
                assert!(!tch::Cuda::is_available());
            }
        }
        assert!(libtorch_folder().unwrap().join("libtorch_cpu.so").is_file());
    }
}
