//! The training loop: recipe -> run folder. With several processes all run the same loop; rank 0 also writes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tch::Tensor;
use torch_ext::{Reduce, World};

use crate::Result;
use crate::checkpoint::{self, Best, State};
use crate::consistency::Consistency;
use crate::dev_eval::{DevEval, take_back_samples, write_samples};
use crate::ema::Ema;
use crate::failed_step::keep_failed_step;
use crate::keeper::Keeper;
use crate::loader::{Batch, Loader, Share};
use crate::loss::LossOptions;
use crate::metric_sink::{self, Event, MetricSink};
use crate::optimizer::AdamW;
use crate::pace::Pace;
use crate::prepare::Prepared;
use crate::recipe::{Recipe, Resolved};
use crate::replicas::{Start, agree, prepare_all, require_same_weights};
use crate::setup::{Hardware, batch_options, budget, duration, new_model, new_optimizer, schedule};
use crate::step::{Model, StepResult};

/// How a training is started, beside its recipe.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Go on from the run folder's latest checkpoint, if it has one.
    pub resume: bool,
    /// Set from outside (a signal) on any rank, it ends the training after the current step, with a checkpoint.
    pub stop: Arc<AtomicBool>,
    /// The command line, for the record.
    pub arguments: Vec<String>,
    /// The processes that train together.
    pub world: Arc<World>,
}

impl Default for TrainOptions {
    /// A new run of this process alone.
    fn default() -> Self {
        Self { resume: false, stop: Arc::default(), arguments: Vec::new(), world: Arc::new(World::alone()) }
    }
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
/// What [`crate::prepare::prepare`] and [`crate::run_folder::RunFolder::open`] refuse; [`crate::Error::NonFinite`] for a loss or gradient that is no number (the
/// step's data are kept); a disk that is full. The last checkpoint stays whole in every case.
pub fn train(resolved: &Resolved, options: &TrainOptions, console: &mut dyn MetricSink) -> Result<Outcome> {
    let recipe = &resolved.recipe;
    let world = &options.world;
    let mut keeper =
        if world.is_first() { Some(Keeper::open(recipe, options.resume, console)?) } else { None };
    let hardware = Hardware::of(recipe, world)?;
    if let Some(keeper) = &keeper {
        let (device, kind) = (hardware.device_name(), hardware.kind_name());
        keeper.run.record_environment(&options.arguments, &device, &kind, world.size())?;
    }
    let prepared = prepare_all(recipe, keeper.as_ref(), world)?;
    let mut training = Training::begin(recipe, &prepared, keeper.as_mut(), hardware, world)?;
    if let Some(keeper) = &mut keeper {
        keeper.run.record_recipe()?;
        training.tell_start(recipe, &prepared, keeper)?;
    }
    let first_step = training.state.step;
    let (reason, last_loss) = training.run(recipe, &prepared, options, hardware, &mut keeper)?;
    training.finish(recipe, &prepared, &mut keeper, reason)?;
    let state = training.state;
    let outcome = Outcome {
        run: recipe.run.dir.clone(),
        reason,
        steps: state.step,
        steps_here: state.step - first_step,
        tokens: state.tokens_seen,
        seconds: state.elapsed_seconds,
        loss: last_loss,
        best: state.best,
        last_checkpoint: checkpoint::folder(&recipe.run.dir, state.step),
    };
    if let Some(keeper) = &mut keeper {
        keeper.run.log(&format!("ended: {reason:?} at step {}", outcome.steps))?;
    }
    // rank 0 may serve the others' store: it goes last
    world.barrier()?;
    Ok(outcome)
}

/// Everything that a step changes. The same on all ranks, but for the share of the optimizer's state.
struct Training {
    world: Arc<World>,
    model: Model,
    optimizer: AdamW,
    ema: Option<Ema>,
    state: State,
    dev: DevEval,
    consistency: Option<Consistency>,
}

impl Training {
    /// From the initial weights, or from the latest checkpoint.
    fn begin(
        recipe: &Recipe,
        prepared: &Prepared,
        mut keeper: Option<&mut Keeper<'_>>,
        hardware: Hardware,
        world: &Arc<World>,
    ) -> Result<Self> {
        let mut model = new_model(recipe, &prepared.config, hardware, world)?;
        let mut optimizer = new_optimizer(recipe, &model.store, world)?;
        let mut ema = None;
        if recipe.training.ema_decay > 0.0 {
            ema = Some(Ema::new(&model.store, recipe.training.ema_decay)?);
        }
        let own = keeper.as_deref().map(|keeper| starting_point(keeper, prepared)).transpose()?;
        let Start { mut state, checkpoint } = Start::share(own, world)?;
        if let Some(path) = &checkpoint {
            checkpoint::load(path, &mut model.store, &mut optimizer, ema.as_mut())?;
        }
        if let Some(keeper) = &mut keeper {
            if checkpoint.is_some() {
                keeper.saved = Some(state.step);
                keeper.take_back_later(&mut state)?;
            }
            take_back_samples(keeper.run.dir(), state.step)?;
            keeper.start_metrics(state.step)?;
        }
        let consistency = Consistency::open(recipe, prepared)?;
        let encoder = consistency.as_ref().and_then(Consistency::encoder);
        let dev = DevEval::new(recipe, prepared, hardware.device, hardware.kind, world, encoder)?;
        // what rank 0 took back is so on all
        let own = keeper.is_some().then_some(Start { state, checkpoint });
        let state = Start::share(own, world)?.state;
        Ok(Self { world: Arc::clone(world), model, optimizer, ema, state, dev, consistency })
    }

    fn tell_start(&mut self, recipe: &Recipe, prepared: &Prepared, keeper: &mut Keeper<'_>) -> Result<()> {
        let (step, parameters) = (self.state.step, self.model.store.numel());
        let processes = match self.world.size() {
            1 => String::new(),
            size => format!(" on {size} processes"),
        };
        keeper.run.log(&format!(
            "{}{processes} at step {step}: {parameters} parameters, {} texts of {} tokens ({} too long, left out)",
            if step == 0 { "starts" } else { "goes on" },
            prepared.train.len(),
            prepared.train.total(),
            prepared.train.too_long,
        ))?;
        let (max_steps, max_minutes) = (recipe.training.max_steps, recipe.training.max_minutes);
        keeper.tell(&Event::Start(metric_sink::Start { step, max_steps, max_minutes, parameters }))
    }

    /// Steps until something ends them; gives why, and the last loss.
    fn run(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        options: &TrainOptions,
        hardware: Hardware,
        keeper: &mut Option<Keeper<'_>>,
    ) -> Result<(Reason, Option<f64>)> {
        let clock = Clock::start(self.state.elapsed_seconds);
        let (budget, schedule) = (budget(recipe), schedule(recipe));
        let mut loader = Loader::start(
            prepared.collator(&prepared.train),
            batch_options(recipe),
            recipe.training.accumulate,
            Share { rank: self.world.rank(), of: self.world.size() },
            self.state.cursor,
        );
        let mut pace = Pace::start();
        let mut last_loss = None;
        loop {
            let asked = options.stop.load(Ordering::Relaxed);
            let (seconds, stop) = agree(&self.world, clock.seconds(), asked)?;
            self.state.elapsed_seconds = seconds;
            let elapsed = duration(seconds);
            if stop {
                return Ok((Reason::Stopped, last_loss));
            }
            let step = self.state.step;
            if budget.is_spent(step, elapsed) {
                let by_steps = budget.steps.is_some_and(|steps| step >= steps);
                return Ok((if by_steps { Reason::Steps } else { Reason::Time }, last_loss));
            }
            let batch = loader.next_batch()?;
            let progress = budget.progress(step, elapsed);
            let learning_rate = recipe.optimizer.learning_rate * schedule.share(step, progress);
            let found = self.step(recipe, prepared, &batch, learning_rate, progress)?;
            last_loss = Some(found.loss);
            pace.add(&batch, found, loader.take_waited());

            let step = self.state.step;
            if let Some(keeper) = keeper.as_mut().filter(|_| is_due(step, recipe.training.log_every)) {
                self.state.elapsed_seconds = clock.seconds();
                let progress = budget.progress(step, clock.elapsed());
                let metrics = pace.metrics(&self.state, &batch, learning_rate, progress, hardware.device);
                keeper.tell(&Event::Step(metrics))?;
            }
            let mut is_better = false;
            if is_due(step, recipe.training.eval_every) {
                is_better = self.evaluate(prepared, keeper)?;
                pace.pause();
            }
            if is_better || is_due(step, recipe.training.checkpoint_every) {
                self.state.elapsed_seconds = clock.seconds();
                self.save(recipe, keeper)?;
                pace.pause();
            }
        }
    }

    /// One optimizer step.
    fn step(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        batch: &Batch,
        learning_rate: f64,
        progress: f64,
    ) -> Result<StepResult> {
        let options =
            LossOptions { label_smoothing: recipe.training.label_smoothing, ..LossOptions::default() };
        let turn = self.consistency.as_ref().and_then(|loss| loss.turn(self.state.step, progress));
        let found = self.model.backward_with(batch, options, turn)?;
        let step = self.state.step + 1;
        if !found.is_finite() {
            return Err(keep_failed_step(&recipe.run.dir, self.world.rank(), step, prepared, batch, found));
        }
        let clip_norm = Some(recipe.training.clip_norm).filter(|norm| *norm > 0.0);
        self.model.apply(&mut self.optimizer, found, clip_norm, learning_rate)?;
        if let Some(ema) = &mut self.ema {
            ema.update(step)?;
        }
        self.state.step = step;
        self.state.cursor = batch.next;
        self.state.tokens_seen += found.targets as u64;
        self.state.texts_seen += batch.texts as u64;
        Ok(found)
    }

    /// Evaluates the averaged weights where there are such. Returns whether they are the best so far.
    fn evaluate(&mut self, prepared: &Prepared, keeper: &mut Option<Keeper<'_>>) -> Result<bool> {
        let step = self.state.step;
        let masters: Vec<Tensor> =
            self.model.store.params().iter().map(|param| param.master.detach()).collect();
        require_same_weights(&self.world, &masters, step)?;
        let weights = self.ema.as_ref().map_or(masters.as_slice(), Ema::averages);
        let found = self.dev.run(step, prepared, weights)?;
        let best = Best::of(self.state.best.clone(), found.dev_loss, step);
        let is_better = best != self.state.best;
        self.state.best = best;
        self.state.evaluated = Some(step);
        if let Some(keeper) = keeper {
            for (reference, decoded) in &found.samples {
                keeper.run.log(&format!("sample: {reference:?} -> {decoded:?}"))?;
            }
            write_samples(keeper.run.dir(), &found)?;
            keeper.tell(&Event::Dev(found))?;
        }
        Ok(is_better)
    }

    /// Leaves a checkpoint. All ranks take part: each has a share of the optimizer's state.
    fn save(&mut self, recipe: &Recipe, keeper: &mut Option<Keeper<'_>>) -> Result<()> {
        let optimizer = self.optimizer.state()?;
        let Some(keeper) = keeper else { return Ok(()) };
        keeper.save(recipe, &self.state, &self.model.store, &optimizer, self.ema.as_ref())
    }

    /// The last evaluation and the last checkpoint. A training that was asked to stop only saves: it will go on.
    fn finish(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        keeper: &mut Option<Keeper<'_>>,
        reason: Reason,
    ) -> Result<()> {
        let step = self.state.step;
        let before = self.state.clone();
        if reason != Reason::Stopped && self.state.evaluated != Some(step) {
            self.evaluate(prepared, keeper)?;
        }
        let saved = keeper.as_ref().is_some_and(|keeper| keeper.saved == Some(step));
        // rank 0 knows whether there is anything to save
        let needed = keeper.is_some() && (!saved || self.state != before);
        let [needed] = self.world.reduce_numbers([f64::from(u8::from(needed))], Reduce::Max)?;
        if needed > 0.0 { self.save(recipe, keeper) } else { Ok(()) }
    }
}

/// Where rank 0 begins: anew, or at the latest checkpoint.
fn starting_point(keeper: &Keeper<'_>, prepared: &Prepared) -> Result<Start> {
    let fresh = State::start(prepared.pairs_digest(), keeper.run.tokenizer_digest()?);
    let Some(path) = keeper.checkpoints.latest()? else {
        return Ok(Start { state: fresh, checkpoint: None });
    };
    let state = checkpoint::read_state(&path)?;
    keeper.run.require_same_data(&state, &fresh)?;
    Ok(Start { state, checkpoint: Some(path) })
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
