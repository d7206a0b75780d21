//! One task of an evaluation in one line: what MTEB's `TaskResult` says of one.

use std::io::BufWriter;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evaluator::Suite;
use super::scored::Scored;

/// A task and its main score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRecord {
    /// The suite that it is part of.
    pub suite: String,
    /// The set: an STS set, a collection, a domain, a change of vectors; else the suite.
    pub task: String,
    /// What the main score measures.
    pub metric: String,
    /// The main score.
    pub main_score: Scored,
    /// Rows that it is of: texts, pairs or queries.
    pub n: usize,
    /// Digest of what was read: texts, scores, judgements (`blake3:…`); none where the result does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
    /// Seconds that the task took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation_time: Option<f64>,
}

impl TaskRecord {
    pub(super) fn new(suite: Suite, task: &str, metric: &str, main_score: Scored, n: usize) -> Self {
        let (suite, task, metric) = (suite.name().to_owned(), task.to_owned(), metric.to_owned());
        Self { suite, task, metric, main_score, n, dataset_digest: None, evaluation_time: None }
    }

    /// With what it was measured on and how long that took.
    pub(super) fn measured_on(self, dataset: &impl Serialize, seconds: f64) -> crate::Result<Self> {
        Ok(Self { dataset_digest: Some(digest_of(dataset)?), evaluation_time: Some(seconds), ..self })
    }
}

/// `blake3:HEX` of what a task reads.
pub(super) fn digest_of(dataset: &impl Serialize) -> crate::Result<String> {
    let mut hasher = blake3::Hasher::new();
    serde_json::to_writer(BufWriter::new(&mut hasher), dataset)?;
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}
