//! What rank 0 alone does for a run: the folder with its log, checkpoints and metrics, and the console.

use tch::Tensor;

use crate::Result;
use crate::checkpoint::{Checkpoints, State};
use crate::ema::Ema;
use crate::hypotheses;
use crate::metric_sink::{Event, JsonLines, MetricSink, TensorBoard};
use crate::recipe::Recipe;
use crate::run_folder::RunFolder;

/// The run folder and all that is written into it.
pub(crate) struct Keeper<'a> {
    pub(crate) run: RunFolder,
    pub(crate) checkpoints: Checkpoints,
    /// Step of the newest checkpoint.
    pub(crate) saved: Option<u64>,
    sinks: Vec<Box<dyn MetricSink>>,
    console: &'a mut dyn MetricSink,
}

impl<'a> Keeper<'a> {
    /// Locks the run folder of a recipe.
    pub(crate) fn open(recipe: &Recipe, resume: bool, console: &'a mut dyn MetricSink) -> Result<Self> {
        let run = RunFolder::open(&recipe.run.dir, recipe, resume)?;
        let checkpoints = run.checkpoints()?;
        Ok(Self { run, checkpoints, saved: None, sinks: Vec::new(), console })
    }

    /// The metrics go on after `step`.
    pub(crate) fn start_metrics(&mut self, step: u64) -> Result<()> {
        let dir = self.run.dir();
        self.sinks = vec![
            Box::new(JsonLines::open(&dir.join("metrics.jsonl"), step)?),
            Box::new(TensorBoard::new(dir)),
        ];
        Ok(())
    }

    /// Takes back what was saved after the step that `state` stands at: `latest` may have been pointed to an older
    /// checkpoint, and what came after it is not of this run any more.
    pub(crate) fn take_back_later(&mut self, state: &mut State) -> Result<()> {
        let steps = self.checkpoints.steps()?;
        state.best = state.best.take().filter(|best| steps.contains(&best.step));
        let later = self.checkpoints.take_back(state.step, state.best.as_ref().map(|best| best.step))?;
        if !later.is_empty() {
            self.run
                .log(&format!("goes on from step {}: removed the checkpoints of {later:?}", state.step))?;
        }
        Ok(())
    }

    /// Writes a checkpoint, and another name for it where it is the best; lets older ones go.
    pub(crate) fn save(
        &mut self,
        recipe: &Recipe,
        state: &State,
        store: &models::ParamStore,
        optimizer: &[(String, Tensor)],
        ema: Option<&Ema>,
    ) -> Result<()> {
        let step = state.step;
        let path = self.checkpoints.save(state, store, optimizer, ema)?;
        self.saved = Some(step);
        let saved = self.checkpoints.steps()?;
        let best = state.best.as_ref().map(|best| best.step).filter(|step| saved.contains(step));
        if let Some(best) = best {
            self.checkpoints.mark_best(best)?;
        }
        let kept: Vec<u64> = best.into_iter().chain([step]).collect();
        self.checkpoints.prune(recipe.training.keep_last, &kept)?;
        if state.refinement.is_some() {
            hypotheses::remove_unused(self.run.dir(), &self.checkpoints.hypothesis_files()?)?;
        }
        self.run.log(&format!("checkpoint {}", path.display()))?;
        self.tell(&Event::Checkpoint { step, path })
    }

    /// Tells the run's records and the console.
    pub(crate) fn tell(&mut self, event: &Event) -> Result<()> {
        for sink in &mut self.sinks {
            sink.record(event)?;
        }
        self.console.record(event)
    }
}
