//! Hypotheses: texts that the decoder guessed for training vectors, with the vectors of those guesses, from which it
//! learns to refine.
//!
//! They are made by the training itself (`maker.rs`), a set every so many steps, partly by refining hypotheses of
//! earlier sets, so that later iterates are trained on too: vec2text trains on first guesses alone (jxmorris12/vec2text,
//! issue 16). A set is a shard of pairs on disk (`set.rs`); the newest few are the pool that batches are drawn from
//! (`pool.rs`).

mod begin;
mod borrow;
mod maker;
mod pool;
mod schedule;
mod set;

pub(crate) use begin::copy_target_networks;
pub(crate) use maker::Maker;
pub use pool::Pool;
pub(crate) use schedule::Refresh;
pub(crate) use set::remove_unused;
pub use set::{RefinementState, SetRecord};
