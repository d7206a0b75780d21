//! Training: recipe -> run. A recipe says everything about a training; a run is the folder it leaves.
//!
//! [`recipe`] reads recipes, [`trainer`] is the loop; [`plan`](fn@plan) says what a training would be; [`speed`]
//! measures its steps, [`profile`](mod@profile) says where their time goes, [`trace`](mod@trace) tells what they compute.

pub mod batch;
pub mod batches;
mod best;
pub mod checkpoint;
mod clock;
pub mod collate;
pub mod consistency;
pub mod dev_eval;
pub mod ema;
mod encoders;
pub mod error;
mod failed_step;
pub mod gradients;
pub mod hypotheses;
mod keeper;
pub mod loader;
pub mod loss;
pub mod metric_sink;
pub mod noise;
mod normalization;
pub mod optimizer;
pub mod outcome;
mod pace;
pub mod plan;
pub mod prepare;
pub mod profile;
pub mod recipe;
pub mod record;
mod replicas;
pub mod retention;
pub mod run_folder;
pub mod schedule;
mod setup;
pub mod speed;
pub mod step;
mod tidy;
pub mod tokens;
pub mod trace;
pub mod trainer;

pub use error::{Error, Result};
pub use metric_sink::{DevMetrics, Event, MetricSink, NullSink, StepMetrics};
pub use outcome::{Outcome, Reason};
pub use plan::{Gpu, Plan, PlanOptions, plan};
pub use recipe::Recipe;
pub use record::Record;
pub use speed::{Shapes, Speed, SpeedOptions, Timing};
pub use trainer::{TrainOptions, train};
