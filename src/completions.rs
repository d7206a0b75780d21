//! `completions`: what a shell needs to complete our verbs and flags.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, output};

/// Flags of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  inverse-stella completions bash > ~/.local/share/bash-completion/completions/inverse-stella"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Prints the completion script.
pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "inverse-stella", &mut script);
    output::write(|out| out.write_all(&script))
}
