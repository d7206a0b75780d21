//! The learning rate over a run: linear warm-up, then constant, linear or cosine.

use std::time::Duration;

/// What the learning rate does after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// A straight line down to the final share.
    Linear,
    /// Half a cosine down to the final share (SGDR, arXiv 1608.03983, without restarts).
    Cosine,
}

/// The learning rate as a share of its peak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Steps over which the rate rises from near 0 to its peak.
    pub warmup_steps: u64,
    /// What follows.
    pub decay: Decay,
    /// Share of the peak that is left at the end, 0 to 1.
    pub final_share: f64,
}

impl Schedule {
    /// Share of the peak for step `step` (the first is 0) of a run whose `progress` is 0 at its start and 1 at its
    /// end. The decay follows the progress of the whole run; where the warm-up has not ended, the smaller of the two
    /// counts, so that the curve has no jump.
    pub fn share(&self, step: u64, progress: f64) -> f64 {
        let progress = progress.clamp(0.0, 1.0);
        let left = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - progress,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        let decayed = self.final_share + (1.0 - self.final_share) * left;
        let warm = if step < self.warmup_steps { (step + 1) as f64 / self.warmup_steps as f64 } else { 1.0 };
        warm.min(decayed)
    }
}

/// When a run ends: after some steps, some time, or whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Budget {
    /// Optimizer steps of the whole run.
    pub steps: Option<u64>,
    /// Training time of the whole run, earlier parts of a resumed run included.
    pub time: Option<Duration>,
}

impl Budget {
    /// How much of the run lies behind, 0 to 1; 0 without an end.
    pub fn progress(&self, step: u64, elapsed: Duration) -> f64 {
        let steps = self.steps.map_or(0.0, |steps| step as f64 / steps.max(1) as f64);
        let time = self.time.map_or(0.0, |time| elapsed.as_secs_f64() / time.as_secs_f64().max(1e-9));
        steps.max(time).clamp(0.0, 1.0)
    }

    /// Whether the run is over.
    pub fn is_spent(&self, step: u64, elapsed: Duration) -> bool {
        self.steps.is_some_and(|steps| step >= steps) || self.time.is_some_and(|time| elapsed >= time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(decay: Decay) -> Schedule {
        Schedule { warmup_steps: 10, decay, final_share: 0.1 }
    }

    #[test]
    fn warm_up_rises_to_the_peak() {
        let constant = schedule(Decay::Constant);
        assert!((constant.share(0, 0.0) - 0.1).abs() < 1e-12);
        assert!((constant.share(4, 0.0) - 0.5).abs() < 1e-12);
        assert_eq!(constant.share(9, 0.0), 1.0);
        assert_eq!(constant.share(10, 0.3), 1.0);
        assert_eq!(Schedule { warmup_steps: 0, ..constant }.share(0, 0.0), 1.0);
    }

    #[test]
    fn decays_end_at_the_final_share() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let s = schedule(decay);
            assert!((s.share(500, 1.0) - 0.1).abs() < 1e-12);
            assert!((s.share(500, 7.0) - 0.1).abs() < 1e-12, "past the end it stays");
            assert!((s.share(500, 0.5) - 0.55).abs() < 1e-12, "half-way both are at the middle");
            let values: Vec<f64> = (0..=100).map(|i| s.share(500, f64::from(i) / 100.0)).collect();
            assert!(values.windows(2).all(|pair| pair[1] <= pair[0]));
        }
    }

    #[test]
    fn a_short_run_has_no_jump_at_the_end_of_its_warm_up() {
        let s = schedule(Decay::Linear);
        let budget = Budget { steps: Some(20), time: None };
        let shares: Vec<f64> = (0..20).map(|i| s.share(i, budget.progress(i, Duration::ZERO))).collect();
        assert!(shares.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 0.1 + 1e-12), "{shares:?}");
    }

    #[test]
    fn the_nearer_end_counts() {
        let budget = Budget { steps: Some(100), time: Some(Duration::from_secs(60)) };
        assert_eq!(budget.progress(50, Duration::from_secs(15)), 0.5);
        assert_eq!(budget.progress(50, Duration::from_secs(45)), 0.75);
        assert!(!budget.is_spent(99, Duration::from_secs(59)));
        assert!(budget.is_spent(100, Duration::ZERO) && budget.is_spent(0, Duration::from_secs(60)));
        assert_eq!(Budget::default().progress(1 << 40, Duration::MAX), 0.0);
    }
}
