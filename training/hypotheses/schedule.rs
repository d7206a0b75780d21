//! When hypotheses are made anew.

use super::set::RefinementState;
use crate::recipe::RefinementSection;

/// The schedule of a recipe.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refresh {
    begin: f64,
    every: u64,
    wanted: bool,
}

impl Refresh {
    pub(crate) fn new(section: &RefinementSection) -> Self {
        Self { begin: section.begin, every: section.refresh_every, wanted: section.share > 0.0 }
    }

    /// Whether a set is due before the step that follows `step` steps, at this progress of the training.
    pub(crate) fn is_due(&self, step: u64, progress: f64, state: Option<&RefinementState>) -> bool {
        let newest = state.and_then(|state| state.sets.last()).map(|set| set.step);
        match newest {
            _ if !self.wanted => false,
            None => progress >= self.begin,
            Some(newest) => step >= newest + self.every,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::Cursor;
    use crate::hypotheses::SetRecord;
    use data::pairs::ShardRecord;

    #[test]
    fn sets_are_made_from_the_begin_on_every_so_many_steps() {
        let section = RefinementSection { share: 0.5, begin: 0.25, refresh_every: 10, ..Default::default() };
        let refresh = Refresh::new(&section);
        let state = |step| {
            let shard = ShardRecord { file: String::new(), rows: 0, bytes: 0, digest: String::new() };
            RefinementState { sets: vec![SetRecord { step, shard }], cursor: Cursor::default() }
        };
        assert!(!refresh.is_due(40, 0.24, None));
        assert!(refresh.is_due(40, 0.25, None));
        assert!(!refresh.is_due(49, 0.3, Some(&state(40))));
        assert!(refresh.is_due(50, 0.3, Some(&state(40))));
        assert!(!Refresh::new(&RefinementSection { share: 0.0, ..section }).is_due(50, 1.0, None));
    }
}
