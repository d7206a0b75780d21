//! All processes of one program, seen from one of them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tch::{Device, Kind, Tensor};

use super::fault::{Absence, RankFault};
use super::group::{ProcessGroup, Reduce, Work};
use super::nccl::{self, Nccl};
use super::patience::Watch;
use super::place::Place;
use super::pulse::{self, Health, Pulse};
use super::store::Store;
use crate::error::{Error, Result};

/// The processes that work together, or this one alone. Every collective must be called by all ranks in one order; for
/// one process all of them do nothing.
#[derive(Debug)]
pub struct World {
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    timeout: Duration,
    pub(super) joined: Option<Joined>,
}

/// What there is only where there are several.
#[derive(Debug)]
pub(super) struct Joined {
    // dropped in this order: the groups and the pulse speak to the store
    /// For tensors on a GPU, once [`World::attach_cuda`] was called.
    cuda: OnceLock<Nccl>,
    group: ProcessGroup,
    pulse: Pulse,
    pub(super) store: Store,
    pub(super) serves: bool,
    /// Waits without a limit that this process has come to.
    pub(super) waits: AtomicU64,
    /// Whether this process has left word of a failure.
    pub(super) told: AtomicBool,
    /// Whether it has served the store on for the others to hear of one.
    pub(super) lingered: AtomicBool,
}

impl World {
    /// This process alone.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, local_size: 1, timeout: Duration::MAX, joined: None }
    }

    /// Joins the others that torchrun's variables tell of (see [`Place::read`]); alone where they are not set. A collective
    /// that takes longer than `timeout`, and the joining itself, end with an error.
    ///
    /// # Errors
    /// [`Error::LaunchVariable`], [`Error::NotJoined`] naming the ranks that did not come, [`Error::Store`].
    pub fn from_env(timeout: Duration) -> Result<Self> {
        match Place::read(|name| std::env::var(name).ok())? {
            Some(place) => Self::join(&place, timeout),
            None => Ok(Self::alone()),
        }
    }

    /// As [`World::from_env`], at a place that is known.
    ///
    /// # Errors
    /// [`Error::NotJoined`] naming the ranks that did not come, [`Error::Store`].
    pub fn join(place: &Place, timeout: Duration) -> Result<Self> {
        let &Place { rank, size, local_rank, local_size, serves, attempt, .. } = place;
        let alone = Self { rank, size, local_rank, local_size, timeout, joined: None };
        if size == 1 {
            return Ok(alone);
        }
        let prefix = format!("inverse-stella/{attempt}");
        let store = Store::open(&place.address, serves, &prefix, timeout)?;
        store.set(&joined_key(rank), b"")?;
        let pulse = Pulse::start(store.another()?, rank);
        // the server gives up last, so that the others can tell who did not come
        meet(&store, size, timeout + Duration::from_secs(if serves { 2 } else { 0 }))?;
        let group = ProcessGroup::gloo(&store, rank, size, &place.network, timeout)?;
        Ok(Self {
            joined: Some(Joined {
                cuda: OnceLock::new(),
                group,
                pulse,
                store,
                serves,
                waits: AtomicU64::new(0),
                told: AtomicBool::new(false),
                lingered: AtomicBool::new(false),
            }),
            ..alone
        })
    }

    /// Joins the processes on their GPUs too, so that collectives take tensors on `device`: through NCCL. All ranks call
    /// it, once, each with a GPU of its own; for one process there is nothing to do.
    ///
    /// # Errors
    /// [`Error::NoCuda`] where NCCL is not there, [`Error::Argument`] for what is no GPU, and those of
    /// [`World::all_reduce`].
    pub fn attach_cuda(&self, device: Device) -> Result<()> {
        let Some(joined) = &self.joined else { return Ok(()) };
        nccl::check(device)?;
        // NCCL's own start waits without an end for a rank that has not come
        self.barrier()?;
        let start = Instant::now();
        let opened = Nccl::open(joined.store.another()?, self.rank, self.size, device, self.timeout);
        let number = joined.pulse.collectives.load(Ordering::Relaxed);
        let group =
            opened.map_err(|error| joined.explain(self, "attach_cuda", number, start.elapsed(), error))?;
        // a second call leaves the first group
        let _ = joined.cuda.set(group);
        Ok(())
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of this process on its machine.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Number of processes on its machine.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// Whether this is rank 0, which writes what is written once.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Begins an all-reduce; `tensor` holds the result once the work was waited for.
    ///
    /// # Errors
    /// [`Error::Argument`] for a tensor that is not contiguous.
    pub fn begin_all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<Pending> {
        self.begin(tensor.device(), |group| group.all_reduce(tensor, reduce))
    }

    /// Puts the reduced values of all ranks into `tensor` (contiguous; any shape, one for all).
    ///
    /// # Errors
    /// [`Error::Ranks`] or [`Error::Collective`] where a rank does not come; so in all that follows.
    pub fn all_reduce(&self, tensor: &Tensor, reduce: Reduce) -> Result<()> {
        self.finish(self.begin_all_reduce(tensor, reduce)?)
    }

    /// Begins a broadcast of the values that rank `from` has in `tensor` (contiguous) to all ranks.
    ///
    /// # Errors
    /// Those of [`World::begin_all_reduce`].
    pub fn begin_broadcast(&self, tensor: &Tensor, from: usize) -> Result<Pending> {
        self.begin(tensor.device(), |group| group.broadcast(tensor, from))
    }

    /// Puts rank 0's values into `tensor` on every rank.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn broadcast(&self, tensor: &Tensor) -> Result<()> {
        self.finish(self.begin_broadcast(tensor, 0)?)
    }

    /// Puts what all ranks hand in into `all`, by rank; the elements of `all` are those of `own` times the number of ranks.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn all_gather(&self, all: &Tensor, own: &Tensor) -> Result<()> {
        if self.joined.is_none() {
            let copied = own.f_view_as(all).and_then(|own| all.shallow_clone().f_copy_(&own));
            return copied.map_err(|e| torch("all_gather", &e));
        }
        self.finish(self.begin(all.device(), |group| group.all_gather(all, own))?)
    }

    /// Waits until all ranks have come.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn barrier(&self) -> Result<()> {
        self.finish(self.begin(Device::Cpu, ProcessGroup::barrier)?)
    }

    /// Reduces a few numbers, such as counts and sums.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn reduce_numbers<const N: usize>(&self, numbers: [f64; N], reduce: Reduce) -> Result<[f64; N]> {
        if self.joined.is_none() {
            return Ok(numbers);
        }
        let tensor = Tensor::from_slice(&numbers);
        self.all_reduce(&tensor, reduce)?;
        let mut reduced = numbers;
        tensor.f_copy_data(&mut reduced, N).map_err(|e| torch("all_reduce", &e))?;
        Ok(reduced)
    }

    /// Rank 0's bytes on every rank; the others' are dropped.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn broadcast_bytes(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if self.joined.is_none() {
            return Ok(bytes);
        }
        let length = Tensor::from_slice(&[bytes.len() as i64]);
        self.broadcast(&length)?;
        let length = length.f_int64_value(&[0]).map_err(|e| torch("broadcast", &e))?;
        let tensor = if self.is_first() {
            Tensor::from_slice(&bytes)
        } else {
            Tensor::f_zeros([length], (Kind::Uint8, Device::Cpu)).map_err(|e| torch("broadcast", &e))?
        };
        self.broadcast(&tensor)?;
        bytes_of(&tensor)
    }

    /// Every rank's bytes, by rank.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn gather_bytes(&self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>> {
        if self.joined.is_none() {
            return Ok(vec![bytes]);
        }
        let fail = |e: tch::TchError| torch("all_gather", &e);
        let long = |n: usize| Tensor::f_zeros([n as i64], (Kind::Int64, Device::Cpu));
        let lengths = long(self.size).map_err(fail)?;
        self.all_gather(&lengths, &Tensor::from_slice(&[bytes.len() as i64]))?;
        let lengths = Vec::<i64>::try_from(&lengths).map_err(fail)?;
        let most = lengths.iter().copied().max().unwrap_or(0);
        let mut padded = bytes;
        padded.resize(most as usize, 0);
        let all = Tensor::f_zeros([self.size as i64, most], (Kind::Uint8, Device::Cpu)).map_err(fail)?;
        self.all_gather(&all, &Tensor::from_slice(&padded))?;
        (0i64..)
            .zip(lengths)
            .map(|(rank, length)| {
                bytes_of(&all.f_select(0, rank).and_then(|row| row.f_narrow(0, 0, length)).map_err(fail)?)
            })
            .collect()
    }

    /// Waits for what was begun.
    ///
    /// # Errors
    /// Those of [`World::all_reduce`].
    pub fn finish(&self, pending: Pending) -> Result<()> {
        let (Some(joined), Some((work, number))) = (&self.joined, pending.0) else { return Ok(()) };
        let op = work.op();
        let start = Instant::now();
        joined.wait(&work, self).map_err(|error| {
            // NCCL's group is of no use any more, and to end it may take as long as its watchdog wants
            joined.cuda.get().inspect(|nccl| nccl.abandon());
            joined.explain(self, op, number, start.elapsed(), error)
        })
    }

    fn begin(&self, device: Device, body: impl FnOnce(&ProcessGroup) -> Result<Work>) -> Result<Pending> {
        let Some(joined) = &self.joined else { return Ok(Pending(None)) };
        let group = joined.group_for(device)?;
        let number = joined.pulse.collectives.fetch_add(1, Ordering::Relaxed) + 1;
        match body(group) {
            Ok(work) => Ok(Pending(Some((work, number)))),
            Err(error @ Error::Argument { .. }) => Err(error),
            // a connection that was lost is noticed by the next collective too
            Err(error) => Err(joined.explain(self, "a collective", number, Duration::ZERO, error)),
        }
    }

    /// How long a collective may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A collective that was begun.
#[must_use = "a collective is done when it has been waited for"]
#[derive(Debug)]
pub struct Pending(Option<(Work, u64)>);

impl Joined {
    fn group_for(&self, device: Device) -> Result<&ProcessGroup> {
        match (device, self.cuda.get()) {
            (Device::Cpu, _) => Ok(&self.group),
            (_, Some(nccl)) => Ok(nccl.group()),
            (device, None) => Err(Error::NotAttached { op: "a collective", device }),
        }
    }

    /// Waits for a collective, and looks out meanwhile for a rank that says it has failed, or that has died where no
    /// connection tells of it.
    fn wait(&self, work: &Work, world: &World) -> Result<()> {
        let mut watch = Watch::start();
        // the collective stays on its way
        work.wait(&mut || self.watch(&mut watch, world.size).inspect_err(|_| self.group.abandon()))
    }

    /// Who is to blame for a collective that failed. Leaves word for the others, and where this process serves the store,
    /// stays until they have had time to look.
    fn explain(&self, world: &World, op: &'static str, number: u64, waited: Duration, error: Error) -> Error {
        let Error::Torch { message, .. } = error else { return error };
        let mut message = message.lines().next().unwrap_or_default().to_owned();
        let found = pulse::look(&self.store, world.size);
        let mut blamed = match &found {
            Ok(health) => pulse::blame(health, number, waited >= world.timeout / 2),
            // nobody answers: the store went with its server
            Err(_) if !self.serves => Some((Absence::Gone, vec![0])),
            Err(_) => None,
        };
        if let Some((Absence::Failed, ranks)) = &mut blamed
            && let Ok(Some((first, word))) = self.first_failure()
            && ranks.contains(&first)
        {
            // the others failed by it, and what it said itself says more than how it was missed
            (*ranks, message) = (vec![first], word);
        }
        let _ = self.store.set_first(&pulse::failed_key(world.rank), format!("{message} ").as_bytes());
        if self.serves && !self.lingered.swap(true, Ordering::Relaxed) {
            self.linger(world);
        }
        match blamed {
            Some((how, ranks)) => {
                let size = world.size;
                Error::Ranks(Box::new(RankFault { op, number, ranks, size, how, waited, message }))
            }
            None => Error::Collective { op, number, message },
        }
    }

    /// Until the others have said that they failed, or are gone, or some seconds have passed.
    fn linger(&self, world: &World) {
        let end = Instant::now() + Duration::from_secs(10).min(world.timeout);
        while Instant::now() < end {
            let Ok(health) = pulse::look(&self.store, world.size) else { return };
            if !health
                .iter()
                .enumerate()
                .any(|(rank, found)| rank != world.rank && matches!(found, Health::Beats { .. }))
            {
                return;
            }
        }
    }
}

/// Waits until all ranks have come to the store.
fn meet(store: &Store, size: usize, timeout: Duration) -> Result<()> {
    let start = Instant::now();
    let mut missing: Vec<usize> = (0..size).collect();
    loop {
        let before = std::mem::take(&mut missing);
        for rank in before {
            if !store.has(&joined_key(rank))? {
                missing.push(rank);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if start.elapsed() >= timeout {
            let address = store.address().to_string();
            return Err(Error::NotJoined { ranks: missing, size, address, waited: start.elapsed() });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn joined_key(rank: usize) -> String {
    format!("joined/{rank}")
}

fn bytes_of(tensor: &Tensor) -> Result<Vec<u8>> {
    let contiguous = tensor.f_contiguous().map_err(|e| torch("copy_data", &e))?;
    Vec::try_from(&contiguous).map_err(|e| torch("copy_data", &e))
}

fn torch(op: &'static str, error: &tch::TchError) -> Error {
    Error::Torch { op, message: error.to_string() }
}
