//! The training loop: recipe -> run folder.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tch::Tensor;

use crate::Result;
use crate::checkpoint::{self, Best, Checkpoints, State};
use crate::dev_eval::{DevEval, take_back_samples, write_samples};
use crate::ema::Ema;
use crate::failed_step::keep_failed_step;
use crate::loader::{Batch, Loader};
use crate::loss::LossOptions;
use crate::metric_sink::{Event, JsonLines, MetricSink, Start, TensorBoard};
use crate::optimizer::AdamW;
use crate::pace::Pace;
use crate::prepare::{Prepared, prepare};
use crate::recipe::{Recipe, Resolved};
use crate::run_folder::RunFolder;
use crate::setup::{Hardware, adamw, batch_options, budget, duration, new_model, schedule};
use crate::step::{Model, StepResult};

/// How a training is started, beside its recipe.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// Go on from the run folder's latest checkpoint, if it has one.
    pub resume: bool,
    /// Set from outside (a signal), it ends the training after the current step, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// The command line, for the record.
    pub arguments: Vec<String>,
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its steps are done.
    Steps,
    /// Its time is over.
    Time,
    /// It was asked to.
    Stopped,
}

/// How a training ended.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The run folder.
    pub run: PathBuf,
    /// Why it ended.
    pub reason: Reason,
    /// Optimizer steps of the whole run.
    pub steps: u64,
    /// Those of this process.
    pub steps_here: u64,
    /// Target tokens of the whole run.
    pub tokens: u64,
    /// Seconds of training of the whole run.
    pub seconds: f64,
    /// Mean loss a target token of the last step of this process.
    pub loss: Option<f64>,
    /// The best evaluation.
    pub best: Option<Best>,
    /// The newest checkpoint.
    pub last_checkpoint: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            Reason::Steps => "all steps are done",
            Reason::Time => "the time is over",
            Reason::Stopped => "stopped; --resume goes on from here",
        };
        writeln!(f, "run          {} ({why})", self.run.display())?;
        writeln!(
            f,
            "steps        {} ({} here), {} tokens, {:.0} s",
            self.steps, self.steps_here, self.tokens, self.seconds
        )?;
        if let Some(loss) = self.loss {
            writeln!(f, "loss         {loss:.4}")?;
        }
        if let Some(best) = &self.best {
            writeln!(f, "best         {} {:.4} at step {}", best.metric, best.value, best.step)?;
        }
        writeln!(f, "checkpoint   {}", self.last_checkpoint.display())
    }
}

/// Trains the decoder of a recipe, or goes on with it. `console` is told what the run's own records are told.
///
/// # Errors
/// What [`prepare`] and [`RunFolder::open`] refuse; [`crate::Error::NonFinite`] for a loss or gradient that is no number (the
/// step's data are kept); a disk that is full. The last checkpoint stays whole in every case.
pub fn train(resolved: &Resolved, options: &TrainOptions, console: &mut dyn MetricSink) -> Result<Outcome> {
    let recipe = &resolved.recipe;
    let mut run = RunFolder::open(&recipe.run.dir, recipe, options.resume)?;
    let hardware = Hardware::of(recipe)?;
    run.record_environment(&options.arguments, &hardware.device_name(), &hardware.kind_name())?;
    let prepared = prepare(recipe, Some(run.dir()))?;
    let mut training = Training::begin(recipe, &prepared, &mut run, hardware)?;
    run.record_recipe()?;
    training.tell_start(recipe, &prepared, &mut run, console)?;

    let clock = Clock::start(training.state.elapsed_seconds);
    let budget = budget(recipe);
    let schedule = schedule(recipe);
    let mut loader = Loader::start(
        prepared.collator(&prepared.train),
        batch_options(recipe),
        recipe.training.accumulate,
        training.state.cursor,
    );
    let mut pace = Pace::start();
    let mut last_loss = None;
    let first_step = training.state.step;

    let reason = loop {
        training.state.elapsed_seconds = clock.seconds();
        if options.stop.load(Ordering::Relaxed) {
            break Reason::Stopped;
        }
        if budget.is_spent(training.state.step, clock.elapsed()) {
            let by_steps = budget.steps.is_some_and(|steps| training.state.step >= steps);
            break if by_steps { Reason::Steps } else { Reason::Time };
        }

        let batch = loader.next_batch()?;
        let step = training.state.step;
        let share = schedule.share(step, budget.progress(step, clock.elapsed()));
        let learning_rate = recipe.optimizer.learning_rate * share;
        let found = training.step(recipe, &prepared, &run, &batch, learning_rate)?;
        last_loss = Some(found.loss);
        pace.add(&batch, found, loader.take_waited());

        let step = training.state.step;
        training.state.elapsed_seconds = clock.seconds();
        if is_due(step, recipe.training.log_every) {
            let progress = budget.progress(step, clock.elapsed());
            let metrics = pace.metrics(&training.state, &batch, learning_rate, progress, hardware.device);
            training.tell(&Event::Step(metrics), console)?;
        }
        let mut is_better = false;
        if is_due(step, recipe.training.eval_every) {
            is_better = training.evaluate(&prepared, &mut run, console)?;
            pace.pause();
        }
        if is_better || is_due(step, recipe.training.checkpoint_every) {
            training.state.elapsed_seconds = clock.seconds();
            training.save(recipe, &mut run, console)?;
            pace.pause();
        }
    };
    drop(loader);
    training.finish(recipe, &prepared, &mut run, console, reason)?;
    let state = training.state;
    let outcome = Outcome {
        run: run.dir().to_owned(),
        reason,
        steps: state.step,
        steps_here: state.step - first_step,
        tokens: state.tokens_seen,
        seconds: state.elapsed_seconds,
        loss: last_loss,
        best: state.best,
        last_checkpoint: training.checkpoints.path(state.step),
    };
    run.log(&format!("ended: {reason:?} at step {}", outcome.steps))?;
    Ok(outcome)
}

/// Everything that a step changes.
struct Training {
    model: Model,
    optimizer: AdamW,
    ema: Option<Ema>,
    state: State,
    checkpoints: Checkpoints,
    dev: DevEval,
    /// Step of the newest checkpoint.
    saved: Option<u64>,
    sinks: Vec<Box<dyn MetricSink>>,
}

impl Training {
    /// From the initial weights, or from the latest checkpoint.
    fn begin(recipe: &Recipe, prepared: &Prepared, run: &mut RunFolder, hardware: Hardware) -> Result<Self> {
        let mut model = new_model(recipe, &prepared.config, hardware)?;
        let mut optimizer = AdamW::new(adamw(recipe), &model.store)?;
        let mut ema = None;
        if recipe.training.ema_decay > 0.0 {
            ema = Some(Ema::new(&model.store, recipe.training.ema_decay)?);
        }
        let checkpoints = run.checkpoints()?;
        let mut state = State::start(prepared.pairs_digest(), run.tokenizer_digest()?);
        let mut saved = None;
        if let Some(path) = checkpoints.latest()? {
            let loaded = checkpoint::read_state(&path)?;
            run.require_same_data(&loaded, &state)?;
            checkpoint::load(&path, &mut model.store, &mut optimizer, ema.as_mut())?;
            state = loaded;
            saved = Some(state.step);
            // `latest` may have been pointed to an older checkpoint: what came after it is not of this run any more
            let steps = checkpoints.steps()?;
            state.best = state.best.filter(|best| steps.contains(&best.step));
            let later = checkpoints.take_back(state.step, state.best.as_ref().map(|best| best.step))?;
            if !later.is_empty() {
                run.log(&format!("goes on from step {}: removed the checkpoints of {later:?}", state.step))?;
            }
        }
        take_back_samples(run.dir(), state.step)?;
        let dev = DevEval::new(recipe, prepared, run.dir(), hardware.device, hardware.kind)?;
        let sinks: Vec<Box<dyn MetricSink>> = vec![
            Box::new(JsonLines::open(&run.dir().join("metrics.jsonl"), state.step)?),
            Box::new(TensorBoard::new(run.dir())),
        ];
        Ok(Self { model, optimizer, ema, state, checkpoints, dev, saved, sinks })
    }

    fn tell_start(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        run: &mut RunFolder,
        console: &mut dyn MetricSink,
    ) -> Result<()> {
        let (step, parameters) = (self.state.step, self.model.store.numel());
        run.log(&format!(
            "{} at step {step}: {parameters} parameters, {} texts of {} tokens ({} too long, left out)",
            if step == 0 { "starts" } else { "goes on" },
            prepared.train.len(),
            prepared.train.total(),
            prepared.train.too_long,
        ))?;
        let (max_steps, max_minutes) = (recipe.training.max_steps, recipe.training.max_minutes);
        self.tell(&Event::Start(Start { step, max_steps, max_minutes, parameters }), console)
    }

    /// One optimizer step.
    fn step(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        run: &RunFolder,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<StepResult> {
        let options =
            LossOptions { label_smoothing: recipe.training.label_smoothing, ..LossOptions::default() };
        let (gradients, found) = self.model.gradients(batch, options)?;
        let step = self.state.step + 1;
        if !found.is_finite() {
            return Err(keep_failed_step(run.dir(), step, prepared, batch, found));
        }
        let clip_norm = Some(recipe.training.clip_norm).filter(|norm| *norm > 0.0);
        self.model.apply(&mut self.optimizer, &gradients, found, clip_norm, learning_rate)?;
        if let Some(ema) = &mut self.ema {
            ema.update(step)?;
        }
        self.state.step = step;
        self.state.cursor = batch.next;
        self.state.tokens_seen += found.targets as u64;
        self.state.texts_seen += batch.parts.iter().map(|part| part.rows.len() as u64).sum::<u64>();
        Ok(found)
    }

    /// Evaluates the averaged weights where there are such. Returns whether they are the best so far.
    fn evaluate(
        &mut self,
        prepared: &Prepared,
        run: &mut RunFolder,
        console: &mut dyn MetricSink,
    ) -> Result<bool> {
        let step = self.state.step;
        let masters: Vec<Tensor>;
        let weights = match &self.ema {
            Some(ema) => ema.averages(),
            None => {
                masters = self.model.store.params().iter().map(|param| param.master.detach()).collect();
                &masters
            }
        };
        let found = self.dev.run(step, prepared, weights)?;
        for (reference, decoded) in &found.samples {
            run.log(&format!("sample: {reference:?} -> {decoded:?}"))?;
        }
        write_samples(run.dir(), &found)?;
        let best = Best::of(self.state.best.clone(), found.dev_loss, step);
        let is_better = best != self.state.best;
        self.state.best = best;
        self.state.evaluated = Some(step);
        self.tell(&Event::Dev(found), console)?;
        Ok(is_better)
    }

    /// Writes a checkpoint, and another name for it where it is the best; lets older ones go.
    fn save(&mut self, recipe: &Recipe, run: &mut RunFolder, console: &mut dyn MetricSink) -> Result<()> {
        let step = self.state.step;
        let path =
            self.checkpoints.save(&self.state, &self.model.store, &self.optimizer, self.ema.as_ref())?;
        self.saved = Some(step);
        let saved = self.checkpoints.steps()?;
        let best = self.state.best.as_ref().map(|best| best.step).filter(|step| saved.contains(step));
        if let Some(best) = best {
            self.checkpoints.mark_best(best)?;
        }
        let kept: Vec<u64> = best.into_iter().chain([step]).collect();
        self.checkpoints.prune(recipe.training.keep_last, &kept)?;
        run.log(&format!("checkpoint {}", path.display()))?;
        self.tell(&Event::Checkpoint { step, path }, console)
    }

    /// The last evaluation and the last checkpoint. A training that was asked to stop only saves: it will go on.
    fn finish(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        run: &mut RunFolder,
        console: &mut dyn MetricSink,
        reason: Reason,
    ) -> Result<()> {
        let step = self.state.step;
        let before = self.state.clone();
        if reason != Reason::Stopped && self.state.evaluated != Some(step) {
            self.evaluate(prepared, run, console)?;
        }
        if self.saved != Some(step) || self.state != before {
            self.save(recipe, run, console)?;
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event, console: &mut dyn MetricSink) -> Result<()> {
        for sink in &mut self.sinks {
            sink.record(event)?;
        }
        console.record(event)
    }
}

/// Training time, earlier parts of the run included.
struct Clock {
    before: f64,
    start: Instant,
}

impl Clock {
    fn start(before: f64) -> Self {
        Self { before, start: Instant::now() }
    }

    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    fn elapsed(&self) -> Duration {
        duration(self.seconds())
    }
}

fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
