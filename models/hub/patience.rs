//! How long to wait for a hub, and how often to ask it again.

use std::time::Duration;

use super::failure::{Again, Failure};

/// No pause between two tries is longer; a hub that asks for a longer one is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A try that brought so many bytes starts the count anew: a large file over a bad line may need many.
const FRUITFUL_BYTES: u64 = 8 << 20;

/// Bounds of waiting and repeating.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Of silence on a connection.
    pub(super) timeout: Duration,
    /// Of one request, the first included.
    pub(super) tries: u32,
    /// Before the second try; doubled before each further one.
    pub(super) pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), tries: 5, pause: Duration::from_millis(500) }
    }
}

impl Patience {
    /// Makes a request until it succeeds, fails for good, or was made often enough.
    pub(super) fn ask<T>(
        &self,
        what: &str,
        mut request: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut tries = Tries { patience: *self, made: 0 };
        loop {
            match request() {
                Ok(answer) => return Ok(answer),
                Err(failure) => tries.pause_after(what, failure, 0)?,
            }
        }
    }

    pub(super) fn tries(&self) -> Tries {
        Tries { patience: *self, made: 0 }
    }
}

/// Tries of one request.
pub(super) struct Tries {
    patience: Patience,
    made: u32,
}

impl Tries {
    /// Waits until the next try may be made; the failure where there is none. `gained` bytes came before the failure.
    pub(super) fn pause_after(&mut self, what: &str, failure: Failure, gained: u64) -> Result<(), Failure> {
        if gained >= FRUITFUL_BYTES {
            self.made = 0;
        }
        self.made += 1;
        let pause = match failure.again {
            Again::Never => return Err(failure),
            Again::After(pause) if pause > LONGEST_PAUSE => {
                return Err(failure.with(&format!("it asks to be left alone for {} s", pause.as_secs())));
            }
            Again::After(pause) => pause,
            Again::Soon => {
                let doubled = 1u32.checked_shl(self.made - 1).unwrap_or(u32::MAX);
                self.patience.pause.saturating_mul(doubled).min(LONGEST_PAUSE)
            }
        };
        if self.made >= self.patience.tries {
            return Err(failure.with(&format!("tried {} times", self.made)));
        }
        tracing::warn!("{what}: {}; trying again in {:.1} s", failure.detail, pause.as_secs_f64());
        std::thread::sleep(pause);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::HubFailure;

    fn failure(again: Again) -> Failure {
        Failure { kind: HubFailure::Network, detail: "broken off".into(), again }
    }

    fn patience(tries: u32) -> Patience {
        Patience { tries, pause: Duration::from_millis(1), ..Patience::default() }
    }

    #[test]
    fn tries_are_counted_and_the_last_failure_is_told() {
        let mut made = 0;
        let refused = patience(3).ask("x", || -> Result<(), _> {
            made += 1;
            Err(failure(Again::Soon))
        });
        assert_eq!((made, refused.unwrap_err().detail.as_str()), (3, "broken off (tried 3 times)"));
        let mut made = 0;
        let refused = patience(3).ask("x", || -> Result<(), _> {
            made += 1;
            Err(failure(Again::Never))
        });
        assert_eq!((made, refused.unwrap_err().detail.as_str()), (1, "broken off"));
    }

    #[test]
    fn bytes_that_came_renew_the_patience() {
        let mut tries = patience(2).tries();
        for _ in 0..5 {
            tries.pause_after("x", failure(Again::Soon), FRUITFUL_BYTES).unwrap();
        }
        assert!(tries.pause_after("x", failure(Again::Soon), 1).is_err());
    }

    #[test]
    fn a_hub_that_wants_hours_is_not_waited_for() {
        let asked = failure(Again::After(Duration::from_secs(3600)));
        let refused = patience(9).tries().pause_after("x", asked, 0).unwrap_err();
        assert!(refused.detail.contains("3600 s"), "{}", refused.detail);
    }
}
