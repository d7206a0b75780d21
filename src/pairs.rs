//! `pairs`: corpora -> curated (vector, text) pairs on disk, and a look at them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use data::pairs::{BuildProgress, PairSet, Stage};
use models::Embed;
use torch_ext::World;
use training::recipe::Recipe;

use crate::config::RecipeArgs;
use crate::progress::Progress;
use crate::{output, signals};

/// Time that processes have to find each other: an encoder may be loaded, or fetched, slowly.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Flags of `pairs`.
#[derive(Debug, Args)]
pub(crate) struct PairsArgs {
    #[command(subcommand)]
    verb: PairsVerb,
}

impl PairsArgs {
    /// Whether several processes share the work.
    pub(crate) fn takes_part(&self) -> bool {
        matches!(self.verb, PairsVerb::Build { .. })
    }
}

#[derive(Debug, Subcommand)]
enum PairsVerb {
    /// Read, curate and encode a recipe's corpora; started again after a kill it goes on where it was
    #[command(after_help = "\
Examples:
  inverse-stella pairs build --recipe configs/captions.toml
  inverse-stella pairs build --recipe configs/captions.toml --set corpus.0.limit=1000 --set pairs.dir=runs/few
  inverse-stella launch --processes 4 -- pairs build --recipe configs/captions.toml

Several processes share the work, and the folder (docs/pairs.md).")]
    Build {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// A malformed row is an error instead of being skipped and counted
        #[arg(long)]
        strict: bool,
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Counts, lengths, domains, prompts and sample rows of a pair set
    #[command(after_help = "Example:\n  inverse-stella pairs inspect runs/captions-pairs --samples 5")]
    Inspect {
        /// The pair set's folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// How many rows to show
        #[arg(long, value_name = "N", default_value_t = 5)]
        samples: usize,
        /// Seed of the choice of rows
        #[arg(long, value_name = "N", default_value_t = 0)]
        seed: u64,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check every shard against its digest
    #[command(after_help = "Example:\n  inverse-stella pairs verify runs/captions-pairs")]
    Verify {
        /// The pair set's folder
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// Runs one of the verbs.
pub(crate) fn run(args: &PairsArgs) -> Result<()> {
    match &args.verb {
        PairsVerb::Build { recipe, strict, json } => build(recipe, *strict, *json),
        PairsVerb::Inspect { dir, samples, seed, json } => inspect(dir, *samples, *seed, *json),
        PairsVerb::Verify { dir } => {
            let set = PairSet::open(dir)?;
            set.verify()?;
            output::write(|out| writeln!(out, "{}: {} pairs, every digest right", dir.display(), set.len()))
        }
    }
}

fn build(args: &RecipeArgs, strict: bool, json: bool) -> Result<()> {
    let recipe = args.load()?.recipe;
    // curation and encoding are waited for without a limit; this holds for the short words in between
    let world = World::from_env(TIMEOUT)?;
    build_together(&recipe, strict, json, &world)
        .inspect_err(|error| world.tell_failure(&format!("{error:#}")))
}

fn build_together(recipe: &Recipe, strict: bool, json: bool, world: &World) -> Result<()> {
    let encoders = recipe.open_encoders()?;
    let encoders: Vec<&dyn Embed> = encoders.iter().map(|encoder| encoder as &dyn Embed).collect();
    let mut config = recipe.pairs_config();
    if strict {
        config.strict();
    }
    let stop = signals::stop_flag()?;
    let mut bar: Option<(Stage, Progress)> = None;
    let built = data::pairs::build_until(
        &config,
        &encoders,
        &mut |at: BuildProgress| {
            if !world.is_first() {
                return;
            }
            if bar.as_ref().is_none_or(|(stage, _)| *stage != at.stage) {
                if let Some((_, done)) = bar.take() {
                    done.finish();
                }
                bar = Some((at.stage, Progress::start(at.stage.name(), "texts", at.total)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.at(at.done, "");
            }
        },
        &stop,
        world,
    );
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    let report = match built {
        // asked for, and nothing is lost: no failure
        Err(data::Error::Stopped) => {
            tracing::info!("stopped; the same command goes on from here");
            return Ok(());
        }
        built => built?,
    };
    if !world.is_first() {
        return Ok(());
    }
    if json {
        return output::json(&report);
    }
    output::write(|out| writeln!(out, "{report}"))
}

fn inspect(dir: &Path, samples: usize, seed: u64, json: bool) -> Result<()> {
    let inspection = data::pairs::inspect(&PairSet::open(dir)?, samples, seed)?;
    if json {
        return output::json(&inspection);
    }
    output::write(|out| writeln!(out, "{inspection}"))
}
