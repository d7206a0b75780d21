//! `pairs`: corpora -> curated (vector, text) pairs on disk, and a look at them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use data::pairs::{BuildProgress, BuildReport, Counts, Flow, Inspection, Outcome, PairSet, Stage};
use models::Encoder;

use crate::config::RecipeArgs;
use crate::progress::Progress;
use crate::{output, signals};

/// Flags of `pairs`.
#[derive(Debug, Args)]
pub(crate) struct PairsArgs {
    #[command(subcommand)]
    verb: PairsVerb,
}

#[derive(Debug, Subcommand)]
enum PairsVerb {
    /// Read, curate and encode a recipe's corpora; started again after a kill it goes on where it was
    #[command(after_help = "\
Examples:
  inverse-stella pairs build --recipe configs/captions.toml
  inverse-stella pairs build --recipe configs/captions.toml --set corpus.0.limit=1000 --set pairs.dir=/tmp/few")]
    Build {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Counts, lengths, domains and sample rows of a pair set
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
        PairsVerb::Build { recipe, json } => build(recipe, *json),
        PairsVerb::Inspect { dir, samples, seed, json } => inspect(dir, *samples, *seed, *json),
        PairsVerb::Verify { dir } => {
            let set = PairSet::open(dir)?;
            set.verify()?;
            output::write(|out| writeln!(out, "{}: {} pairs, every digest right", dir.display(), set.len()))
        }
    }
}

fn build(args: &RecipeArgs, json: bool) -> Result<()> {
    let recipe = args.load()?.recipe;
    let encoder = Encoder::open(&recipe.encoder.source, &recipe.encoder_options())?;
    let stop = signals::stop_flag()?;
    let mut bar: Option<(Stage, Progress)> = None;
    let report = data::pairs::build_until(
        &recipe.pairs_config(),
        &encoder,
        &mut |at: BuildProgress| {
            if bar.as_ref().is_none_or(|(stage, _)| *stage != at.stage) {
                if let Some((_, done)) = bar.take() {
                    done.finish();
                }
                bar = Some((at.stage, Progress::start(at.stage.to_string(), "texts", at.total)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.at(at.done, "");
            }
        },
        &stop,
    )?;
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    if json {
        return output::json(&report);
    }
    output::write(|out| write_report(out, &report, &recipe.pairs.dir))
}

fn inspect(dir: &Path, samples: usize, seed: u64, json: bool) -> Result<()> {
    let inspection = data::pairs::inspect(&PairSet::open(dir)?, samples, seed);
    if json {
        return output::json(&inspection);
    }
    output::write(|out| write_inspection(out, &inspection, dir))
}

/// What was read, what each filter dropped, what is left.
fn write_report(out: &mut dyn Write, report: &BuildReport, dir: &Path) -> io::Result<()> {
    let manifest = &report.manifest;
    let how = match report.outcome {
        Outcome::Built => "built",
        Outcome::Resumed => "brought to its end",
        Outcome::AlreadyBuilt => "was there already",
    };
    writeln!(out, "{} {how} in {:.1} s: {} pairs", dir.display(), report.elapsed.as_secs_f64(), manifest.pairs)?;
    write_flow(out, &manifest.flow)?;
    write_counts(out, &manifest.counts)?;
    if let Some(loss) = manifest.cosine_loss {
        writeln!(out, "  f16 costs 1 - cosine of {:.1e} on average, {:.1e} at most", loss.mean, loss.max)?;
    }
    Ok(())
}

fn write_flow(out: &mut dyn Write, flow: &Flow) -> io::Result<()> {
    writeln!(out, "  {:<24}{:>10}", "texts read", flow.read)?;
    for corpus in &flow.corpora {
        let rows = &corpus.rows;
        if rows.malformed > 0 || rows.empty > 0 {
            writeln!(out, "    {}: {} malformed rows, {} empty", corpus.name, rows.malformed, rows.empty)?;
        }
    }
    for (filter, count) in flow.drops.iter().filter(|(_, count)| **count > 0) {
        writeln!(out, "    {:<22}{:>10}", filter.replace('_', " "), format!("-{count}"))?;
    }
    Ok(())
}

fn write_counts(out: &mut dyn Write, counts: &Counts) -> io::Result<()> {
    for (what, counts) in [("split", &counts.split), ("domain", &counts.domain), ("source", &counts.source)] {
        let list: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
        writeln!(out, "  by {what:<21}{}", list.join(", "))?;
    }
    Ok(())
}

fn write_inspection(out: &mut dyn Write, inspection: &Inspection, dir: &Path) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} pairs of {} numbers ({:?}) in {} shards, {:.1} MiB",
        dir.display(),
        inspection.pairs,
        inspection.dim,
        inspection.storage,
        inspection.shards,
        inspection.bytes as f64 / (1 << 20) as f64
    )?;
    writeln!(out, "  space                   {} ({})", inspection.space.id(), inspection.space.encoder)?;
    write_flow(out, &inspection.flow)?;
    write_counts(out, &inspection.counts)?;
    for (what, d) in [("tokens", &inspection.tokens), ("words", &inspection.words), ("norm", &inspection.norms)] {
        writeln!(
            out,
            "  {what:<24}min {:.4}, mean {:.4}, p50 {:.4}, p90 {:.4}, p99 {:.4}, max {:.4}",
            d.min, d.mean, d.p50, d.p90, d.p99, d.max
        )?;
    }
    for row in &inspection.samples {
        let split = row.split.as_deref().unwrap_or("?");
        writeln!(out, "  {:>9}  {split:<5}  {:<12}  {}", row.row, row.domain, output::one_line(&row.text))?;
    }
    Ok(())
}
