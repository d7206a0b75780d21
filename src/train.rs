//! `train`: pairs -> a decoder, in a run folder.

use anyhow::Result;
use clap::Args;

use crate::config::RecipeArgs;
use crate::progress::Progress;
use crate::{output, signals};

/// Flags of `train`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella train --recipe configs/captions.toml
  inverse-stella train --recipe configs/captions.toml --dry-run
  inverse-stella train --recipe configs/captions.toml --max-minutes 20 --set run.dir=runs/try
  inverse-stella train --recipe configs/captions.toml --resume

ctrl-c or SIGTERM finishes the step, saves a checkpoint and leaves with 0; a second one ends at once.")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Go on from the run folder's latest checkpoint
    #[arg(long)]
    resume: bool,
    /// Print parameters, memory, tokens and steps per epoch, run one step, and leave no run behind
    #[arg(long)]
    dry_run: bool,
    /// Stop after this many minutes of training; the learning rate is annealed to end there
    #[arg(long, value_name = "N")]
    max_minutes: Option<f64>,
    /// Stop after this many steps
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
    /// Print the outcome (or the plan) as one JSON object
    #[arg(long)]
    json: bool,
}

/// Trains, or says what training would be.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let mut sets = args.recipe.sets.clone();
    // the dedicated flags are the last word on their keys, and so stand in the run's config.toml
    sets.extend(args.max_minutes.map(|minutes| format!("training.max_minutes={minutes}")));
    sets.extend(args.max_steps.map(|steps| format!("training.max_steps={steps}")));
    let resolved = training::recipe::load(&args.recipe.recipe, &sets)?;
    if args.dry_run {
        let plan = training::plan(&resolved.recipe)?;
        return if args.json { output::json(&plan) } else { output::write(|out| write!(out, "{plan}")) };
    }
    let stop = signals::stop_flag()?;
    let options = training::TrainOptions {
        resume: args.resume,
        stop,
        arguments: std::env::args().collect(),
    };
    let mut console = Console { bar: None };
    let outcome = training::train(&resolved, &options, &mut console)?;
    if let Some(bar) = console.bar {
        bar.finish();
    }
    if args.json {
        return output::json(&outcome);
    }
    output::write(|out| write!(out, "{outcome}"))
}

/// Shows the steps of a training: a bar on a terminal, one line each log interval everywhere.
struct Console {
    bar: Option<Progress>,
}
