//! NCCL's group: its start and its end, both of which may take forever where a rank is missing.

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use tch::{Device, Kind, Tensor};

use super::group::{ProcessGroup, Reduce};
use super::store::Store;
use crate::cuda::object::{gpu, set_device};
use crate::error::{Error, Result};

/// Time that other ranks have to end the last collective before this one takes its connections away.
const LAST_COLLECTIVE: Duration = Duration::from_millis(200);

/// A group over GPUs.
#[derive(Debug)]
pub(super) struct Nccl {
    group: ManuallyDrop<ProcessGroup>,
    abandoned: AtomicBool,
}

/// Whether a group could be opened on `device`.
///
/// # Errors
/// [`Error::NoCuda`], [`Error::Argument`].
pub(super) fn check(device: Device) -> Result<()> {
    gpu("attach_cuda", device).map(|_| ())
}

impl Nccl {
    /// Opens a group and reduces a first number in it, in a thread that is left behind where that does not end in time.
    pub(super) fn open(
        store: Store,
        rank: usize,
        size: usize,
        device: Device,
        timeout: Duration,
    ) -> Result<Self> {
        const OP: &str = "ProcessGroupNCCL";
        set_device(device)?;
        let (give, given) = channel();
        let begin = move || {
            let opened = set_device(device)
                .and_then(|()| ProcessGroup::nccl(&store, rank, size, device, timeout))
                .and_then(|group| first_sum(&group, size, device).map(|()| group));
            // nobody listens any more where the time is over
            let _ = give.send(opened);
        };
        std::thread::spawn(begin);
        let message = |message: String| Err(Error::Torch { op: OP, message });
        match given.recv_timeout(timeout) {
            Ok(opened) => Ok(Self { group: ManuallyDrop::new(opened?), abandoned: AtomicBool::new(false) }),
            Err(RecvTimeoutError::Timeout) => message(format!("did not start within {timeout:?}")),
            Err(RecvTimeoutError::Disconnected) => message("the thread that started it ended".to_owned()),
        }
    }

    pub(super) fn group(&self) -> &ProcessGroup {
        &self.group
    }

    /// After a failure: the group is left as it is until the process ends.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if !self.abandoned.load(Ordering::Relaxed) {
            // the last collective is over here, and will be everywhere in a moment
            std::thread::sleep(LAST_COLLECTIVE);
            self.group.abort();
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.group) }
        }
    }
}

/// NCCL connects at the first collective: better here, where a failure can be told, than in the first step.
fn first_sum(group: &ProcessGroup, size: usize, device: Device) -> Result<()> {
    let fail = |e: tch::TchError| Error::Torch { op: "all_reduce", message: e.to_string() };
    let one = Tensor::f_ones([1], (Kind::Float, device)).map_err(fail)?;
    group.all_reduce(&one, Reduce::Sum)?.wait(&mut || Ok(()))?;
    let sum = one.f_double_value(&[0]).map_err(fail)?;
    if sum == size as f64 {
        return Ok(());
    }
    let message = format!("the sum of a one from each of {size} ranks is {sum}");
    Err(Error::Torch { op: "all_reduce", message })
}
