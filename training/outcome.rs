//! How a training ended.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::checkpoint::Best;

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
