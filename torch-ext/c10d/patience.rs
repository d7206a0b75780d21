//! Waiting that no time-out bounds: for work that one rank does while the others have nothing to do, or that takes some
//! ranks much longer than others. It goes by words in the store, and by the pulse of the rank that is waited for.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::fault::{Absence, RankFault};
use super::pulse::{self, failed_key};
use super::world::{Joined, World};
use crate::error::{Error, Result};

/// Time between two looks for a word.
const LOOK: Duration = Duration::from_millis(100);
/// Time between two looks at a pulse.
const FEEL: Duration = Duration::from_secs(2);
/// A pulse that has not beaten for so long has stopped: many beats, as all cores may be at work.
const STOPPED: Duration = Duration::from_secs(30);
/// How long the store is served on after a failure, for the others to hear of it: some looks, and the seconds in which a
/// rank finds out how the others are.
const LINGER: Duration = Duration::from_secs(12);
/// Set by the first rank that fails outside a collective: its number and a message.
const FAILURE: &str = "failure";

impl World {
    /// What rank 0's `work` gives, on all ranks. The others wait for it, without a limit as long as rank 0 lives.
    /// `op` names the work in errors.
    ///
    /// # Errors
    /// On rank 0 what `work` says; on the others [`Error::Ranks`] with its message, or that rank 0 is gone. Those of [`World::all_reduce`].
    pub fn first_does<E: From<Error> + Display>(
        &self,
        op: &'static str,
        work: impl FnOnce() -> std::result::Result<Vec<u8>, E>,
    ) -> std::result::Result<Vec<u8>, E> {
        let Some(joined) = &self.joined else { return work() };
        let number = joined.next_wait();
        let bytes = if self.is_first() {
            let bytes = work().inspect_err(|error| self.tell_failure(&error.to_string()))?;
            joined.store.set(&word_key(number, 0), b"")?;
            bytes
        } else {
            joined.wait_for(self, op, number, 0)?;
            Vec::new()
        };
        Ok(self.broadcast_bytes(bytes)?)
    }

    /// Waits until all ranks have come, without a limit as long as those that have not live.
    ///
    /// # Errors
    /// [`Error::Ranks`].
    pub fn patient_barrier(&self, op: &'static str) -> Result<()> {
        let Some(joined) = &self.joined else { return Ok(()) };
        let number = joined.next_wait();
        joined.store.set(&word_key(number, self.rank()), b"")?;
        (0..self.size()).try_for_each(|rank| joined.wait_for(self, op, number, rank))?;
        // rank 0 may serve the store: nobody leaves while another still asks it
        self.barrier()
    }

    /// Leaves word that this rank ends with an error, for those that wait for it, in a collective too, or ask
    /// [`World::check_others`]. Where this process serves the store, stays until they have left word too, or some seconds
    /// have passed. What is told first stays: a second call does nothing.
    pub fn tell_failure(&self, message: &str) {
        let Some(joined) = &self.joined else { return };
        if joined.told.swap(true, Ordering::Relaxed) {
            return;
        }
        // the store may be gone, which says as much
        let _ = joined.store.set_first(FAILURE, format!("{} {message}", self.rank()).as_bytes());
        let _ = joined.store.set_first(&failed_key(self.rank()), format!("{message} ").as_bytes());
        if joined.lingered.swap(true, Ordering::Relaxed) {
            return;
        }
        let end = Instant::now() + LINGER;
        while joined.serves && Instant::now() < end {
            let told = |rank: usize| joined.store.has(&failed_key(rank)).unwrap_or(true);
            if (0..self.size()).all(told) {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether another rank has left word of a failure; cheap enough for once a second.
    ///
    /// # Errors
    /// [`Error::Ranks`] naming it, or rank 0 where the store is gone with it.
    pub fn check_others(&self, op: &'static str) -> Result<()> {
        match &self.joined {
            Some(joined) => joined.failure(self, op, joined.waits.load(Ordering::Relaxed), Duration::ZERO),
            None => Ok(()),
        }
    }
}

/// What is seen of the others during one wait.
pub(super) struct Watch {
    felt: Instant,
    /// Of each rank its last beat, and when that was new.
    beats: Vec<(Option<(u64, u64)>, Instant)>,
}

impl Watch {
    /// From now on.
    pub(super) fn start() -> Self {
        Self { felt: Instant::now(), beats: Vec::new() }
    }
}

impl Joined {
    fn next_wait(&self) -> u64 {
        self.waits.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits for the word of a rank.
    fn wait_for(&self, world: &World, op: &'static str, number: u64, rank: usize) -> Result<()> {
        let start = Instant::now();
        let key = word_key(number, rank);
        let fault = |rank: usize, message: String| {
            missed(world, (op, number), vec![rank], Absence::Gone, start.elapsed(), message)
        };
        let lost = |error: Error| if self.serves { error } else { fault(0, error.to_string()) };
        let (mut beat, mut beaten, mut felt) = (None, start, start);
        while !self.store.has(&key).map_err(lost)? {
            self.failure(world, op, number, start.elapsed())?;
            if felt.elapsed() >= FEEL {
                felt = Instant::now();
                let now = pulse::beat_of(&self.store, rank).map_err(lost)?;
                if now != beat {
                    (beat, beaten) = (now, felt);
                } else if beaten.elapsed() > STOPPED {
                    return Err(fault(rank, format!("no sign of life for {} s", STOPPED.as_secs())));
                }
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Looks out for others while a collective is waited for: an error where one has left word of a failure, or has not
    /// beaten for [`STOPPED`]; nothing where no time for a look has come.
    pub(super) fn watch(&self, watch: &mut Watch, size: usize) -> Result<()> {
        if watch.felt.elapsed() < FEEL {
            return Ok(());
        }
        watch.felt = Instant::now();
        let sign = |message: String| Error::Torch { op: "a collective", message };
        if let Some((rank, message)) = self.first_failure()? {
            return Err(sign(format!("rank {rank}: {message}")));
        }
        watch.beats.resize(size, (None, watch.felt));
        for (rank, (beat, beaten)) in watch.beats.iter_mut().enumerate() {
            let now = pulse::beat_of(&self.store, rank)?;
            if now != *beat {
                (*beat, *beaten) = (now, watch.felt);
            } else if beaten.elapsed() > STOPPED {
                return Err(sign(format!("no sign of life from rank {rank} for {} s", STOPPED.as_secs())));
            }
        }
        Ok(())
    }

    fn failure(&self, world: &World, op: &'static str, number: u64, waited: Duration) -> Result<()> {
        let lost = |error: Error| {
            let message = error.to_string();
            if self.serves {
                error
            } else {
                missed(world, (op, number), vec![0], Absence::Gone, waited, message)
            }
        };
        let Some((rank, message)) = self.first_failure().map_err(lost)? else { return Ok(()) };
        Err(missed(world, (op, number), vec![rank], Absence::Failed, waited, message))
    }

    /// Number and message of the rank that has first left word of a failure.
    pub(super) fn first_failure(&self) -> Result<Option<(usize, String)>> {
        if !self.store.has(FAILURE)? {
            return Ok(None);
        }
        let word = String::from_utf8_lossy(&self.store.get(FAILURE)?).into_owned();
        let parts =
            word.split_once(' ').and_then(|(rank, message)| Some((rank.parse().ok()?, message.to_owned())));
        Ok(parts)
    }
}

fn missed(
    world: &World,
    (op, number): (&'static str, u64),
    ranks: Vec<usize>,
    how: Absence,
    waited: Duration,
    message: String,
) -> Error {
    Error::Ranks(Box::new(RankFault { op, number, ranks, size: world.size(), how, waited, message }))
}

fn word_key(number: u64, rank: usize) -> String {
    format!("word/{number}/{rank}")
}
