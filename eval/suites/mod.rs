//! Suites: everything that a decoder is judged by.
//!
//! Each suite takes texts on the way text -> vector -> text' -> vector' ([`journey`]) and asks one question of both ends:
//! whether the words came back ([`crate::round_trip`](fn@crate::round_trip), by length and domain), whether pairs of
//! sentences are as alike as before ([`sts`]), whether documents are still found ([`retrieval`]), whether a text finds
//! itself ([`self_retrieval`]), whether numbers, names, formulas and the like survive ([`edge_cases`]), and what becomes of
//! vectors that are not quite right ([`robustness`]). [`Evaluator`] runs them; [`Evaluation`] is what they found.

pub mod config;
pub mod edge_cases;
mod evaluation;
mod evaluator;
pub mod journey;
mod judging;
mod kept;
pub mod retrieval;
pub mod robustness;
pub mod scored;
pub mod self_retrieval;
mod sets;
pub mod sts;
mod task;

pub use config::SuitesConfig;
pub use evaluation::{Cost, DomainResult, Evaluation, SCHEMA};
pub use evaluator::{Evaluator, Suite};
pub use journey::{Journey, Traveller};
pub use scored::Scored;
pub use task::TaskRecord;
