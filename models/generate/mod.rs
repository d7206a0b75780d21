//! Vectors to token ids: greedy, sampling, beam search.
//!
//! There is no padding, and the head runs on the last position alone. On a CPU, in f32 and bf16 and without guidance,
//! texts are decoded in flight (`in_flight.rs`): the next vector takes the place of a text that has ended. Elsewhere all
//! rows of a chunk stay in step, and those that have ended leave the batch.
#![allow(non_snake_case)]

mod beam;
pub mod graphed;
mod in_flight;
mod reading;
mod sample;
mod scorer;
mod source;
mod stepper;
mod text_in_flight;

use crate::{Decoder, DecoderConfig, Error, Result};
use beam::Rules;
pub use reading::{Reading, read};
use sample::Sampler;
use scorer::{Scorer, Start};
use serde::{Deserialize, Serialize};
use source::Checked;
pub use source::{Hypotheses, Source};
use stepper::Stepper;
use tch::{Kind, Tensor};

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Strategy {
    /// The most probable one.
    #[default]
    Greedy,
    /// Drawn from the distribution, cut in the order of transformers' processors: temperature, top-k, top-p, min-p.
    Sample {
        /// Logits are divided by it; at least 1e-6.
        temperature: f64,
        /// Keep this many of the most probable tokens.
        top_k: Option<i64>,
        /// Keep the smallest set of most probable tokens whose probabilities sum to at least this.
        top_p: Option<f64>,
        /// Keep tokens with at least this share of the highest probability.
        min_p: Option<f64>,
        /// Seed; a draw depends on it, on the vector's position among those given, and on the sample's number alone.
        seed: u64,
        /// Texts per vector.
        samples: usize,
    },
    /// Beam search as in transformers (`early_stopping=False`): a finished hypothesis is ranked by the sum of its
    /// log-probabilities / length^length_penalty, EOS included.
    Beam {
        /// Hypotheses kept per vector.
        width: usize,
        /// Exponent of the length; 0 ranks by the sum itself, larger values favour longer texts.
        length_penalty: f64,
    },
}

/// Options of [`generate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub strategy: Strategy,
    /// Longest text in tokens, EOS included; at most what the decoder was made for is used.
    pub max_tokens: usize,
    /// Rows computed together: vectors times samples or beams. Results do not depend on it, beyond rounding.
    pub batch: usize,
    /// How noisy the vectors are: the standard deviation of what was added to each of their numbers; 0 for clean ones.
    #[serde(default)]
    pub noise: f64,
    /// Tokens of the texts, EOS not counted, where that is known: the decoder is told, and mostly keeps to it.
    #[serde(default)]
    pub length: Option<usize>,
    /// Classifier-free guidance (Sanchez et al., arXiv 2306.17806): scores are u + g (c - u), with c those given the
    /// vector and u those without it. 1 for none; above 1 a text follows its vector more closely.
    #[serde(default = "unguided")]
    pub guidance: f64,
}

fn unguided() -> f64 {
    1.0
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let (max_tokens, batch) = (usize::MAX, 256);
        Self { strategy: Strategy::Greedy, max_tokens, batch, noise: 0.0, length: None, guidance: unguided() }
    }
}

/// One generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated {
    /// Token ids without BOS and EOS.
    pub ids: Vec<u32>,
    /// Sum of the natural log-probabilities of the tokens, EOS included, before anything is cut (temperature 1): the
    /// model's own, with guidance those of the guided scores.
    pub log_prob: f64,
    /// Whether EOS came before the limit.
    pub finished: bool,
}

impl Generated {
    fn empty() -> Self {
        Self { ids: Vec::new(), log_prob: 0.0, finished: false }
    }

    /// Adds a token; what comes behind EOS is passed over.
    fn add(&mut self, token: i64, log_prob: f64, eos: i64) {
        if self.finished {
            return;
        }
        self.log_prob += log_prob;
        self.finished = token == eos;
        if !self.finished {
            self.ids.push(token as u32);
        }
    }
}

/// First guesses at vectors (N, dim), any float type and device. Returns the texts of each, best first: one for greedy,
/// the samples by log-probability, the beams by score.
///
/// # Errors
/// [`Error::VectorShape`] and [`Error::VectorNotFinite`] for vectors that cannot be, [`Error::GenerateOption`] for
/// options that cannot be, and libtorch's own.
pub fn generate(decoder: &Decoder, v_ND: &Tensor, options: &GenerateOptions) -> Result<Vec<Vec<Generated>>> {
    generate_from(decoder, &Source::vectors(v_ND), options)
}

/// The same from any source: where it has hypotheses, these are refined.
///
/// # Errors
/// As [`generate`]; [`Error::DoesNotRefine`] for hypotheses that the decoder cannot read, [`Error::SourceLength`] for
/// a source whose parts do not fit together.
pub fn generate_from(
    decoder: &Decoder,
    source: &Source<'_>,
    options: &GenerateOptions,
) -> Result<Vec<Vec<Generated>>> {
    options.check(decoder.config())?;
    let limit = options.max_tokens.min(decoder.config().max_tokens as usize);
    tch::no_grad(|| {
        let source = source.check(decoder, options)?;
        // texts in flight have one row each: guidance needs two
        let plain = options.guidance == unguided();
        if source.len() > 0 && plain && Stepper::fits(decoder) {
            in_flight::decode(decoder, &source, options, limit)
        } else {
            in_chunks(decoder, &source, options, limit)
        }
    })
}

/// Decodes chunk after chunk, all rows of a chunk in step: what a GPU likes best. Texts of a chunk have beginnings of
/// one length.
fn in_chunks(
    decoder: &Decoder,
    source: &Checked,
    options: &GenerateOptions,
    limit: usize,
) -> Result<Vec<Vec<Generated>>> {
    let per_vector = match options.strategy {
        Strategy::Greedy => 1,
        Strategy::Sample { samples, .. } => samples,
        Strategy::Beam { width, .. } => width,
    };
    let most = (options.batch / per_vector).max(1);
    let mut order: Vec<usize> = (0..source.len()).collect();
    order.sort_by_key(|&text| source.positions(text, decoder));
    let mut results = vec![Vec::new(); source.len()];
    for alike in order.chunk_by(|&a, &b| source.positions(a, decoder) == source.positions(b, decoder)) {
        for texts in alike.chunks(most) {
            let with = source.beginnings_of(decoder, texts, false)?;
            let guided = options.guidance != unguided();
            let without = if guided { Some(source.beginnings_of(decoder, texts, true)?) } else { None };
            let start = Start { with: &with, without: without.as_ref(), guidance: options.guidance };
            let found = match &options.strategy {
                Strategy::Greedy => in_step(decoder, &start, 1, limit, LEAVE_AT, &mut Greedy)?,
                Strategy::Sample { samples, .. } => {
                    let numbers = texts.iter().map(|&text| source.numbers[text]);
                    let mut sampler = Sampler::new(&options.strategy, numbers);
                    in_step(decoder, &start, *samples as i64, limit, LEAVE_AT, &mut sampler)?
                }
                Strategy::Beam { .. } => {
                    beam::search(decoder, &start, &Rules::new(&options.strategy, limit, decoder.config()))?
                }
            };
            for (&text, found) in texts.iter().zip(found) {
                results[text] = found;
            }
        }
    }
    Ok(results)
}

impl GenerateOptions {
    /// Refuses what cannot be, and what a decoder of this shape has not learnt.
    ///
    /// # Errors
    /// [`Error::GenerateOption`], [`Error::KnowsNoNoise`], [`Error::KnowsNoLength`], [`Error::DoesNotGuide`].
    pub fn check(&self, decoder: &DecoderConfig) -> Result<()> {
        check_options(self)?;
        if self.noise > 0.0 && !decoder.knows_noise {
            return Err(Error::KnowsNoNoise);
        }
        if self.length.is_some() && !decoder.knows_length {
            return Err(Error::KnowsNoLength);
        }
        if self.guidance != unguided() && !decoder.guides {
            return Err(Error::DoesNotGuide);
        }
        Ok(())
    }
}

fn check_options(options: &GenerateOptions) -> Result<()> {
    let fail = |option: &'static str, problem: &str| {
        Err(Error::GenerateOption { option, problem: problem.to_owned() })
    };
    if options.max_tokens == 0 {
        return fail("max_tokens", "must be at least 1");
    }
    if !(options.noise.is_finite() && options.noise >= 0.0) {
        return fail("noise", "must be 0 (clean vectors) or a positive number");
    }
    if options.length == Some(0) {
        return fail("length", "must be at least 1");
    }
    if !options.guidance.is_finite() {
        return fail("guidance", "must be a finite number");
    }
    match &options.strategy {
        Strategy::Greedy => Ok(()),
        // logits divided by less are beyond f32
        Strategy::Sample { temperature, .. } if !(temperature.is_finite() && *temperature >= 1e-6) => {
            fail("temperature", "must be at least 1e-6 (greedy is the limit at 0)")
        }
        Strategy::Sample { top_k: Some(k), .. } if *k < 1 => fail("top_k", "must be at least 1"),
        Strategy::Sample { top_p: Some(p), .. } if !(*p > 0.0 && *p <= 1.0) => {
            fail("top_p", "must lie above 0 and up to 1")
        }
        Strategy::Sample { min_p: Some(p), .. } if !(0.0..=1.0).contains(p) => {
            fail("min_p", "must lie in 0..=1")
        }
        Strategy::Sample { samples: 0, .. } => fail("samples", "must be at least 1"),
        Strategy::Beam { width: 0, .. } => fail("width", "must be at least 1"),
        Strategy::Beam { length_penalty, .. } if !length_penalty.is_finite() => {
            fail("length_penalty", "must be finite")
        }
        _ => Ok(()),
    }
}

/// Rows that have ended leave the batch when they are at least this share of it: leaving costs a copy of the cache.
const LEAVE_AT: f64 = 0.2;

/// Chooses the next token of every row from (R, V) f32 logits; `rows` are their numbers in the chunk.
trait Choose {
    fn choose(&mut self, logits_RV: &Tensor, rows: &[usize]) -> Result<Tensor>;
}

struct Greedy;

impl Choose for Greedy {
    fn choose(&mut self, logits_RV: &Tensor, _: &[usize]) -> Result<Tensor> {
        Ok(logits_RV.f_argmax(1, false)?)
    }
}

/// Decodes `copies` rows for each beginning of a chunk, one token a step for all.
fn in_step(
    decoder: &Decoder,
    start: &Start<'_>,
    copies: i64,
    limit: usize,
    leave_at: f64,
    choose: &mut impl Choose,
) -> Result<Vec<Vec<Generated>>> {
    let batch = start.with.len() as i64;
    let (mut scorer, mut logits_RV) = Scorer::begin(decoder, start, limit)?;
    if copies > 1 {
        let rows = repeated(batch, copies, decoder)?;
        scorer.select(&rows)?;
        logits_RV = logits_RV.f_index_select(0, &rows)?;
    }
    let mut texts = vec![Generated::empty(); (batch * copies) as usize];
    let mut rows: Vec<usize> = (0..texts.len()).collect();
    let eos = decoder.config().eos_token_id;
    for length in 1..=limit {
        let mut next_R = choose.choose(&logits_RV, &rows)?;
        let log_probs = host_f64(&log_probs_of(&logits_RV, &next_R)?)?;
        for ((&row, token), log_prob) in rows.iter().zip(host_i64(&next_R)?).zip(log_probs) {
            // what follows an end is passed over, whatever it is
            if !(texts[row].finished || log_prob.is_finite()) {
                return Err(without_order(row));
            }
            texts[row].add(token, log_prob, eos);
        }
        let live = rows.iter().filter(|&&row| !texts[row].finished).count();
        if live == 0 || length == limit {
            break;
        }
        if (rows.len() - live) as f64 >= leave_at * rows.len() as f64 {
            next_R = leave(&mut scorer, &next_R, &mut rows, |row| !texts[row].finished)?;
        }
        logits_RV = scorer.step(&next_R)?;
    }
    Ok(grouped(texts, copies as usize))
}

/// Drops the rows that `stays` is false for; returns the tokens of those that stay.
fn leave(
    scorer: &mut Scorer<'_>,
    next_R: &Tensor,
    rows: &mut Vec<usize>,
    stays: impl Fn(usize) -> bool,
) -> Result<Tensor> {
    let kept: Vec<i64> = (0..).zip(&*rows).filter(|&(_, &row)| stays(row)).map(|(i, _)| i).collect();
    if kept.len() == rows.len() {
        return Ok(next_R.shallow_clone());
    }
    rows.retain(|&row| stays(row));
    let kept = Tensor::f_from_slice(&kept)?.f_to_device(next_R.device())?;
    scorer.select(&kept)?;
    Ok(next_R.f_index_select(0, &kept)?)
}

/// Each row number `copies` times: 0, 0, 1, 1, …
fn repeated(batch: i64, copies: i64, decoder: &Decoder) -> Result<Tensor> {
    let rows = Tensor::f_arange(batch, (Kind::Int64, decoder.device()))?;
    Ok(rows.f_unsqueeze(1)?.f_expand([batch, copies], false)?.f_reshape([-1])?)
}

/// Log-probability of one token a row: (R, V) f32 and (R) -> (R).
fn log_probs_of(logits_RV: &Tensor, token_R: &Tensor) -> Result<Tensor> {
    let chosen_R = logits_RV.f_gather(1, &token_R.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?;
    Ok(chosen_R.f_sub(&logits_RV.f_logsumexp([1].as_slice(), false)?)?)
}

/// What [`torch_ext::decode::pick`] says of a row with NaN or infinity, whose tokens have no order: the log-probability of
/// the chosen one is not finite then.
fn without_order(row: usize) -> Error {
    let message = format!("the logits of row {row} hold NaN or infinity");
    torch_ext::Error::Torch { op: "pick", message }.into()
}

fn grouped(texts: Vec<Generated>, copies: usize) -> Vec<Vec<Generated>> {
    let mut texts = texts.into_iter();
    let mut groups = Vec::new();
    loop {
        let group: Vec<Generated> = texts.by_ref().take(copies).collect();
        if group.is_empty() {
            return groups;
        }
        groups.push(best_first(group));
    }
}

/// Samples of one vector by log-probability.
fn best_first(mut texts: Vec<Generated>) -> Vec<Generated> {
    texts.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
    texts
}

fn host_i64(tensor: &Tensor) -> Result<Vec<i64>> {
    Ok(Vec::try_from(tensor.f_to_device(tch::Device::Cpu)?.f_contiguous()?.f_view([-1])?)?)
}

fn host_f64(tensor: &Tensor) -> Result<Vec<f64>> {
    let tensor = tensor.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Double)?;
    Ok(Vec::try_from(tensor.f_contiguous()?.f_view([-1])?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
