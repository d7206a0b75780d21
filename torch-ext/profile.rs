//! What ran in a stretch of time, by libtorch's own profiler (Kineto): operations of a CPU, kernels of a GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::ffi;

/// Something that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileEvent {
    /// Name of the operation or kernel.
    pub name: String,
    /// Whether it ran on a GPU.
    pub on_device: bool,
    /// The thread, or the stream of the GPU. On one thread, an event lies within another or outside of it.
    pub lane: u64,
    /// When it began, in nanoseconds.
    pub begin_ns: u64,
    /// How long it took, in nanoseconds, with what it called.
    pub ns: u64,
}

/// A profile that is being taken, of this thread and of what it has others do; one at a time.
#[derive(Debug)]
pub struct Profiler {
    running: bool,
    /// It ends on the thread that it began on.
    thread: PhantomData<*const ()>,
}

impl Profiler {
    /// Begins; with `cuda`, kernels and calls of the CUDA runtime are seen too.
    ///
    /// # Errors
    /// [`Error::Argument`] where a profile is being taken already; [`Error::Torch`].
    pub fn begin(cuda: bool) -> Result<Self> {
        // libtorch would end the one that is being taken
        if TAKEN.swap(true, Ordering::SeqCst) {
            let message = "a profile is being taken already".to_owned();
            return Err(Error::Argument { op: "enableProfiler", message });
        }
        // SAFETY: no pointer but the place for the message.
        ffi::call("enableProfiler", |fault| unsafe { ffi::te_profile_begin(c_int::from(cuda), fault) })
            .inspect_err(|_| TAKEN.store(false, Ordering::SeqCst))?;
        Ok(Self { running: true, thread: PhantomData })
    }

    /// Ends and tells what ran. `path` is a file for chrome://tracing or Perfetto, which is written over.
    ///
    /// # Errors
    /// A file that cannot be written; [`Error::Torch`].
    pub fn end(mut self, path: Option<&Path>) -> Result<Vec<ProfileEvent>> {
        let trace = path.map(|path| CString::new(path.as_os_str().as_encoded_bytes())).transpose();
        let trace = trace.map_err(|_| Error::Argument {
            op: "disableProfiler",
            message: "the name of the trace has a NUL in it".to_owned(),
        })?;
        self.running = false;
        let events = stop(trace.as_deref())?;
        match path.filter(|path| !path.is_file()) {
            // libtorch only logs it
            Some(path) => {
                let message = format!("the trace could not be written to {}", path.display());
                Err(Error::Argument { op: "ProfilerResult::save", message })
            }
            None => Ok(events),
        }
    }
}

impl Drop for Profiler {
    fn drop(&mut self) {
        if self.running {
            // nobody is left to hear of a fault
            let _ = stop(None);
        }
    }
}

/// Whether a profile is being taken in this process.
static TAKEN: AtomicBool = AtomicBool::new(false);

fn stop(trace: Option<&CStr>) -> Result<Vec<ProfileEvent>> {
    let mut events: Vec<ProfileEvent> = Vec::new();
    let trace = trace.map_or(std::ptr::null(), CStr::as_ptr);
    TAKEN.store(false, Ordering::SeqCst);
    ffi::call("disableProfiler", |fault| {
        // SAFETY: `see` is called before the return only, with the list that outlives it.
        unsafe { ffi::te_profile_end(trace, see, (&raw mut events).cast(), fault) }
    })?;
    Ok(events)
}

extern "C" fn see(
    owner: *mut c_void,
    name: *const c_char,
    on_device: c_int,
    lane: u64,
    begin_ns: u64,
    ns: u64,
) {
    // SAFETY: `stop` gives the list, and the shim a string that lives as long as this call.
    let (events, name) = unsafe { (&mut *owner.cast::<Vec<ProfileEvent>>(), CStr::from_ptr(name)) };
    let name = name.to_string_lossy().into_owned();
    events.push(ProfileEvent { name, on_device: on_device != 0, lane, begin_ns, ns });
}
