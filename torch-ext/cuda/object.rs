//! The embedded shared object: where it comes from, how it is opened, and what it offers.

use std::ffi::{c_char, c_int, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use tch::Device;

use crate::cuda_library::{self, CudaLibrary, load_cuda};
use crate::error::{Error, Result};
use crate::ffi::{RawTensor, call};

#[cfg(feature = "cuda")]
const EMBEDDED: Option<&[u8]> = Some(include_bytes!(concat!(env!("OUT_DIR"), "/libtorch_ext_cuda.so")));
#[cfg(not(feature = "cuda"))]
const EMBEDDED: Option<&[u8]> = None;

/// `TEC_INTERFACE` of `cuda.h`.
const INTERFACE: c_int = 2;

/// Why NCCL, CUDA graphs and the kernels for GPUs are not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoCuda {
    /// The program was built without the cargo feature `cuda`.
    #[error("this program was built without the feature cuda")]
    NotBuilt,
    /// libtorch_cuda is not in this process.
    #[error("libtorch_cuda is not loaded: {0}")]
    NoLibrary(String),
    /// The embedded shared object could not be opened.
    #[error("the part for CUDA cannot be opened: {0}")]
    NotOpened(String),
}

impl NoCuda {
    /// What the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotBuilt => {
                "build it with `make build-cuda`: no GPU and no CUDA toolkit are needed for that"
            }
            Self::NoLibrary(_) => {
                "`inverse-stella doctor` tells what it sees of CUDA; --device cpu goes without"
            }
            Self::NotOpened(_) => {
                "it fits libtorch 2.11.0 with all of CUDA's libraries: run `make setup` and `make build-cuda` on this \
                 machine, or set LIBTORCH to a whole one"
            }
        }
    }
}

type Fault = *mut *mut c_char;
type Handle = *mut c_void;

type Turn = unsafe extern "C" fn(
    RawTensor,
    RawTensor,
    RawTensor,
    i64,
    i64,
    *mut RawTensor,
    *mut RawTensor,
    *mut RawTensor,
    Fault,
) -> c_int;

/// The functions of `cuda.h`.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) nccl_version: unsafe extern "C" fn(*mut c_int, Fault) -> c_int,
    pub(crate) device_count: unsafe extern "C" fn(*mut c_int, Fault) -> c_int,
    pub(crate) set_device: unsafe extern "C" fn(c_int, Fault) -> c_int,
    pub(crate) synchronize: unsafe extern "C" fn(c_int, Fault) -> c_int,
    pub(crate) nccl_open: unsafe extern "C" fn(Handle, c_int, c_int, c_int, i64, *mut Handle, Fault) -> c_int,
    pub(crate) graph_begin: unsafe extern "C" fn(c_int, *mut Handle, Fault) -> c_int,
    pub(crate) graph_end: unsafe extern "C" fn(Handle, Fault) -> c_int,
    pub(crate) graph_replay: unsafe extern "C" fn(Handle, Fault) -> c_int,
    pub(crate) graph_close: unsafe extern "C" fn(Handle),
    pub(crate) load_kernels: unsafe extern "C" fn(*const c_char, Fault) -> c_int,
    pub(crate) swiglu: unsafe extern "C" fn(RawTensor, *mut RawTensor, Fault) -> c_int,
    pub(crate) turn: Turn,
}

/// The object, opened at the first call; the answer is kept.
///
/// # Errors
/// [`Error::NoCuda`].
pub(crate) fn object() -> Result<&'static Object> {
    static OBJECT: OnceLock<Result<Object, NoCuda>> = OnceLock::new();
    OBJECT.get_or_init(open).as_ref().map_err(|reason| Error::NoCuda { reason: reason.clone() })
}

/// The bytes of the shared object in this program; `None` where it was built without the feature `cuda`.
pub fn embedded() -> Option<&'static [u8]> {
    EMBEDDED
}

/// Version of the NCCL in this process: (major, minor, patch).
///
/// # Errors
/// [`Error::NoCuda`].
pub fn nccl_version() -> Result<(i32, i32, i32)> {
    let (object, mut version) = (object()?, 0);
    // SAFETY: the place for the result lives through the call; so in all that follows.
    call("ncclGetVersion", |fault| unsafe { (object.nccl_version)(&raw mut version, fault) })?;
    Ok((version / 10_000, version / 100 % 100, version % 100))
}

/// Sends what this thread does on no device of its own to a GPU; one process a GPU calls it once at the start.
///
/// # Errors
/// [`Error::NoCuda`], [`Error::Argument`] for what is no GPU, [`Error::Torch`] for one that is not there.
pub fn set_device(device: Device) -> Result<()> {
    let (object, index) = (object()?, gpu("set_device", device)?);
    // SAFETY: plain values.
    call("set_device", |fault| unsafe { (object.set_device)(index, fault) })
}

/// Waits for what was queued on the device's current stream.
///
/// # Errors
/// Those of [`set_device`], and what went wrong in the work that was waited for.
pub fn synchronize(device: Device) -> Result<()> {
    let (object, index) = (object()?, gpu("synchronize", device)?);
    // SAFETY: plain values.
    call("synchronize", |fault| unsafe { (object.synchronize)(index, fault) })
}

/// The index of a GPU, which must be there.
pub(crate) fn gpu(op: &'static str, device: Device) -> Result<c_int> {
    let Device::Cuda(index) = device else {
        return Err(Error::Argument { op, message: format!("{device:?} is no CUDA device") });
    };
    let (object, mut count) = (object()?, 0);
    // SAFETY: the place for the result lives through the call.
    call(op, |fault| unsafe { (object.device_count)(&raw mut count, fault) })?;
    match c_int::try_from(index) {
        Ok(index) if index < count => Ok(index),
        _ => Err(Error::Argument {
            op,
            message: format!("there is no CUDA device {index}, but {count} in all"),
        }),
    }
}

fn open() -> Result<Object, NoCuda> {
    let bytes = EMBEDDED.ok_or(NoCuda::NotBuilt)?;
    if let CudaLibrary::Absent { reason } = load_cuda() {
        return Err(NoCuda::NoLibrary(reason));
    }
    let library = open_bytes(bytes).map_err(NoCuda::NotOpened)?;
    let object = functions(&library).map_err(NoCuda::NotOpened)?;
    // the functions are used until the end of the process
    std::mem::forget(library);
    Ok(object)
}

fn functions(library: &Library) -> Result<Object, String> {
    /// # Safety
    /// The symbol must be a function of type `F`.
    unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
        // SAFETY: the caller's.
        unsafe { library.get::<F>(name.as_bytes()) }.map(|found| *found).map_err(|e| cuda_library::cause(&e))
    }
    // SAFETY: the types are those of cuda.h, of the version that is asked for first.
    unsafe {
        let interface: unsafe extern "C" fn() -> c_int = function(library, "tec_interface")?;
        let found = interface();
        if found != INTERFACE {
            return Err(format!("its interface is number {found}, and {INTERFACE} is expected"));
        }
        Ok(Object {
            nccl_version: function(library, "tec_nccl_version")?,
            device_count: function(library, "tec_device_count")?,
            set_device: function(library, "tec_set_device")?,
            synchronize: function(library, "tec_synchronize")?,
            nccl_open: function(library, "tec_nccl_open")?,
            graph_begin: function(library, "tec_graph_begin")?,
            graph_end: function(library, "tec_graph_end")?,
            graph_replay: function(library, "tec_graph_replay")?,
            graph_close: function(library, "tec_graph_close")?,
            load_kernels: function(library, "tec_load_kernels")?,
            swiglu: function(library, "tec_swiglu")?,
            turn: function(library, "tec_turn")?,
        })
    }
}

/// Opens a shared object that lies in memory: through a file without a name where the system allows to run one, else
/// through a file in the folder for temporary ones.
fn open_bytes(bytes: &[u8]) -> Result<Library, String> {
    from_memory(bytes).or_else(|first| {
        from_temporary_file(bytes, &std::env::temp_dir()).map_err(|second| format!("{first}; {second}"))
    })
}

fn from_memory(bytes: &[u8]) -> Result<Library, String> {
    // SAFETY: the name is nul-terminated; the descriptor that comes back is ours.
    let mut file = unsafe {
        match libc::memfd_create(c"torch_ext_cuda".as_ptr(), libc::MFD_CLOEXEC) {
            -1 => return Err(format!("memfd_create: {}", std::io::Error::last_os_error())),
            descriptor => File::from_raw_fd(descriptor),
        }
    };
    file.write_all(bytes).map_err(|error| format!("memfd_create: {error}"))?;
    // the mapping outlives the descriptor
    open_file(&PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
}

fn from_temporary_file(bytes: &[u8], folder: &Path) -> Result<Library, String> {
    let fault = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut file = tempfile::Builder::new()
        .prefix("torch_ext_cuda-")
        .suffix(".so")
        .tempfile_in(folder)
        .map_err(fault)?;
    file.write_all(bytes).map_err(fault)?;
    open_file(file.path())
}

fn open_file(path: &Path) -> Result<Library, String> {
    // SAFETY: our own object, whose initialisers allocate and no more.
    unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| cuda_library::cause(&error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    /// A shared object that may be in a process twice: libtorch's copy of the OpenMP runtime.
    fn some_object() -> Vec<u8> {
        let folder = cuda_library::libtorch_folder().unwrap();
        let mut files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
        let path = files.find(|path| path.to_string_lossy().contains("/libgomp")).unwrap();
        #[allow(clippy::disallowed_methods)]
        std::fs::read(path).unwrap()
    }

    fn has_its_symbol(library: &Library) {
        // SAFETY: the address is not used.
        unsafe { library.get::<*const c_void>(b"omp_get_max_threads") }.unwrap();
    }

    #[test]
    fn an_object_in_memory_is_opened() {
        let bytes = some_object();
        has_its_symbol(&from_memory(&bytes).unwrap());
        let folder = tempfile::tempdir().unwrap();
        has_its_symbol(&from_temporary_file(&bytes, folder.path()).unwrap());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let refusal = open_bytes(b"no ELF").unwrap_err();
        assert!(refusal.contains("/proc/self/fd/") && refusal.contains("; "), "{refusal}");
        let library = from_memory(&some_object()).unwrap();
        assert!(functions(&library).unwrap_err().contains("tec_interface"));
    }
}
