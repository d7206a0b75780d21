//! The training loop: recipe -> run folder. With several processes all run the same loop; rank 0 also writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tch::Tensor;
use torch_ext::{Reduce, World};

use crate::Result;
use crate::batch::Batch;
use crate::batches::{Cursor, Cursors};
use crate::checkpoint::{self, Best, State};
use crate::clock::Clock;
use crate::consistency::Consistency;
use crate::dev_eval::{DevEval, take_back_samples, write_samples};
use crate::ema::Ema;
use crate::failed_step::keep_failed_step;
use crate::hypotheses::{Maker, Pool, RefinementState, Refresh, copy_target_networks};
use crate::keeper::Keeper;
use crate::loader::{Loader, Refining, Share, Supply};
use crate::loss::LossOptions;
use crate::metric_sink::{self, Event, MetricSink};
use crate::optimizer::Optimizer;
use crate::outcome::{Outcome, Reason};
use crate::pace::Pace;
use crate::prepare::Prepared;
use crate::recipe::{Recipe, Resolved};
use crate::replicas::{Start, agree, prepare_all, require_same_weights};
use crate::setup::{Hardware, batch_options, budget, duration, new_model, new_optimizer, schedule};
use crate::step::{Model, StepResult};
use crate::tidy::Tidy;

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

/// Trains the decoder of a recipe, or goes on with it. `console` is told what the run's own records are told.
///
/// # Errors
/// What [`crate::prepare::prepare_with`] and [`crate::run_folder::RunFolder::open`] refuse; [`crate::Error::NonFinite`] for a loss or gradient that is no number (the
/// step's data are kept); a disk that is full. The last checkpoint stays whole in every case.
pub fn train(resolved: &Resolved, options: &TrainOptions, console: &mut dyn MetricSink) -> Result<Outcome> {
    let trained = train_together(resolved, options, console);
    // what this rank refuses, the others hear in its words
    trained.inspect_err(|error| options.world.tell_failure(&error.to_string()))
}

fn train_together(
    resolved: &Resolved,
    options: &TrainOptions,
    console: &mut dyn MetricSink,
) -> Result<Outcome> {
    let recipe = &resolved.recipe;
    let world = &options.world;
    let mut keeper =
        if world.is_first() { Some(Keeper::open(recipe, options.resume, console)?) } else { None };
    let hardware = Hardware::of(recipe, world)?;
    if let Some(keeper) = &keeper {
        let (device, kind) = (hardware.device_name(), hardware.kind_name());
        keeper.run.record_environment(&options.arguments, &device, &kind, world.size())?;
    }
    let prepared = prepare_all(recipe, keeper.as_ref().map(|keeper| keeper.run.dir()), world)?;
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
    optimizer: Optimizer,
    ema: Option<Ema>,
    state: State,
    dev: DevEval,
    pool: Arc<Pool>,
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
        let mut model = new_model(recipe, prepared, hardware, world)?;
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
        dev.set_buffers(&model.store)?;
        // what rank 0 took back is so on all
        let own = keeper.is_some().then_some(Start { state, checkpoint });
        let state = Start::share(own, world)?.state;
        let pool = Arc::new(pool_of(recipe, prepared, &state)?);
        let world = Arc::clone(world);
        Ok(Self { world, model, optimizer, ema, state, dev, pool, consistency })
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
        let refresh = Refresh::new(&recipe.refinement);
        let mut loader = self.loader(recipe, prepared);
        let (mut pace, mut tidy) = (Pace::start(), Tidy::default());
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
            let progress = budget.progress(step, elapsed);
            if refresh.is_due(step, progress, self.state.refinement.as_ref()) {
                drop(loader);
                if !self.refresh(recipe, prepared, &options.stop, keeper)? {
                    // nothing has changed: the run that goes on makes the set
                    return Ok((Reason::Stopped, last_loss));
                }
                loader = self.loader(recipe, prepared);
                pace.pause();
            }
            let batch = loader.next_batch()?;
            let learning_rate = recipe.optimizer.learning_rate * schedule.share(step, progress);
            let found = self.step(recipe, prepared, &batch, learning_rate, progress)?;
            last_loss = Some(found.loss);
            pace.add(&batch, found, loader.take_waited());

            let step = self.state.step;
            if let Some(keeper) = keeper.as_mut().filter(|_| is_due(step, recipe.training.log_every)) {
                self.state.elapsed_seconds = clock.seconds();
                let progress = budget.progress(step, clock.elapsed());
                let metrics = pace.metrics(&self.state, &batch, learning_rate, progress, hardware.device);
                tidy.look(metrics.memory_bytes, hardware.device);
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
        // a refinement's row has its hypothesis before the text
        let first = self.consistency.as_ref().filter(|_| !batch.refines);
        let turn = first.and_then(|loss| loss.turn(self.state.step, progress));
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
        self.state.cursor = batch.next.texts;
        if let Some(refinement) = &mut self.state.refinement {
            refinement.cursor = batch.next.hypotheses;
        }
        self.state.tokens_seen += found.targets as u64;
        self.state.texts_seen += batch.texts as u64;
        Ok(found)
    }

    /// What makes the batches from the current step on.
    fn loader(&self, recipe: &Recipe, prepared: &Prepared) -> Loader {
        let refining = Refining { pool: Arc::clone(&self.pool), share: recipe.refinement.share };
        let supply = Supply {
            collator: prepared.collator(&prepared.train),
            options: batch_options(recipe),
            parts: recipe.training.accumulate,
            refining: Some(refining).filter(|refining| !refining.pool.is_empty()),
        };
        let share = Share { rank: self.world.rank(), of: self.world.size() };
        let hypotheses = self.state.refinement.as_ref().map_or_else(Cursor::default, |state| state.cursor);
        let cursors = Cursors { texts: self.state.cursor, hypotheses };
        Loader::start(supply, share, self.state.step, cursors)
    }

    /// Makes a new set of hypotheses, which takes the place of the oldest; false where any rank was asked to stop meanwhile,
    /// and there is none.
    fn refresh(
        &mut self,
        recipe: &Recipe,
        prepared: &Prepared,
        stop: &AtomicBool,
        keeper: &mut Option<Keeper<'_>>,
    ) -> Result<bool> {
        let (start, step) = (Instant::now(), self.state.step);
        self.dev.set_weights(step, &self.weights())?;
        let (inverter, encoder) = self.dev.guesser()?;
        let maker = Maker { recipe, prepared, inverter, encoder, world: &self.world };
        let Some(record) = maker.make(step, &self.pool, stop)? else { return Ok(false) };
        let rows = record.shard.rows;
        let first = self.state.refinement.is_none();
        let state = self
            .state
            .refinement
            .get_or_insert_with(|| RefinementState { sets: Vec::new(), cursor: Cursor::default() });
        state.sets.push(record);
        let old = state.sets.len().saturating_sub(recipe.refinement.keep_sets);
        state.sets.drain(..old);
        // another order of another pool; it follows from the number of the epoch
        state.cursor = Cursor { epoch: step, batch: 0 };
        if first {
            // what was best at first guesses alone is not what is looked for from here on
            self.state.best = None;
            copy_target_networks(&self.model.store, self.ema.as_ref().map(Ema::averages))?;
        }
        self.pool = Arc::new(pool_of(recipe, prepared, &self.state)?);
        if let Some(keeper) = keeper {
            let seconds = start.elapsed().as_secs_f64();
            keeper
                .run
                .log(&format!("{rows} hypotheses made in {seconds:.0} s, {} in all", self.pool.len()))?;
        }
        Ok(true)
    }

    /// The weights that are evaluated: the averaged ones where there are such.
    fn weights(&self) -> Vec<Tensor> {
        match &self.ema {
            Some(ema) => ema.averages().iter().map(Tensor::shallow_clone).collect(),
            None => self.model.store.params().iter().map(|param| param.master.detach()).collect(),
        }
    }

    /// Evaluates the averaged weights where there are such. Returns whether they are the best so far.
    fn evaluate(&mut self, prepared: &Prepared, keeper: &mut Option<Keeper<'_>>) -> Result<bool> {
        let step = self.state.step;
        let masters: Vec<Tensor> =
            self.model.store.params().iter().map(|param| param.master.detach()).collect();
        require_same_weights(&self.world, &masters, step)?;
        self.dev.set_weights(step, &self.weights())?;
        let found = self.dev.run(step, prepared, self.state.refinement.is_some())?;
        let best = Best::of(self.state.best.clone(), found.dev_loss, found.n, step);
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
        if let Some(keeper) = keeper {
            keeper.save(recipe, &self.state, &self.model.store, &optimizer, self.ema.as_ref())?;
        }
        // a large one may take rank 0 longer than a collective waits
        Ok(self.world.patient_barrier("writing a checkpoint")?)
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

/// The hypotheses that a training refines at `state`.
fn pool_of(recipe: &Recipe, prepared: &Prepared, state: &State) -> Result<Pool> {
    let Some(refinement) = &state.refinement else { return Ok(Pool::empty(prepared.pairs.dim())) };
    let (space, most) = (prepared.pairs.space(), prepared.config.max_tokens as usize);
    Pool::open(&recipe.run.dir, &refinement.sets, space, &prepared.train, &prepared.vocabulary, most)
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

fn is_due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
