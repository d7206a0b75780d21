//! The round trip: text -> vector -> text' -> vector', and what is left of the text and of the vector.
//!
//! The cosine is between the *input* vector and the vector of the decoded text, the measure of LCM's
//! `round_trip_cos`; so a pair set's stored vectors are judged as they are stored.
#![allow(non_snake_case)]

use std::time::Instant;

use data::Split;
use data::pairs::PairSet;
use models::generate::GenerateOptions;
use models::inverter::{Inverted, Inverter};
use models::{Embed, SearchOptions, Space};
use tch::Tensor;

use crate::bootstrap::Bootstrap;
use crate::buckets::buckets;
use crate::error::{Error, Result};
use crate::metrics::{Metric, Statistics};
use crate::result::{DecoderRecord, RoundTrip, Row, SCHEMA, Scores, Seconds, Settings};
use crate::samples::samples;
use crate::score::{cosines, finite, statistics};
use crate::strategy::{course, mean, searching, strategy, told};

/// Texts that each process encodes in one call, so that progress can be told between calls.
pub(crate) const ENCODE_CHUNK: usize = 512;

/// Texts that each process searches for together: enough for large batches in the last rounds, when most have ended.
pub const SEARCHED_TOGETHER: usize = 512;

/// Vector to text. [`Inverter`] is one; tests have others.
pub trait Invert {
    /// The space of the vectors that are understood.
    fn space(&self) -> &Space;

    /// The best text for each vector of `v_ND` (`[N, dim]` f32 on the CPU), in order. `first` is the number of the first
    /// among all that are evaluated: what is drawn for a vector follows from its number.
    ///
    /// # Errors
    /// Whatever the decoder has to say.
    fn invert(&self, v_ND: &Tensor, first: u64, options: &GenerateOptions) -> models::Result<Vec<Inverted>>;

    /// How texts are searched for by encoding candidates again, where they are.
    fn search(&self) -> Option<&SearchOptions> {
        None
    }

    /// What the decoder is, for the record.
    fn record(&self) -> DecoderRecord;

    /// Data type of the weights: `f32`, `bf16` or `f16`.
    fn dtype(&self) -> String;

    /// Processes that share a call: each gets so small a part of the vectors.
    fn shares(&self) -> usize {
        1
    }
}

impl Invert for Inverter {
    fn space(&self) -> &Space {
        &self.space
    }

    fn invert(&self, v_ND: &Tensor, first: u64, options: &GenerateOptions) -> models::Result<Vec<Inverted>> {
        self.invert_numbered(v_ND, first, options)
    }

    fn record(&self) -> DecoderRecord {
        let device = models::device::device_name(self.decoder.head_weight().device());
        DecoderRecord {
            kind: format!("{:?}", self.origin.kind).to_lowercase(),
            path: self.origin.path.clone(),
            step: self.origin.step,
            device,
            max_tokens: self.config.max_tokens as usize,
        }
    }

    fn dtype(&self) -> String {
        models::device::kind_name(self.decoder.head_weight().kind()).to_owned()
    }
}

/// What is measured, and how.
#[derive(Debug, Clone)]
pub struct RoundTripOptions {
    /// How the decoder chooses tokens, and how many vectors it takes at a time.
    pub generate: GenerateOptions,
    /// Only the first so many texts; the result is a trial when that leaves some out.
    pub limit: Option<usize>,
    /// Best, worst and random rows in the result, so many of each.
    pub samples: usize,
    /// Resamples behind each interval; 0 leaves the intervals out.
    pub bootstrap: usize,
    /// Seed of the resampling and of the random rows.
    pub seed: u64,
}

impl Default for RoundTripOptions {
    /// Greedy, all texts, 5 samples of each kind, 1000 resamples, seed 0.
    fn default() -> Self {
        RoundTripOptions {
            generate: GenerateOptions::default(),
            limit: None,
            samples: 5,
            bootstrap: 1000,
            seed: 0,
        }
    }
}

/// Told as `(stage, texts done, texts in all)`; the stages are `encode`, `invert`, `reencode` and `score`.
pub type Progress<'a> = dyn FnMut(&str, usize, usize) + 'a;

/// Takes texts to vectors, the vectors back to texts, and these to vectors again.
///
/// # Errors
/// [`models::Error::SpaceMismatch`] for a decoder and an encoder of different spaces; [`Error::NoTexts`];
/// [`Error::Unequal`] when there is not one domain a text; what the encoder or the decoder says.
pub fn round_trip(
    inverter: &dyn Invert,
    encoder: &dyn Embed,
    texts: &[String],
    domains: Option<&[String]>,
    options: &RoundTripOptions,
    progress: &mut Progress<'_>,
) -> Result<RoundTrip> {
    encoder.space().require_within(inverter.space(), "the encoder", "the decoder")?;
    let kept = limit(texts.len(), options, "the texts")?;
    let input = Input::new(kept, &texts[..kept], domains, texts.len())?;
    let start = Instant::now();
    let chunk = ENCODE_CHUNK * inverter.shares();
    let v_ND = embed(encoder, &input.texts, chunk, "encode", progress)?;
    measure(inverter, encoder, &input, &v_ND, start.elapsed().as_secs_f64(), options, progress)
}

/// The same for vectors that are there already: `v_ND` (`[N, dim]`) holds one for each text.
///
/// # Errors
/// As [`round_trip`]; [`Error::Shape`] and [`Error::NonFinite`] for vectors that are none of the space. That the
/// vectors are of the decoder's space is for the caller to know.
pub fn round_trip_vectors(
    inverter: &dyn Invert,
    encoder: &dyn Embed,
    v_ND: &Tensor,
    texts: &[String],
    domains: Option<&[String]>,
    options: &RoundTripOptions,
    progress: &mut Progress<'_>,
) -> Result<RoundTrip> {
    encoder.space().require_within(inverter.space(), "the encoder", "the decoder")?;
    let kept = limit(texts.len(), options, "the texts")?;
    let want = vec![texts.len() as i64, encoder.space().dim as i64];
    if v_ND.size() != want {
        return Err(Error::Shape { what: "the vectors", got: v_ND.size(), want });
    }
    let input = Input::new(kept, &texts[..kept], domains, texts.len())?;
    measure(inverter, encoder, &input, &v_ND.f_narrow(0, 0, kept as i64)?, 0.0, options, progress)
}

/// The same for one split of a pair set, with its stored vectors and domains: those under the encoder's prompt, as
/// decoded texts are encoded again under it.
///
/// # Errors
/// As [`round_trip_vectors`]; [`models::Error::SpaceMismatch`] when the pair set is of another space,
/// [`data::Error::NoSuchPrompt`] when it has no vectors under that prompt.
pub fn round_trip_pairs(
    inverter: &dyn Invert,
    encoder: &dyn Embed,
    pairs: &PairSet,
    split: Split,
    options: &RoundTripOptions,
    progress: &mut Progress<'_>,
) -> Result<RoundTrip> {
    encoder.space().require_within(inverter.space(), "the encoder", "the decoder")?;
    let prompt = &encoder.space().prompt;
    // what else it has does not matter
    let under = Space { prompt: prompt.clone(), other_prompts: Vec::new(), ..pairs.space().clone() };
    under.require_within(inverter.space(), "the pair set", "the decoder")?;
    let mut rows = pairs.indices_under(split, prompt)?;
    let available = rows.len();
    let what = format!("split {split} of {}, prompt {:?}", pairs.dir().display(), prompt.name);
    rows.truncate(limit(available, options, &what)?);
    let input = Input {
        indices: rows.iter().map(|&row| row as usize).collect(),
        texts: rows.iter().map(|&row| pairs.text(row as usize).to_owned()).collect(),
        domains: Some(rows.iter().map(|&row| pairs.domain(row as usize).to_owned()).collect()),
        available,
    };
    let start = Instant::now();
    let v_ND = pairs.vectors(&rows);
    measure(inverter, encoder, &input, &v_ND, start.elapsed().as_secs_f64(), options, progress)
}

/// Texts to evaluate of those that there are.
fn limit(available: usize, options: &RoundTripOptions, what: &str) -> Result<usize> {
    match options.limit.map_or(available, |limit| limit.min(available)) {
        0 => Err(Error::NoTexts { what: what.to_owned() }),
        kept => Ok(kept),
    }
}

/// What goes in, beside the vectors.
struct Input {
    indices: Vec<usize>,
    texts: Vec<String>,
    domains: Option<Vec<String>>,
    available: usize,
}

impl Input {
    fn new(kept: usize, texts: &[String], domains: Option<&[String]>, available: usize) -> Result<Input> {
        if let Some(domains) = domains.filter(|domains| domains.len() != available) {
            return Err(Error::Unequal { what: "domains", got: domains.len(), want: available });
        }
        Ok(Input {
            indices: (0..kept).collect(),
            texts: texts.to_vec(),
            domains: domains.map(|domains| domains[..kept].to_vec()),
            available,
        })
    }
}

/// The vectors of texts, `[N, dim]`, with progress between chunks.
pub(crate) fn embed(
    encoder: &dyn Embed,
    texts: &[String],
    chunk: usize,
    stage: &str,
    progress: &mut Progress<'_>,
) -> Result<Tensor> {
    let mut chunks = Vec::new();
    let mut done = 0;
    progress(stage, 0, texts.len());
    for chunk in texts.chunks(chunk) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        chunks.push(encoder.embed(&chunk)?);
        done += chunk.len();
        progress(stage, done, texts.len());
    }
    Ok(Tensor::f_cat(&chunks, 0)?)
}

/// The texts of vectors, with progress between batches.
pub(crate) fn decode(
    inverter: &dyn Invert,
    v_ND: &Tensor,
    options: &GenerateOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<Inverted>> {
    let total = v_ND.size()[0] as usize;
    let chunk = match inverter.search() {
        Some(_) => SEARCHED_TOGETHER,
        None => options.batch.max(1),
    };
    let chunk = chunk * inverter.shares();
    let mut inverted = Vec::with_capacity(total);
    progress("invert", 0, total);
    while inverted.len() < total {
        let rows = chunk.min(total - inverted.len());
        let first = inverted.len();
        let batch = inverter.invert(&v_ND.f_narrow(0, first as i64, rows as i64)?, first as u64, options)?;
        if batch.len() != rows {
            return Err(Error::Unequal { what: "decoded texts", got: batch.len(), want: rows });
        }
        inverted.extend(batch);
        progress("invert", inverted.len(), total);
    }
    Ok(inverted)
}

fn measure(
    inverter: &dyn Invert,
    encoder: &dyn Embed,
    input: &Input,
    v_ND: &Tensor,
    encode_seconds: f64,
    options: &RoundTripOptions,
    progress: &mut Progress<'_>,
) -> Result<RoundTrip> {
    finite(v_ND, encoder.space().dim.max(1), "the vectors")?;
    let mut seconds = Seconds { encode: encode_seconds, ..Seconds::default() };
    let start = Instant::now();
    let inverted = decode(inverter, v_ND, &options.generate, progress)?;
    seconds.invert = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let hypotheses: Vec<String> = inverted.iter().map(|inverted| inverted.text.clone()).collect();
    let again_ND = embed(encoder, &hypotheses, ENCODE_CHUNK * inverter.shares(), "reencode", progress)?;
    seconds.reencode = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let total = input.texts.len();
    progress("score", 0, total);
    let statistics = statistics(&input.texts, &hypotheses, Some(&cosines(v_ND, &again_ND)?))?;
    let rows = rows(encoder, input, &inverted, &statistics)?;
    let bootstrap = Bootstrap { resamples: options.bootstrap, seed: options.seed, ..Bootstrap::default() };
    let tokens: Vec<usize> = rows.iter().map(|row| row.tokens).collect();
    let summary = Scores::of(&statistics, &bootstrap);
    let buckets = buckets(&statistics, &tokens, input.domains.as_deref(), &bootstrap);
    let samples = samples(&rows, options.samples, options.seed);
    progress("score", total, total);
    seconds.score = start.elapsed().as_secs_f64();
    seconds.total = seconds.encode + seconds.invert + seconds.reencode + seconds.score;

    let mut settings = settings(inverter, encoder, &rows, &inverted, bootstrap, seconds, options);
    settings.available = input.available;
    settings.trial = rows.len() < input.available;
    Ok(RoundTrip { schema: SCHEMA.to_owned(), summary, buckets, samples, settings, rows })
}

fn settings(
    inverter: &dyn Invert,
    encoder: &dyn Embed,
    rows: &[Row],
    inverted: &[Inverted],
    bootstrap: Bootstrap,
    seconds: Seconds,
    options: &RoundTripOptions,
) -> Settings {
    let decoder = inverter.record();
    let max_tokens = options.generate.max_tokens.min(decoder.max_tokens);
    Settings {
        trial: false,
        limit: options.limit,
        available: rows.len(),
        truncated: rows.iter().filter(|row| row.truncated).count(),
        unfinished: rows.iter().filter(|row| !row.finished).count(),
        strategy: strategy_of(inverter, &options.generate),
        search: inverter.search().cloned(),
        encodings: mean(inverted.iter().map(|text| text.encodings as f64)),
        course: course(inverted),
        dtype: inverter.dtype(),
        generate: GenerateOptions { max_tokens, ..options.generate.clone() },
        bootstrap,
        decoder,
        space: inverter.space().clone(),
        prompt: encoder.space().prompt.name.clone(),
        versions: versions(),
        seconds,
        texts_per_s: rows.len() as f64 / seconds.invert.max(1e-9),
    }
}

/// How a decoder finds its texts, in a few words.
pub(crate) fn strategy_of(inverter: &dyn Invert, generate: &GenerateOptions) -> String {
    match inverter.search() {
        Some(search) => searching(search) + &told(&search.generate),
        None => strategy(&generate.strategy) + &told(generate),
    }
}

/// The programs that a result depends on, and those whose scores the metrics equal.
pub(crate) fn versions() -> std::collections::BTreeMap<String, String> {
    let list = [
        ("inverse-stella", env!("CARGO_PKG_VERSION")),
        ("libtorch", torch_ext::libtorch_version_built()),
        ("metrics: sacrebleu", "2.6.0"),
        ("metrics: rouge-score", "0.1.2"),
        ("metrics: nltk", "3.10.4"),
        ("metrics: jiwer", "4.0.0"),
    ];
    list.map(|(name, version)| (name.to_owned(), version.to_owned())).into()
}

fn rows(
    encoder: &dyn Embed,
    input: &Input,
    inverted: &[Inverted],
    statistics: &Statistics,
) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(inverted.len());
    for (at, (reference, inverted)) in input.texts.iter().zip(inverted).enumerate() {
        let own = statistics.row(at);
        let value = |metric: Metric| metric.value(own, 1);
        rows.push(Row {
            index: input.indices[at],
            reference: reference.clone(),
            hypothesis: inverted.text.clone(),
            domain: input.domains.as_ref().map(|domains| domains[at].clone()),
            tokens: tokens(encoder, reference)?,
            truncated: encoder.count_tokens(reference)? > encoder.max_tokens(),
            log_prob: inverted.log_prob,
            finished: inverted.finished,
            encodings: inverted.encodings,
            sentence_bleu: value(Metric::SentenceBleu),
            chrf: value(Metric::Chrf),
            token_f1: value(Metric::TokenF1),
            token_set_f1: value(Metric::TokenSetF1),
            exact_match: value(Metric::ExactMatch) == 1.0,
            exact_match_normalized: value(Metric::ExactMatchNormalized) == 1.0,
            rouge_l: value(Metric::RougeL),
            length_ratio: value(Metric::LengthRatio),
            cer: value(Metric::Cer),
            cosine: Some(value(Metric::Cosine)),
        });
    }
    Ok(rows)
}

/// Tokens of a text itself, without prompt and special tokens.
fn tokens(encoder: &dyn Embed, text: &str) -> Result<usize> {
    let encoded = encoder.tokenizer().encode_fast(text, false);
    Ok(encoded.map_err(|error| Error::Tokenize { reason: error.to_string() })?.len())
}
