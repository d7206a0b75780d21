//! What a build tells while it runs, and how it is asked to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use torch_ext::World;

use super::ranks;
use crate::{Error, Result};

/// The stages of a build, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reads the corpora and filters their texts.
    Curate,
    /// Finds near duplicates; only where the curation asks for it.
    NearDuplicates,
    /// Encodes and writes shards.
    Encode,
}

impl Stage {
    /// What it does, in a word or two.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Curate => "curating",
            Stage::NearDuplicates => "near duplicates",
            Stage::Encode => "encoding",
        }
    }
}

/// How far a build is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BuildProgress {
    /// The stage at work.
    pub stage: Stage,
    /// Documents done in this stage, those of an earlier, interrupted process included. Of several processes each
    /// counts what it has passed in the stream: those that others encode too.
    pub done: u64,
    /// Documents there are, where that is known.
    pub total: Option<u64>,
    /// Documents a second in this process.
    pub rate: f64,
}

/// The caller's ear and hand during a build.
pub(super) struct Watch<'a> {
    pub(super) progress: &'a mut dyn FnMut(BuildProgress),
    pub(super) stop: &'a AtomicBool,
    /// The processes that build together.
    pub(super) world: &'a World,
    /// When the others were last asked for.
    pub(super) asked: Instant,
}

/// Time between two looks at whether the others go on.
const ASK_EVERY: Duration = Duration::from_secs(1);

impl Watch<'_> {
    /// Tells how far `stage` is, and ends the build where it was asked to stop, or has ended on another rank.
    pub(super) fn tell(&mut self, clock: &Clock, done: u64, total: Option<u64>) -> Result<()> {
        let seconds = clock.start.elapsed().as_secs_f64();
        let rate = (done - clock.before) as f64 / seconds.max(1e-9);
        (self.progress)(BuildProgress { stage: clock.stage, done, total, rate });
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Stopped);
        }
        if self.asked.elapsed() >= ASK_EVERY {
            self.asked = Instant::now();
            ranks::check(self.world)?;
        }
        Ok(())
    }
}

/// When a stage began, and what had been done before.
pub(super) struct Clock {
    stage: Stage,
    start: Instant,
    before: u64,
}

impl Clock {
    pub(super) fn start(stage: Stage, before: u64) -> Clock {
        Clock { stage, start: Instant::now(), before }
    }
}
