//! `launch`: the same command as several processes that share one work, each told its place as torchrun tells it.

mod children;
mod place;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser as _};

use crate::cli::{Cli, Command as Verb};
use crate::failure::ArgumentError;
use place::Places;
use torch_ext::c10d::Place;

/// Tells a process which one has started it.
const LAUNCHER: &str = "INVERSE_STELLA_LAUNCHER";

/// Flags of `launch`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella launch --processes 2 -- train --recipe configs/captions.toml
  inverse-stella launch --processes 8 -- train --recipe configs/stella-en-1.5b-v5.toml --resume
  inverse-stella launch --processes 4 -- pairs build --recipe configs/captions.toml
  inverse-stella launch --processes 4 -- eval runs/captions --texts held-out.txt
  inverse-stella launch --processes 8 --nodes 2 --node-rank 0 --master-addr node-a -- train --recipe configs/captions.toml

What takes part: train, pairs build, eval, bench train --recipe. torchrun starts the same processes: docs/launch.md.")]
pub(crate) struct LaunchArgs {
    /// Processes on this machine; with GPUs, one for each
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
    /// Port at which the processes meet [default: a free one; 29500 with several nodes]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Machines, each with as many processes; `launch` is called on every one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Number of this machine, from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    node_rank: u32,
    /// Name or address of machine 0, as the others reach it
    #[arg(long, value_name = "HOST")]
    master_addr: Option<String>,
    /// Seconds that the others have to end by themselves when one has failed
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    grace: u64,
    /// The command, without the program's name
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Starts the processes and waits for all of them; the status is that of the first that failed.
pub(crate) fn run(args: &LaunchArgs) -> Result<ExitCode> {
    if let Some(rank) = std::env::var_os("RANK") {
        return Err(ArgumentError::with_hint(
            format!("launch: RANK is set to {}: this is one of several processes already", rank.display()),
            "give the command itself to torchrun or launch, not launch; or unset RANK and WORLD_SIZE",
        )
        .into());
    }
    check_command(&args.command)?;
    let places = Places::choose(args)?;
    let program = std::env::current_exe().context("this program's own file cannot be found")?;
    let commands = (0..args.processes).map(|local_rank| {
        let mut command = Command::new(&program);
        command.args(&args.command).envs(places.variables(local_rank));
        command.env(LAUNCHER, std::process::id().to_string());
        (places.rank(local_rank), command)
    });
    tracing::info!("{places}");
    let failed = children::run(commands, Duration::from_secs(args.grace))?;
    Ok(failed.map_or(ExitCode::SUCCESS, |ended| ExitCode::from(ended.status())))
}

/// Whether this process is one of several, and not the one that speaks for them (rank 0).
pub(crate) fn is_silent() -> Result<bool> {
    Ok(Place::read(|name| std::env::var(name).ok())?.is_some_and(|place| place.rank > 0))
}

/// Lets a process that `launch` has started be asked to end when `launch` itself is killed, also where that was before
/// this process could say so.
#[allow(clippy::exit, reason = "nobody is left to tell an error to, and nothing has begun")]
pub(crate) fn end_with_launcher() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal, test_kill_process};
        let launcher = std::env::var(LAUNCHER).ok().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        let Some(launcher) = launcher else { return };
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
        if getppid() == Some(launcher) {
            return;
        }
        // a process of a process, which has only inherited the variable
        let _ = set_parent_process_death_signal(None);
        if getppid() == Some(Pid::INIT) && test_kill_process(launcher).is_err() {
            std::process::exit(1);
        }
    }
}

/// Refuses what would fail in every process, or do the same work in each of them.
fn check_command(command: &[String]) -> Result<()> {
    let cli = match Cli::try_parse_from(std::iter::once("inverse-stella".to_owned()).chain(command.to_vec()))
    {
        Ok(cli) => cli,
        // help that was asked for, or what clap has to say of the flags
        Err(error) => error.exit(),
    };
    let takes_part = match &cli.command {
        Verb::Eval(_) => true,
        Verb::Train(args) => args.takes_part(),
        Verb::Pairs(args) => args.takes_part(),
        Verb::Bench(args) => args.takes_part(),
        _ => false,
    };
    if takes_part {
        return Ok(());
    }
    let words: Vec<&str> =
        command.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).collect();
    Err(ArgumentError::with_hint(
        format!("launch: {:?} has no work to share: every process would do all of it", words.join(" ")),
        "train, pairs build, eval and bench train --recipe share theirs; run other commands by themselves",
    )
    .into())
}
