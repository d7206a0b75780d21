//! c10d's process groups: the collectives themselves.

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Tensor};

use super::ffi::{self, Handle};
use super::store::{Store, c_string};
use crate::cuda::object::{gpu, object};
use crate::error::{Error, Result};
use crate::ffi::{call, raw};

/// Time between two looks at others while a collective is waited for.
const SLICE: Duration = Duration::from_millis(500);

/// How the values of all ranks become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// Their sum.
    Sum,
    /// The largest.
    Max,
    /// The smallest.
    Min,
}

/// Over which network Gloo connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The interface of this name (`GLOO_SOCKET_IFNAME`).
    Interface(String),
    /// The one that has this machine's address of this name.
    Host(String),
    /// The one that this machine's own name leads to.
    Default,
}

/// Processes that call the same collectives in the same order.
#[derive(Debug)]
pub struct ProcessGroup {
    handle: Handle,
    /// How long the CPU waits for a collective itself; `None` where the backend's own wait has an end.
    timeout: Option<Duration>,
    /// Whether it is left as it is until the process ends.
    abandoned: AtomicBool,
}

// SAFETY: a group may be called from any thread, as long as the order of calls is the same in all processes.
unsafe impl Send for ProcessGroup {}
// SAFETY: as above; c10d's groups lock what their threads share.
unsafe impl Sync for ProcessGroup {}

impl ProcessGroup {
    /// Joins `size` processes through Gloo, for tensors on the CPU. Returns when all have joined.
    ///
    /// # Errors
    /// [`Error::Torch`] where one does not join within `timeout`, or the network is not there.
    pub fn gloo(
        store: &Store,
        rank: usize,
        size: usize,
        network: &Network,
        timeout: Duration,
    ) -> Result<Self> {
        const OP: &str = "ProcessGroupGloo";
        let (mut interface, mut host) = (None, None);
        match network {
            Network::Interface(name) => interface = Some(c_string(OP, name)?),
            Network::Host(name) => host = Some(c_string(OP, name)?),
            Network::Default => {}
        }
        let pointer = |name: &Option<CString>| name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr());
        let mut handle = std::ptr::null_mut();
        // SAFETY: the store and the strings live through the call; c10d keeps a share of the store.
        call(OP, |fault| unsafe {
            ffi::te_gloo_open(
                store.handle(),
                rank as i32,
                size as i32,
                pointer(&interface),
                pointer(&host),
                timeout.as_millis() as i64,
                &raw mut handle,
                fault,
            )
        })?;
        Ok(Self { handle, timeout: None, abandoned: AtomicBool::new(false) })
    }

    /// Joins `size` processes through NCCL, one GPU each, for tensors there. Returns when all have joined, and does not
    /// return where one has not: call it where all are known to be there, from a thread that may be left behind.
    ///
    /// [`Work::wait`] of such a group keeps the CPU until the collective is over, or `timeout` is: c10d's own wait lets
    /// the GPU's stream wait without an end, and its watchdog would end the process without a word from us.
    ///
    /// # Errors
    /// [`Error::NoCuda`], [`Error::Argument`] for what is no GPU, [`Error::Torch`] for what NCCL refuses.
    pub fn nccl(store: &Store, rank: usize, size: usize, device: Device, timeout: Duration) -> Result<Self> {
        const OP: &str = "ProcessGroupNCCL";
        let (object, index) = (object()?, gpu(OP, device)?);
        let (milliseconds, mut handle) = (whole_milliseconds(timeout), std::ptr::null_mut());
        // SAFETY: the store lives through the call; c10d keeps a share of it.
        call(OP, |fault| unsafe {
            (object.nccl_open)(
                store.handle(),
                rank as i32,
                size as i32,
                index,
                milliseconds,
                &raw mut handle,
                fault,
            )
        })?;
        Ok(Self { handle, timeout: Some(timeout), abandoned: AtomicBool::new(false) })
    }

    /// Gives up the group's connections. For NCCL at the end, when no collective is on its way: its destructor would do
    /// the same, and warn.
    pub(super) fn abort(&self) {
        // SAFETY: the handle is live. At the end nobody can do anything about an error.
        let _ = call("ProcessGroup.abort", |fault| unsafe { ffi::te_group_abort(self.handle, fault) });
    }

    /// Leaves the group open until the process ends: its destructor waits for collectives that are on their way, which
    /// two ranks that have given up on each other would do for ever.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Puts the reduced values of all ranks into `tensor`, which all hand in with one shape and type.
    ///
    /// # Errors
    /// [`Error::Argument`] for a tensor that is not contiguous; [`Error::Torch`] for what c10d refuses. A rank that
    /// does not come is the error of [`Work::wait`]. So in all that follows.
    pub fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Work> {
        const OP: &str = "all_reduce";
        contiguous(OP, tensor)?;
        let number = match reduce {
            Reduce::Sum => 0,
            Reduce::Max => 1,
            Reduce::Min => 2,
        };
        // SAFETY: handle and tensor are live; c10d keeps a share of the tensor until the work is done.
        self.begin(OP, |work, fault| unsafe {
            ffi::te_all_reduce(self.handle, raw(tensor), number, work, fault)
        })
    }

    /// Puts the values of rank `from` into `tensor` on every rank.
    ///
    /// # Errors
    /// Those of [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor, from: usize) -> Result<Work> {
        const OP: &str = "broadcast";
        contiguous(OP, tensor)?;
        // SAFETY: as in `all_reduce`.
        self.begin(OP, |work, fault| unsafe {
            ffi::te_broadcast(self.handle, raw(tensor), from as i32, work, fault)
        })
    }

    /// Puts what all ranks hand in as `own` into `all`, by rank: `all` has as many elements as all `own` together.
    ///
    /// # Errors
    /// Those of [`ProcessGroup::all_reduce`].
    pub fn all_gather(&self, all: &Tensor, own: &Tensor) -> Result<Work> {
        const OP: &str = "all_gather";
        contiguous(OP, all)?;
        contiguous(OP, own)?;
        // SAFETY: as in `all_reduce`.
        self.begin(OP, |work, fault| unsafe {
            ffi::te_all_gather(self.handle, raw(all), raw(own), work, fault)
        })
    }

    /// Done when all ranks have come.
    ///
    /// # Errors
    /// Those of [`ProcessGroup::all_reduce`].
    pub fn barrier(&self) -> Result<Work> {
        // SAFETY: the handle is live.
        self.begin("barrier", |work, fault| unsafe { ffi::te_barrier(self.handle, work, fault) })
    }

    fn begin(
        &self,
        op: &'static str,
        body: impl FnOnce(*mut Handle, *mut *mut std::ffi::c_char) -> i32,
    ) -> Result<Work> {
        let mut handle = std::ptr::null_mut();
        call(op, |fault| body(&raw mut handle, fault))?;
        Ok(Work { op, handle, timeout: self.timeout })
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if !self.abandoned.load(Ordering::Relaxed) {
            // SAFETY: the handle is ours and used no more.
            unsafe { ffi::te_group_close(self.handle) }
        }
    }
}

/// A collective on its way. Its tensors must not be read or written before [`Work::wait`].
#[must_use = "a collective is done when it has been waited for"]
#[derive(Debug)]
pub struct Work {
    op: &'static str,
    handle: Handle,
    timeout: Option<Duration>,
}

// SAFETY: c10d's works may be waited for by another thread than the one that began them.
unsafe impl Send for Work {}

impl Work {
    /// The operation, by its common name.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Waits until it is done, or `watch`, which is called again and again meanwhile, gives an error.
    ///
    /// # Errors
    /// [`Error::Torch`] where a rank does not come in time, or its connection is lost; what `watch` says.
    pub fn wait(&self, watch: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        loop {
            let left = self.timeout.map(|timeout| timeout.saturating_sub(start.elapsed()));
            if let Some(left) = left.filter(|left| *left <= SLICE) {
                return self.wait_at_most(left);
            }
            if self.is_over_within(SLICE)? {
                // gives what went wrong; on a GPU, the current stream comes behind the collective
                // SAFETY: the handle is live.
                return call(self.op, |fault| unsafe { ffi::te_work_wait(self.handle, fault) });
            }
            watch()?;
        }
    }

    /// Whether it is over, well or not, before `time` has passed.
    fn is_over_within(&self, time: Duration) -> Result<bool> {
        // what has an end of its own may be waited for, and give up
        let (milliseconds, polls, mut over) = (whole_milliseconds(time), self.timeout.is_some(), 0);
        // SAFETY: the handle and the place for the result are live.
        call(self.op, |fault| unsafe {
            ffi::te_work_over_within(self.handle, milliseconds, i32::from(polls), &raw mut over, fault)
        })?;
        Ok(over != 0)
    }

    /// Waits until it is done, for `timeout` at most.
    ///
    /// # Errors
    /// Those of [`Work::wait`].
    pub fn wait_at_most(&self, timeout: Duration) -> Result<()> {
        let milliseconds = whole_milliseconds(timeout);
        // SAFETY: the handle is live.
        call(self.op, |fault| unsafe { ffi::te_work_wait_until(self.handle, milliseconds, fault) })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and used no more.
        unsafe { ffi::te_work_close(self.handle) }
    }
}

/// At most a month, so that sums and multiples of it do not overflow.
fn whole_milliseconds(time: Duration) -> i64 {
    time.min(Duration::from_secs(30 * 24 * 3600)).as_millis() as i64
}

fn contiguous(op: &'static str, tensor: &Tensor) -> Result<()> {
    if tensor.defined() && tensor.is_contiguous() {
        return Ok(());
    }
    Err(Error::Argument { op, message: "the tensor is not contiguous".to_owned() })
}
