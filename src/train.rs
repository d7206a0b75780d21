//! `train`: pairs -> a decoder, in a run folder.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use torch_ext::World;
use training::metric_sink::{DevMetrics, Event, MetricSink, StepMetrics};
use training::{Gpu, PlanOptions};

use crate::config::RecipeArgs;
use crate::progress::Progress;
use crate::{launch, output, signals};

/// Flags of `train`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella train --recipe configs/captions.toml
  inverse-stella train --recipe configs/captions.toml --dry-run
  inverse-stella train --recipe configs/stella-en-1.5b-v5.toml --dry-run --pairs 30000000 --tokens-per-text 80
  inverse-stella train --recipe configs/captions.toml --max-minutes 20 --set run.dir=runs/try
  inverse-stella train --recipe configs/captions.toml --resume

ctrl-c or SIGTERM finishes the step, saves a checkpoint and leaves with 0; a second one ends at once.")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Go on from the run folder's latest checkpoint
    #[arg(long)]
    resume: bool,
    /// Print parameters, memory, work and time, tokens and steps per epoch, run one step, and leave no run behind;
    /// without a pair set, plan on paper
    #[arg(long)]
    dry_run: bool,
    /// With --dry-run: build no model and take no step, even where there are pairs
    #[arg(long, requires = "dry_run")]
    on_paper: bool,
    /// With --dry-run: reckon the time for this many pairs [default: those of the pair set, else 10000000]
    #[arg(long, value_name = "N", requires = "dry_run")]
    pairs: Option<u64>,
    /// With --dry-run: tokens of a text, its end included [default: the mean of the pair set, else 64]
    #[arg(long, value_name = "X", requires = "dry_run")]
    tokens_per_text: Option<f64>,
    /// With --dry-run: the GPU to reckon the time for, h200 or h100
    #[arg(long, value_name = "GPU", default_value = "h200", requires = "dry_run")]
    gpu: Gpu,
    /// With --dry-run: share of the GPU's peak that is reached (model FLOPs utilization)
    #[arg(long, value_name = "SHARE", default_value_t = training::plan::MFU, requires = "dry_run")]
    mfu: f64,
    /// With --dry-run: reckon the memory of one of so many processes
    #[arg(long, value_name = "N", default_value_t = 1, requires = "dry_run")]
    processes: usize,
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

impl TrainArgs {
    /// Whether several processes share the work.
    pub(crate) fn takes_part(&self) -> bool {
        !self.dry_run
    }

    fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            on_paper: self.on_paper,
            pairs: self.pairs,
            tokens_per_text: self.tokens_per_text,
            gpu: self.gpu,
            mfu: self.mfu,
            processes: self.processes,
        }
    }
}

/// Trains, or says what training would be.
pub(crate) fn run(args: &TrainArgs) -> Result<()> {
    let mut sets = args.recipe.sets.clone();
    // the dedicated flags are the last word on their keys, and so stand in the run's config.toml
    sets.extend(args.max_minutes.map(|minutes| format!("training.max_minutes={minutes:?}")));
    sets.extend(args.max_steps.map(|steps| format!("training.max_steps={steps}")));
    let resolved = training::recipe::load(&args.recipe.recipe, &sets)?;
    if args.dry_run {
        // one plan is enough
        if launch::is_silent()? {
            return Ok(());
        }
        let plan = training::plan(&resolved.recipe, &args.plan_options())?;
        if let Some(warning) = plan.warning() {
            tracing::warn!("{warning}");
        }
        return if args.json { output::json(&plan) } else { output::write(|out| write!(out, "{plan}")) };
    }
    let patience = Duration::from_secs_f64(resolved.recipe.distributed.timeout_seconds);
    let options = training::TrainOptions {
        resume: args.resume,
        stop: signals::stop_flag()?,
        arguments: std::env::args().collect(),
        world: Arc::new(World::from_env(patience)?),
    };
    let mut console = Console { bar: None };
    let outcome = training::train(&resolved, &options, &mut console)?;
    if let Some(bar) = console.bar.take() {
        bar.finish();
    }
    if !options.world.is_first() {
        return Ok(());
    }
    if args.json {
        return output::json(&outcome);
    }
    output::write(|out| write!(out, "{outcome}"))
}

/// Shows a training: one line each log interval, and on a terminal a bar below them.
struct Console {
    bar: Option<Progress>,
}

/// The bar counts thousandths of the run, which steps or minutes may bound.
const WHOLE_RUN: u64 = 1000;

impl MetricSink for Console {
    fn record(&mut self, event: &Event) -> training::Result<()> {
        match event {
            Event::Start(start) => {
                let parameters = start.parameters as f64 / 1e6;
                tracing::info!("training {parameters:.1} M parameters from step {}", start.step);
                self.bar = Progress::bar("training", WHOLE_RUN);
            }
            Event::Step(metrics) => {
                tracing::info!("{}", step_line(metrics));
                if let Some(bar) = &mut self.bar {
                    bar.at((metrics.progress * WHOLE_RUN as f64) as u64, "");
                }
            }
            Event::Dev(metrics) => tell_dev(metrics),
            // the run's log has told it already, as it has the samples of an evaluation
            Event::Checkpoint { .. } => {}
        }
        Ok(())
    }
}

/// The console line of a log interval.
fn step_line(m: &StepMetrics) -> String {
    let refining = m.refinement_loss.map(|loss| format!(" | refining {loss:.4}")).unwrap_or_default();
    let eta = m.eta_s.map(|seconds| format!(" | ETA {}", clock(seconds))).unwrap_or_default();
    let consistency = m.consistency_loss.zip(m.consistency_cosine).zip(m.consistency_ms);
    let consistency = consistency
        .map(|((loss, cosine), ms)| format!(" | consistency {loss:.3}, cosine {cosine:.3}, {ms:.0} ms"))
        .unwrap_or_default();
    format!(
        "step {:>6} | loss {:.4}{refining}{consistency} | grad norm {:.3} | lr {:.2e} | {:.0} tokens/s | data wait {:.1} % | {:.2} GiB{eta}",
        m.step,
        m.loss,
        m.grad_norm,
        m.learning_rate,
        m.tokens_per_s,
        m.data_wait_percent,
        m.memory_bytes as f64 / (1u64 << 30) as f64,
    )
}

fn tell_dev(m: &DevMetrics) {
    let loss = m.dev_loss.map(|loss| format!(" | dev loss {loss:.4} over {} texts", m.n)).unwrap_or_default();
    let refined = m.refined.as_ref().map(|scores| {
        let cosine = scores.cosine.map(|cosine| format!(" | cosine {cosine:.3}")).unwrap_or_default();
        format!(" | refined once: BLEU {:.1}{cosine}", scores.bleu)
    });
    let scores = m.round_trip.as_ref().map(|scores| {
        let cosine = scores.cosine.map(|cosine| format!(" | cosine {cosine:.3}")).unwrap_or_default();
        format!(
            " | round trip of {}: BLEU {:.1} | token F1 {:.3}{cosine}",
            scores.n, scores.bleu, scores.token_f1
        )
    });
    let (scores, refined) = (scores.unwrap_or_default(), refined.unwrap_or_default());
    tracing::info!("step {:>6}{loss}{scores}{refined}", m.step);
}

/// Seconds as 1:02:03 or 2:03.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn a_clock_reads_as_one() {
        assert_eq!(clock(3.4), "0:03");
        assert_eq!(clock(125.0), "2:05");
        assert_eq!(clock(3723.0), "1:02:03");
    }
}
