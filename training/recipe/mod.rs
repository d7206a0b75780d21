//! Recipes: TOML files that say everything about a training.
//!
//! A value comes from the last of these that gives it: the default, the files along `extends` (the farthest first),
//! the recipe itself, `--set`. Tables merge key by key; arrays, `[[corpus]]` among them, replace each other whole.
//!
//! Relative paths in a recipe start at the current directory, as users run recipes from the project's root;
//! only the path behind `extends` is relative to the file that says it.

mod consistency;
mod fault;
mod node;
mod node_de;
mod overlay;
mod refinement;
mod resolve;
mod sections;
mod set;
mod show;
mod start;
mod steps;
mod suggest;
mod validate;

pub use consistency::{ConsistencyKind, ConsistencySection, Estimator};
pub use node::Origin;
pub use refinement::{NoiseSection, RefinementSection};
pub use resolve::{Problem, Resolved, load};
pub use sections::{
    DecoderSection, EncoderSection, EvalSection, InputNormalization, PairsSection, Recipe, RunSection,
    TokenizerKind, TokenizerSection,
};
pub use steps::{
    DistributedSection, OptimizerKind, OptimizerSection, ScheduleKind, ScheduleSection, TrainingSection,
};
