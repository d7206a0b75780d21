//! The kernels of `cuda/kernels.cu` as PTX, by NVRTC: CUDA's compiler as a library, which needs neither a GPU nor a toolkit.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a build script, whose faults carry their paths themselves")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};

use libloading::Library;

/// The oldest cards that compute in bf16; a driver compiles it for any newer one.
const ARCHITECTURE: &CStr = c"--gpu-architecture=compute_80";
const FILE: &str = "libnvrtc.so.13";
/// What it opens by name, without looking beside itself.
const BUILTINS: &str = "libnvrtc-builtins.so.13.0";

type Program = *mut std::ffi::c_void;
type Strings = *const *const c_char;

/// Writes `OUT_DIR/kernels.ptx`, with a nul at its end. NVRTC is searched in `folders`, then where the system looks.
///
/// # Errors
/// What is missing, or what the compiler found wrong.
pub(crate) fn compile(folders: &[PathBuf]) -> Result<(), String> {
    let text = |name: &str| {
        let read =
            std::fs::read_to_string(Path::new("cuda").join(name)).map_err(|e| format!("cuda/{name}: {e}"))?;
        CString::new(read).map_err(|e| format!("cuda/{name}: {e}"))
    };
    let (source, header) = (text("kernels.cu")?, text("kernels.h")?);
    let inside = folders.iter().map(|folder| folder.join(FILE)).find(|path| path.is_file());
    let path = inside.unwrap_or_else(|| PathBuf::from(FILE));
    // SAFETY: NVIDIA's own libraries, whose initialisers are meant for any program.
    let open = |path: &Path| unsafe { Library::new(path) };
    // where it is not there, NVRTC finds its own or says so
    let builtins = open(&path.with_file_name(BUILTINS));
    let library = open(&path).map_err(|error| {
        format!("the feature cuda needs {FILE}, which compiles its kernels ({error}): run `make setup-cuda`")
    })?;
    let ptx = Nvrtc { library }.ptx(&source, &header)?;
    drop(builtins);
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default().join("kernels.ptx");
    std::fs::write(&out, ptx).map_err(|error| format!("{}: {error}", out.display()))
}

struct Nvrtc {
    library: Library,
}

/// Calls a function of `nvrtc.h` that gives a status.
macro_rules! call {
    ($nvrtc:expr, $name:expr, ($($argument:expr => $kind:ty),*)) => {{
        // SAFETY: the types are those of nvrtc.h, the pointers live through the call.
        let status = unsafe {
            let function = $nvrtc.library.get::<unsafe extern "C" fn($($kind),*) -> c_int>($name.as_bytes());
            function.map_err(|error| error.to_string())?($($argument),*)
        };
        if status == 0 { Ok(()) } else { Err(format!("{} ended with {status}", $name)) }
    }};
}

impl Nvrtc {
    fn ptx(&self, source: &CStr, header: &CStr) -> Result<Vec<u8>, String> {
        let mut program: Program = std::ptr::null_mut();
        let (headers, names) = ([header.as_ptr()], [c"kernels.h".as_ptr()]);
        call!(self, "nvrtcCreateProgram", (
            &raw mut program => *mut Program, source.as_ptr() => *const c_char, c"kernels.cu".as_ptr() => *const c_char,
            1 => c_int, headers.as_ptr() => Strings, names.as_ptr() => Strings))?;
        let options = [ARCHITECTURE.as_ptr(), c"--std=c++17".as_ptr()];
        let compiled = call!(self, "nvrtcCompileProgram", (
            program => Program, options.len() as c_int => c_int, options.as_ptr() => Strings));
        if let Err(fault) = compiled {
            let log = self.text(program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            return Err(format!("{fault}: {}", String::from_utf8_lossy(&log).replace('\n', " | ")));
        }
        self.text(program, "nvrtcGetPTXSize", "nvrtcGetPTX")
    }

    /// What one function writes where another says its size, the nul at its end counted.
    fn text(&self, program: Program, size: &str, text: &str) -> Result<Vec<u8>, String> {
        let mut count = 0usize;
        call!(self, size, (program => Program, &raw mut count => *mut usize))?;
        let mut bytes = vec![0u8; count];
        call!(self, text, (program => Program, bytes.as_mut_ptr() => *mut u8))?;
        Ok(bytes)
    }
}
