//! The pulse of a rank: a key in the store that it sets again and again, with the number of collectives that it has
//! come to. From two looks at all pulses follows who is gone, and who is only late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::fault::Absence;
use super::store::Store;
use crate::error::Result;

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// Time between the two looks at others' pulses: some beats, so that a busy machine is not taken for a dead one.
const LOOK: Duration = Duration::from_millis(3000);

/// The beating of this process.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Collectives that this process has come to.
    pub(super) collectives: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    /// Beats for `rank` over a connection of its own. Ends by itself when the store is gone.
    pub(super) fn start(store: Store, rank: usize) -> Self {
        let collectives = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let count = Arc::clone(&collectives);
        let beat = move || {
            for beat in 0u64.. {
                let value = format!("{beat} {}", count.load(Ordering::Relaxed));
                if store.set(&key(rank), value.as_bytes()).is_err() {
                    return;
                }
                if !matches!(stopped.recv_timeout(BEAT), Err(RecvTimeoutError::Timeout)) {
                    return;
                }
            }
        };
        Self { collectives, stop: Some(stop), thread: Some(std::thread::spawn(beat)) }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What two looks at a rank's pulse have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It beats; so many collectives has it come to.
    Beats {
        /// Collectives that it has come to.
        collectives: u64,
    },
    /// It has stopped by itself, with an error of its own.
    Failed,
    /// It does not beat.
    Gone,
}

/// The health of all ranks; takes some seconds.
///
/// # Errors
/// [`crate::Error::Store`] where the store does not answer: its server is gone.
pub(super) fn look(store: &Store, size: usize) -> Result<Vec<Health>> {
    let all = || (0..size).map(|rank| beat_of(store, rank)).collect::<Result<Vec<_>>>();
    let before = all()?;
    std::thread::sleep(LOOK);
    let after = all()?;
    before
        .into_iter()
        .zip(after)
        .enumerate()
        .map(|(rank, (before, after))| match after {
            _ if store.has(&failed_key(rank))? => Ok(Health::Failed),
            Some((beat, collectives)) if before.is_none_or(|(earlier, _)| beat > earlier) => {
                Ok(Health::Beats { collectives })
            }
            _ => Ok(Health::Gone),
        })
        .collect()
}

/// The ranks that collective `number` failed by: those that are gone before all others. Where it was waited for long, those
/// that are late come before those that failed, with it or by it; where it was not, nobody is late yet.
pub(super) fn blame(health: &[Health], number: u64, long: bool) -> Option<(Absence, Vec<usize>)> {
    let absence = |found: &Health| match found {
        Health::Gone => Some(Absence::Gone),
        Health::Failed => Some(Absence::Failed),
        Health::Beats { collectives } => (*collectives < number).then_some(Absence::Late),
    };
    let missed = |how: Absence| {
        let ranks: Vec<usize> =
            (0..health.len()).filter(|&rank| absence(&health[rank]) == Some(how)).collect();
        (!ranks.is_empty()).then_some((how, ranks))
    };
    let [second, third] =
        if long { [Absence::Late, Absence::Failed] } else { [Absence::Failed, Absence::Late] };
    [Absence::Gone, second, third].into_iter().find_map(missed)
}

/// (beat, collectives) of a rank, if it has ever beaten.
pub(super) fn beat_of(store: &Store, rank: usize) -> Result<Option<(u64, u64)>> {
    let key = key(rank);
    if !store.has(&key)? {
        return Ok(None);
    }
    let value = String::from_utf8_lossy(&store.get(&key)?).into_owned();
    let mut numbers = value.split(' ').map(|number| number.parse().ok());
    Ok(numbers.next().flatten().zip(numbers.next().flatten()))
}

fn key(rank: usize) -> String {
    format!("pulse/{rank}")
}

/// Set by a rank that ends with an error.
pub(super) fn failed_key(rank: usize) -> String {
    format!("failed/{rank}")
}
