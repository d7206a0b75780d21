//! The result of a round trip, as it stands in JSON (`docs/eval-schema.md`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::generate::GenerateOptions;
use models::{SearchOptions, Space};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Bootstrap;
use crate::error::{Error, Result};
use crate::metrics::{Metric, Statistics};

/// Name and version of the schema; the number grows when a key changes its meaning or goes.
pub const SCHEMA: &str = "inverse-stella/round-trip/1";

/// The scores of a set of rows. BLEU, sentence BLEU and chrF go from 0 to 100, all others from 0 to 1, except the
/// length ratio, which is right at 1, and CER, which is right at 0 and may exceed 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "each field is the metric of its name, documented at Metric")]
pub struct Scores {
    /// Number of rows.
    pub n: usize,
    pub bleu: f64,
    pub sentence_bleu: f64,
    pub chrf: f64,
    pub token_f1: f64,
    pub token_set_f1: f64,
    pub exact_match: f64,
    pub exact_match_normalized: f64,
    pub rouge_l: f64,
    pub length_ratio: f64,
    #[serde(default)]
    pub cer: f64,
    /// None where the references have no such fact, as for the two that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number_recall: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_recall: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negation_recall: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
    /// How many facts of the references each recall is of: numbers, names, texts that deny something; empty in results
    /// that do not say it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, usize>,
    /// `[low, high]` of each metric, Wilson's of shares of texts, else the bootstrap's; empty without resamples.
    pub intervals: BTreeMap<String, [f64; 2]>,
}

impl Scores {
    /// The scores of all rows of `statistics`.
    pub fn of(statistics: &Statistics, bootstrap: &Bootstrap) -> Scores {
        let sums = statistics.sums(0..statistics.len());
        let value = |metric: Metric| metric.value(&sums, statistics.len());
        let metrics = statistics.metrics();
        let intervals =
            metrics.iter().map(|metric| metric.name().to_owned()).zip(bootstrap.intervals(statistics));
        // a resample may have none of the few facts that there are
        let intervals = intervals.filter(|(_, [low, high])| low.is_finite() && high.is_finite());
        let share = |metric: Metric, of: usize| {
            Some((metric.name().to_owned(), bootstrap.share_interval(value(metric), of)?))
        };
        // that none of a few came back does not say that none ever does: of shares of texts, Wilson's
        let negations = Metric::NegationRecall.facts(&sums).unwrap_or(0);
        let shares = [
            share(Metric::ExactMatch, statistics.len()),
            share(Metric::ExactMatchNormalized, statistics.len()),
            share(Metric::NegationRecall, negations),
        ];
        let intervals = intervals.chain(shares.into_iter().flatten());
        let facts = metrics
            .iter()
            .filter_map(|metric| Some((metric.name().to_owned(), metric.facts(&sums)?)))
            .collect();
        let defined = |metric: Metric| Some(value(metric)).filter(|value| value.is_finite());
        Scores {
            n: statistics.len(),
            bleu: value(Metric::Bleu),
            sentence_bleu: value(Metric::SentenceBleu),
            chrf: value(Metric::Chrf),
            token_f1: value(Metric::TokenF1),
            token_set_f1: value(Metric::TokenSetF1),
            exact_match: value(Metric::ExactMatch),
            exact_match_normalized: value(Metric::ExactMatchNormalized),
            rouge_l: value(Metric::RougeL),
            length_ratio: value(Metric::LengthRatio),
            cer: value(Metric::Cer),
            number_recall: defined(Metric::NumberRecall),
            name_recall: defined(Metric::NameRecall),
            negation_recall: defined(Metric::NegationRecall),
            cosine: metrics.contains(&Metric::Cosine).then(|| value(Metric::Cosine)),
            facts,
            intervals: intervals.collect(),
        }
    }

    /// The score of one metric; `None` for one that was not measured or is not defined.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        Some(match metric {
            Metric::Bleu => self.bleu,
            Metric::SentenceBleu => self.sentence_bleu,
            Metric::Chrf => self.chrf,
            Metric::TokenF1 => self.token_f1,
            Metric::TokenSetF1 => self.token_set_f1,
            Metric::ExactMatch => self.exact_match,
            Metric::ExactMatchNormalized => self.exact_match_normalized,
            Metric::RougeL => self.rouge_l,
            Metric::LengthRatio => self.length_ratio,
            Metric::Cer => self.cer,
            Metric::NumberRecall => return self.number_recall,
            Metric::NameRecall => return self.name_recall,
            Metric::NegationRecall => return self.negation_recall,
            Metric::Cosine => return self.cosine,
        })
    }

    /// How many facts of the references a recall is of; none for other metrics.
    pub fn facts_of(&self, metric: Metric) -> Option<usize> {
        self.facts.get(metric.name()).copied()
    }

    /// The bootstrap interval of one metric.
    pub fn interval(&self, metric: Metric) -> Option<[f64; 2]> {
        self.intervals.get(metric.name()).copied()
    }
}

/// A round trip that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundTrip {
    /// Name and version of this schema.
    #[schemars(extend("const" = SCHEMA))]
    pub schema: String,
    /// The scores of all rows; in JSON its keys stand at the top.
    #[serde(flatten)]
    pub summary: Scores,
    /// The scores by length and by domain.
    pub buckets: Buckets,
    /// Rows to look at.
    pub samples: Samples,
    /// How it was measured.
    pub settings: Settings,
    /// Every row; not part of the JSON object, see [`RoundTrip::write_rows`].
    #[serde(skip)]
    pub rows: Vec<Row>,
}

/// Scores of parts of the rows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Buckets {
    /// By tokens of the reference, shortest first.
    pub length: Vec<Bucket>,
    /// By domain in alphabetical order; empty where the texts have none.
    pub domain: Vec<Bucket>,
}

/// The scores of one part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Bucket {
    /// `<=8` to `<=512` and `>512` tokens, or the domain.
    pub name: String,
    /// Its scores; in JSON its keys stand beside the name.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Rows to look at.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Samples {
    /// Highest cosine first.
    pub best: Vec<Row>,
    /// Lowest cosine first.
    pub worst: Vec<Row>,
    /// Drawn at random, in row order.
    pub random: Vec<Row>,
}

/// One text, what came back, and how good that is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the scores are the metrics of their names, documented at Metric")]
pub struct Row {
    /// Line of the text file or row of the pair set, from 0.
    pub index: usize,
    /// The text that went in.
    pub reference: String,
    /// The text that came back.
    pub hypothesis: String,
    /// Domain of the text, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Tokens of the reference in the encoder's tokenizer, without prompt and special tokens.
    pub tokens: usize,
    /// Whether the encoder read the beginning of the reference only.
    pub truncated: bool,
    /// Logarithm of the hypothesis's probability, as the decoder has it; none where a search put it together.
    pub log_prob: Option<f64>,
    /// Whether the decoder ended the text itself, not the limit of tokens.
    pub finished: bool,
    /// Candidates that were encoded to find it; 0 without a search.
    #[serde(default)]
    pub encodings: usize,
    pub sentence_bleu: f64,
    pub chrf: f64,
    pub token_f1: f64,
    pub token_set_f1: f64,
    pub exact_match: bool,
    pub exact_match_normalized: bool,
    pub rouge_l: f64,
    pub length_ratio: f64,
    #[serde(default)]
    pub cer: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

/// How a round trip was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Settings {
    /// Whether a limit left texts out, so that the scores are a trial and not the result.
    pub trial: bool,
    /// The limit of texts, where one was given.
    pub limit: Option<usize>,
    /// Texts that were there to evaluate.
    pub available: usize,
    /// References longer than the encoder reads.
    pub truncated: usize,
    /// Hypotheses that the limit of tokens ended.
    pub unfinished: usize,
    /// How the decoder chose tokens, in a few words.
    pub strategy: String,
    /// How texts were searched for by encoding candidates again; `None` for one guess a text.
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    pub search: Option<SearchOptions>,
    /// Candidates encoded a text, on average; 0 without a search.
    #[serde(default)]
    pub encodings: f64,
    /// Mean of the best cosine after each round of the search, the first guesses' first.
    #[serde(default)]
    pub course: Vec<f64>,
    /// Data type of the decoder's weights.
    pub dtype: String,
    /// How the decoder chose tokens, where it ended a text, and how many vectors it took at a time.
    #[schemars(with = "serde_json::Value")]
    pub generate: GenerateOptions,
    /// Resamples behind the intervals, their confidence and seed; the seed also drew the random samples.
    pub bootstrap: Bootstrap,
    /// The decoder.
    pub decoder: DecoderRecord,
    /// The space of the vectors that the decoder reads.
    #[schemars(with = "serde_json::Value")]
    pub space: Space,
    /// Name of the prompt of its space that the texts were encoded under; empty in results that do not say it.
    #[serde(default)]
    pub prompt: String,
    /// Versions: this program's, libtorch's, and those of the programs whose scores the metrics equal.
    pub versions: BTreeMap<String, String>,
    /// Wall time in seconds by stage.
    pub seconds: Seconds,
    /// Texts decoded per second of the stage `invert`.
    pub texts_per_s: f64,
}

/// What a decoder is and what it was opened from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DecoderRecord {
    /// `run`, `checkpoint` or `export`.
    pub kind: String,
    /// The folder.
    pub path: PathBuf,
    /// Training step of the weights, where it is known.
    pub step: Option<u64>,
    /// Device of the weights.
    pub device: String,
    /// Longest text that the decoder was made for, in its own tokens.
    pub max_tokens: usize,
}

/// Wall time in seconds by stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Seconds {
    /// Texts to vectors; about 0 where the vectors were given.
    pub encode: f64,
    /// Vectors to texts.
    pub invert: f64,
    /// The texts that came back to vectors.
    pub reencode: f64,
    /// Metrics and intervals.
    pub score: f64,
    /// All of it.
    pub total: f64,
}

impl RoundTrip {
    /// Writes every row as one JSON object a line. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_rows(&self, path: &Path) -> Result<()> {
        self.write_rows_atomically(path).map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    fn write_rows_atomically(&self, path: &Path) -> std::io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let temporary = folder.join(format!(".{name}.tmp"));
        let written = (|| {
            let mut file = std::io::BufWriter::new(fs_err::File::create(&temporary)?);
            for row in &self.rows {
                serde_json::to_writer(&mut file, row)?;
                file.write_all(b"\n")?;
            }
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
            fs_err::rename(&temporary, path)?;
            fs_err::File::open(folder)?.sync_all()
        })();
        if written.is_err() {
            // the first error is the one to tell; what is left behind has a hidden name
            let _ = fs_err::remove_file(&temporary);
        }
        written
    }
}
