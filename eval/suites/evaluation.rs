//! What the suites found: one object, for machines (docs/evaluation-schema.md) and for reports.

use std::collections::BTreeMap;

use models::generate::GenerateOptions;
use models::{SearchOptions, Space};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::edge_cases::EdgeResult;
use super::evaluator::Suite;
use super::retrieval::RetrievalResult;
use super::robustness::Robust;
use super::scored::Scored;
use super::self_retrieval::SelfRetrieval;
use super::sts::StsResult;
use super::task::TaskRecord;
use crate::bootstrap::Bootstrap;
use crate::metrics::Metric;
use crate::result::{DecoderRecord, RoundTrip, Row, Samples, Scores};

/// Name and version of the schema; the number grows when a key changes its meaning or goes.
pub const SCHEMA: &str = "inverse-stella/evaluation/1";

/// What the suites found about a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evaluation {
    /// Name and version of this schema.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// Whether a limit left something out somewhere, so that the scores are a trial and not the result.
    pub trial: bool,
    /// The limit of texts a set, where one was given.
    pub limit: Option<usize>,
    /// When it ended, UTC as RFC 3339 has it; none where the result does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// The decoder.
    pub decoder: DecoderRecord,
    /// The space of the vectors that it reads.
    #[schemars(with = "serde_json::Value")]
    pub space: Space,
    /// The space of the second encoder that judged too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub judge: Option<Space>,
    /// Name of the prompt that texts were encoded under; empty in results that do not say it.
    #[serde(default)]
    pub prompt: String,
    /// Name of that of queries, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_prompt: Option<String>,
    /// Data type that the encoders computed in; empty in results that do not say it.
    #[serde(default)]
    pub encoder_dtype: String,
    /// How the decoder chose tokens and what it was told; none in results that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub generate: Option<GenerateOptions>,
    /// How texts were searched for by encoding candidates again; none for one guess a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Value")]
    pub search: Option<SearchOptions>,
    /// How texts were decoded, in a few words.
    pub strategy: String,
    /// Data type of the decoder's weights.
    pub dtype: String,
    /// Resamples behind the intervals, their confidence and seed.
    pub bootstrap: Bootstrap,
    /// Every task with its main score, in the order in which they were done.
    #[serde(default)]
    pub tasks: Vec<TaskRecord>,
    /// The round trip of texts, by length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconstruction: Option<RoundTrip>,
    /// Every text of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
    /// Whether those texts find themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_retrieval: Option<SelfRetrieval>,
    /// STS sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sts: Vec<StsResult>,
    /// Retrieval collections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retrieval: Vec<RetrievalResult>,
    /// Domains, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<DomainResult>,
    /// Edge cases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_cases: Option<EdgeResult>,
    /// Changed vectors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub robustness: Vec<Robust>,
    /// What it cost.
    pub cost: Cost,
    /// Versions: this program's, libtorch's, and those of the programs whose scores the metrics equal.
    pub versions: BTreeMap<String, String>,
}

impl Evaluation {
    /// One that has found nothing yet.
    pub(super) fn nothing(decoder: DecoderRecord, space: Space, bootstrap: Bootstrap) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            trial: false,
            limit: None,
            date: None,
            decoder,
            space,
            judge: None,
            prompt: String::new(),
            query_prompt: None,
            encoder_dtype: String::new(),
            generate: None,
            search: None,
            strategy: String::new(),
            dtype: String::new(),
            bootstrap,
            tasks: Vec::new(),
            reconstruction: None,
            rows: Vec::new(),
            self_retrieval: None,
            sts: Vec::new(),
            retrieval: Vec::new(),
            domains: Vec::new(),
            edge_cases: None,
            robustness: Vec::new(),
            cost: Cost::default(),
            versions: BTreeMap::new(),
        }
    }

    /// The suites that it has results of.
    pub fn suites(&self) -> Vec<Suite> {
        let has = |suite: &Suite| match suite {
            Suite::Reconstruction => self.reconstruction.is_some(),
            Suite::SelfRetrieval => self.self_retrieval.is_some(),
            Suite::Sts => !self.sts.is_empty(),
            Suite::Retrieval => !self.retrieval.is_empty(),
            Suite::Domains => !self.domains.is_empty(),
            Suite::EdgeCases => self.edge_cases.is_some(),
            Suite::Robustness => !self.robustness.is_empty(),
        };
        Suite::ALL.into_iter().filter(has).collect()
    }
}

/// A round trip by itself is an evaluation of one suite, of which some rows are known alone.
impl From<RoundTrip> for Evaluation {
    fn from(result: RoundTrip) -> Self {
        let settings = result.settings.clone();
        let cost = Cost {
            texts_per_s: settings.texts_per_s,
            encodings: settings.encodings,
            seconds: settings.seconds.total,
            memory_bytes: 0,
        };
        Self {
            trial: settings.trial,
            limit: settings.limit,
            prompt: settings.prompt,
            generate: Some(settings.generate),
            search: settings.search,
            strategy: settings.strategy,
            dtype: settings.dtype,
            tasks: vec![reconstruction_task(&result)],
            reconstruction: Some(result),
            cost,
            versions: settings.versions,
            ..Self::nothing(settings.decoder, settings.space, settings.bootstrap)
        }
    }
}

/// The cosine of a round trip, or without one the token F1.
pub(super) fn reconstruction_task(result: &RoundTrip) -> TaskRecord {
    main_score(Suite::Reconstruction, Suite::Reconstruction.name(), &result.summary)
}

/// The main score of texts that went there and back.
pub(super) fn main_score(suite: Suite, task: &str, scores: &Scores) -> TaskRecord {
    let metric = if scores.cosine.is_some() { Metric::Cosine } else { Metric::TokenF1 };
    let score = Scored { value: scores.get(metric), interval: scores.interval(metric) };
    TaskRecord::new(suite, task, metric.name(), score, scores.n)
}

/// The round trip of one domain's texts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainResult {
    /// The domain.
    pub name: String,
    /// Its scores; in JSON its keys stand beside the name.
    #[serde(flatten)]
    pub scores: Scores,
    /// Rows to look at.
    pub samples: Samples,
}

/// What an evaluation cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Texts decoded a second, in the round trip of texts.
    pub texts_per_s: f64,
    /// Re-encodings a text there.
    pub encodings: f64,
    /// Seconds of all suites, those of an interrupted part not counted.
    pub seconds: f64,
    /// The most memory that the process had, bytes; 0 where that is not known.
    pub memory_bytes: u64,
}
