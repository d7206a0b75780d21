//! The time that a training has taken.

use std::time::{Duration, Instant};

use crate::setup::duration;

/// Training time, earlier parts of the run included.
pub(crate) struct Clock {
    before: f64,
    start: Instant,
}

impl Clock {
    /// One that has gone for so many seconds.
    pub(crate) fn start(before: f64) -> Self {
        Self { before, start: Instant::now() }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        duration(self.seconds())
    }
}
