//! The processes from their start to their end: what they say, what they are told, and who failed first.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(50);
/// Time between SIGTERM and SIGKILL.
const LAST_CALL: Duration = Duration::from_secs(10);

/// One of the processes.
#[derive(Debug)]
struct Child {
    rank: u32,
    process: std::process::Child,
    /// Pass on what it says.
    readers: Vec<JoinHandle<()>>,
    ended: Option<ExitStatus>,
}

/// How a process ended that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    rank: u32,
    how: ExitStatus,
}

impl Ended {
    /// The status to leave with: its own, or 1 where a signal ended it.
    pub(super) fn status(self) -> u8 {
        self.how.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.how.code(), self.how.signal()) {
            (_, Some(number)) => {
                let name = signal_hook::low_level::signal_name(number).unwrap_or("which has no name");
                write!(f, "rank {} was ended by signal {number} ({name})", self.rank)
            }
            (code, None) => write!(f, "rank {} ended with status {}", self.rank, code.unwrap_or(1)),
        }
    }
}

/// Starts a process a rank and waits for all. Rank 0 speaks for itself; lines of the others go to stderr with their rank
/// before them. When one fails, the others have `grace` to notice and end by themselves; then they are asked to, and then
/// ended. Signals are passed on to all. Gives the first that failed.
pub(super) fn run(commands: impl Iterator<Item = (u32, Command)>, grace: Duration) -> Result<Option<Ended>> {
    // before the first start, so that no signal leaves processes behind
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).context("cannot listen for signals")?;
    wait(start(commands)?, signals, grace)
}

/// If one cannot be started, those that were are ended.
fn start(commands: impl Iterator<Item = (u32, Command)>) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    for (rank, command) in commands {
        match start_one(rank, command) {
            Ok(child) => children.push(child),
            Err(error) => {
                children.iter().for_each(|child| send(child, Signal::KILL));
                children.iter_mut().for_each(|child| drop(child.process.wait()));
                return Err(error);
            }
        }
    }
    Ok(children)
}

fn start_one(rank: u32, mut command: Command) -> Result<Child> {
    // a terminal sends ctrl-c to its whole group: in groups of their own they hear it from here, and once
    command.stdin(Stdio::null()).process_group(0);
    if rank != 0 {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut process = command.spawn().with_context(|| format!("rank {rank} cannot be started"))?;
    let mut readers = Vec::new();
    readers.extend(process.stdout.take().map(|said| pass_on(rank, said)));
    readers.extend(process.stderr.take().map(|said| pass_on(rank, said)));
    Ok(Child { rank, process, readers, ended: None })
}

/// Passes on lines to stderr, each in one piece.
fn pass_on(rank: u32, said: impl Read + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut said = BufReader::new(said);
        let prefix = format!("[rank {rank}] ").into_bytes();
        loop {
            let mut line = prefix.clone();
            match said.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            // read on even where nobody listens: a full pipe would stop the process
            let _ = std::io::stderr().lock().write_all(&line);
        }
    })
}

fn wait(mut children: Vec<Child>, mut signals: Signals, grace: Duration) -> Result<Option<Ended>> {
    let mut failed: Option<(Ended, Instant)> = None;
    let mut calls =
        [(grace, Signal::TERM), (grace.saturating_add(LAST_CALL), Signal::KILL)].into_iter().peekable();
    loop {
        for signal in signals.pending().filter_map(Signal::from_named_raw) {
            living(&children).for_each(|child| send(child, signal));
        }
        for child in children.iter_mut().filter(|child| child.ended.is_none()) {
            let Some(how) = child.process.try_wait().context("cannot wait for a process")? else { continue };
            child.ended = Some(how);
            child.readers.drain(..).for_each(|reader| drop(reader.join()));
            if !how.success() {
                let ended = Ended { rank: child.rank, how };
                tracing::error!("{ended}");
                failed.get_or_insert((ended, Instant::now()));
            }
        }
        if living(&children).next().is_none() {
            return Ok(failed.map(|(ended, _)| ended));
        }
        if let (Some((_, since)), Some((after, signal))) = (failed, calls.peek().copied())
            && since.elapsed() >= after
        {
            calls.next();
            let ranks: Vec<String> = living(&children).map(|child| child.rank.to_string()).collect();
            let what = if signal == Signal::TERM { "asked to end" } else { "ended" };
            tracing::warn!("still running and now {what}: rank {}", ranks.join(", "));
            living(&children).for_each(|child| send(child, signal));
        }
        std::thread::sleep(LOOK);
    }
}

fn living(children: &[Child]) -> impl Iterator<Item = &Child> {
    children.iter().filter(|child| child.ended.is_none())
}

/// Sends a signal; one that has just ended needs none.
fn send(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.process.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Runs a line of shell as each rank.
    fn shell(lines: &[&str], grace: u64) -> (Option<Ended>, Duration) {
        let start_time = Instant::now();
        let commands = (0u32..).zip(lines).map(|(rank, line)| {
            let mut command = Command::new("sh");
            command.args(["-c", line]);
            (rank, command)
        });
        (run(commands, Duration::from_secs(grace)).unwrap(), start_time.elapsed())
    }

    #[test]
    fn all_well_is_no_failure() {
        assert_eq!(shell(&["exit 0", "sleep 0.2"], 15).0, None);
    }

    #[test]
    fn a_grace_without_an_end_is_one() {
        assert_eq!(shell(&["exit 3", "exit 0"], u64::MAX).0.unwrap().status(), 3);
    }

    #[test]
    fn the_first_that_fails_gives_the_status_and_the_others_have_time() {
        let (ended, _) = shell(&["sleep 0.5; exit 4", "exit 3", "exit 0"], 15);
        let ended = ended.unwrap();
        assert_eq!((ended.to_string().as_str(), ended.status()), ("rank 1 ended with status 3", 3));
    }

    #[test]
    fn after_the_grace_the_others_are_asked_to_end() {
        let (ended, took) = shell(&["kill -9 $$", "exec sleep 30"], 1);
        let ended = ended.unwrap();
        assert_eq!(
            (ended.to_string().as_str(), ended.status()),
            ("rank 0 was ended by signal 9 (SIGKILL)", 1)
        );
        assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
    }

    #[test]
    fn one_that_does_not_listen_is_ended() {
        let stubborn = "trap '' TERM; while :; do sleep 0.2; done";
        let (ended, took) = shell(&[stubborn, "exit 7"], 0);
        assert_eq!(ended.unwrap().status(), 7);
        assert!(took >= LAST_CALL && took < LAST_CALL * 2, "{took:?}");
    }
}
