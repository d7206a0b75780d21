//! Where each process stands: torchrun's variables for it.

use std::fmt;
use std::net::TcpListener;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};

use super::LaunchArgs;
use crate::failure::ArgumentError;

/// Where processes of several machines meet unless told otherwise, as with torchrun.
const PORT: u16 = 29500;

/// The places of this machine's processes.
#[derive(Debug)]
pub(super) struct Places {
    processes: u32,
    nodes: u32,
    node_rank: u32,
    address: String,
    port: u16,
    /// Threads of each process; `None` where the caller has set OMP_NUM_THREADS.
    threads: Option<usize>,
}

impl Places {
    /// Reads the flags, and finds a free port where none is given.
    pub(super) fn choose(args: &LaunchArgs) -> Result<Self> {
        let &LaunchArgs { processes, nodes, node_rank, .. } = args;
        if node_rank >= nodes {
            return Err(ArgumentError::with_hint(
                format!("--node-rank {node_rank} with --nodes {nodes}: they go from 0 to {}", nodes - 1),
                "give the number of machines with --nodes, and every machine a --node-rank of its own",
            )
            .into());
        }
        if processes.checked_mul(nodes).is_none() {
            return Err(
                ArgumentError::new(format!("{nodes} times {processes} processes are too many")).into()
            );
        }
        let address = match &args.master_addr {
            Some(address) => address.clone(),
            None if nodes == 1 => "127.0.0.1".to_owned(),
            None => {
                return Err(ArgumentError::with_hint(
                    format!("--nodes {nodes} without --master-addr: the machines cannot find each other"),
                    "give the name of machine 0 on all of them",
                )
                .into());
            }
        };
        let port = match args.port {
            Some(port) => port,
            None if nodes == 1 => free_port()?,
            None => PORT,
        };
        let cores = available_parallelism().map_or(1, usize::from);
        let threads =
            std::env::var_os("OMP_NUM_THREADS").is_none().then(|| (cores / processes as usize).max(1));
        Ok(Self { processes, nodes, node_rank, address, port, threads })
    }

    /// Rank of the process of this number on this machine.
    pub(super) fn rank(&self, local_rank: u32) -> u32 {
        self.node_rank * self.processes + local_rank
    }

    /// What the process of this number on this machine is told.
    pub(super) fn variables(&self, local_rank: u32) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("RANK", self.rank(local_rank).to_string()),
            ("WORLD_SIZE", (self.nodes * self.processes).to_string()),
            ("LOCAL_RANK", local_rank.to_string()),
            ("LOCAL_WORLD_SIZE", self.processes.to_string()),
            ("GROUP_RANK", self.node_rank.to_string()),
            ("MASTER_ADDR", self.address.clone()),
            ("MASTER_PORT", self.port.to_string()),
            // of a torchrun further out, whose store is not ours
            ("TORCHELASTIC_USE_AGENT_STORE", "False".to_owned()),
            ("TORCHELASTIC_RESTART_COUNT", "0".to_owned()),
        ];
        variables.extend(self.threads.map(|threads| ("OMP_NUM_THREADS", threads.to_string())));
        variables
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processes, nodes, address, port, .. } = self;
        write!(f, "{processes} processes")?;
        if *nodes > 1 {
            write!(f, " on each of {nodes} machines, this is number {}", self.node_rank)?;
        }
        write!(f, ", meeting at {address}:{port}")?;
        if let Some(threads) = self.threads {
            write!(f, ", threads each: {threads}")?;
        }
        Ok(())
    }
}

/// A port that nobody listens to now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    Ok(listener.context("no port is free for the processes to meet at")?.port())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn places(flags: &[&str]) -> Result<Places> {
        let words = [&["inverse-stella", "launch"], flags, &["--", "train"]].concat();
        let Command::Launch(args) = Cli::try_parse_from(words).unwrap().command else { unreachable!() };
        Places::choose(&args)
    }

    fn of(places: &Places, local_rank: u32, name: &str) -> Option<String> {
        places.variables(local_rank).into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    #[test]
    fn one_machine_needs_no_address() {
        let places = places(&["--processes", "2"]).unwrap();
        let told = |name| of(&places, 1, name).unwrap();
        assert_eq!(
            (told("RANK"), told("WORLD_SIZE"), told("LOCAL_RANK")),
            ("1".into(), "2".into(), "1".into())
        );
        assert_eq!(told("MASTER_ADDR"), "127.0.0.1");
        assert_ne!(told("MASTER_PORT"), "0");
    }

    #[test]
    fn ranks_count_on_from_machine_to_machine() {
        let flags = ["--processes", "4", "--nodes", "3", "--node-rank", "2", "--master-addr", "node-a"];
        let places = places(&flags).unwrap();
        let told = |name| of(&places, 1, name).unwrap();
        assert_eq!((told("RANK"), told("WORLD_SIZE")), ("9".into(), "12".into()));
        assert_eq!((told("LOCAL_RANK"), told("LOCAL_WORLD_SIZE")), ("1".into(), "4".into()));
        assert_eq!((told("MASTER_ADDR"), told("MASTER_PORT")), ("node-a".into(), "29500".into()));
    }

    #[test]
    fn machines_that_cannot_be_are_refused() {
        let refusal = |flags: &[&str]| places(flags).unwrap_err().to_string();
        assert!(refusal(&["--processes", "1", "--nodes", "2"]).contains("--master-addr"));
        let flags = ["--processes", "1", "--nodes", "2", "--node-rank", "2", "--master-addr", "a"];
        assert!(refusal(&flags).contains("from 0 to 1"));
    }
}
