//! CUDA graphs: a sequence of kernels that was recorded once and is launched as one, which saves the time that the CPU
//! takes to launch each. It pays where kernels are short, as in decoding a few texts.

use std::ffi::c_void;

use tch::Device;

use super::object::{Object, gpu, object};
use crate::error::{Error, Result};
use crate::ffi::call;

/// A recorded sequence of kernels.
///
/// What the recording must keep to, or its replays compute nonsense without a word:
/// - It reads from and writes to tensors that live as long as the graph; whoever replays copies new values into them
///   (`copy_`). Tensors made while recording lie in the graph's own memory: keep those that are results (they are what
///   [`CudaGraph::capture`] returns beside the graph), their values change with every replay.
/// - The shapes, and every number that the CPU decides on, are those of the recording. Nothing in it may wait for the
///   GPU: no value is read on the CPU, and no tensor is copied to or from it.
/// - The same was run two or three times before, outside of a recording: libraries choose and allocate at first use.
/// - Inference: a backward pass is recorded only where no part of it waits (see docs/decisions.md).
/// - One thread records; the handle may move to another, not be shared.
#[derive(Debug)]
pub struct CudaGraph {
    handle: *mut c_void,
    object: &'static Object,
}

// SAFETY: a graph may be replayed from any thread, one at a time.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// Records what `body` queues on `device`, without running it, and returns what `body` gave.
    ///
    /// # Errors
    /// [`Error::NoCuda`] where there is no CUDA, [`Error::Argument`] for a device that is no GPU, [`Error::Torch`] for
    /// what cannot be recorded, and the errors of `body`.
    pub fn capture<T, E: From<Error>>(
        device: Device,
        body: impl FnOnce() -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        const OP: &str = "CUDAGraph.capture";
        let (object, index) = (object()?, gpu(OP, device)?);
        let mut handle = std::ptr::null_mut();
        // SAFETY: the place for the handle lives through the call.
        call(OP, |fault| unsafe { (object.graph_begin)(index, &raw mut handle, fault) })?;
        // owned from here on: a body that fails, or panics, ends the recording by the drop
        let graph = Self { handle, object };
        let given = body()?;
        // SAFETY: the handle is live.
        call(OP, |fault| unsafe { (object.graph_end)(handle, fault) })?;
        Ok((graph, given))
    }

    /// Runs what was recorded on the current stream, on the values that its tensors have now.
    ///
    /// # Errors
    /// [`Error::Torch`].
    pub fn replay(&self) -> Result<()> {
        // SAFETY: the handle is live.
        call("CUDAGraph.replay", |fault| unsafe { (self.object.graph_replay)(self.handle, fault) })
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { (self.object.graph_close)(self.handle) }
    }
}
