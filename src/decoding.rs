//! Flags about decoding, shared by `invert`, `eval` and `roundtrip`.

use anyhow::Result;
use clap::Args;
use models::{DecoderConfig, Decodes, DeviceChoice, Dtype, GenerateOptions, SearchOptions, Strategy};

use crate::failure::ArgumentError;

/// How texts are generated, and on what.
#[derive(Debug, Args)]
pub(crate) struct DecodingArgs {
    /// Beam search with this many hypotheses a text (1 = greedy) [default: 1]
    #[arg(long, value_name = "WIDTH", value_parser = clap::value_parser!(u32).range(1..=256))]
    beam: Option<u32>,
    /// Draw so many texts a vector and keep the likeliest, or with --rerank, beside the beams, the nearest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: Option<u32>,
    /// What a beam's score is divided by: its length to this power
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    length_penalty: f64,
    /// Sample at this temperature instead of taking the likeliest token
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Sample among the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<i64>,
    /// Sample among the likeliest tokens that hold this much probability
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Sample among tokens at least this fraction as likely as the likeliest
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Seed of sampling; the result does not depend on the batch
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The longest text, in the decoder's tokens [default: what the decoder was trained for]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// How noisy the vectors are: the standard deviation of the noise in each number (0.01 where the cosine to the clean
    /// vector is about 0.98 at 384 numbers)
    #[arg(long, value_name = "LEVEL", default_value_t = 0.0)]
    noise: f64,
    /// Tokens of the texts, where that is known and the decoder has learnt lengths [default: left open]
    #[arg(long, value_name = "N")]
    length: Option<usize>,
    /// Follow the vectors more closely than the decoder would (above 1), or less (below 1)
    #[arg(long, value_name = "SCALE", default_value_t = 1.0)]
    guidance: f64,
    /// Vectors decoded at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) batch: u32,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: DeviceChoice,
    /// Numbers the decoder computes with: auto (bf16 where the hardware has it), f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    pub(crate) dtype: Dtype,
}

impl DecodingArgs {
    /// Options that this decoder can follow.
    pub(crate) fn options(&self, decoder: &DecoderConfig) -> Result<GenerateOptions> {
        let longest = decoder.max_tokens as usize;
        let within = |name: &str, value: Option<f64>, low: f64, high: f64| match value {
            Some(x) if !(x > low && x <= high) => {
                Err(ArgumentError::new(format!("--{name} {x}: must be above {low} and at most {high}")))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top-p", self.top_p, 0.0, 1.0)?;
        within("min-p", self.min_p, 0.0, 1.0)?;
        if self.top_k.is_some_and(|k| k < 1) {
            return Err(ArgumentError::new("--top-k: must be at least 1").into());
        }
        let strategy = if self.draws() {
            self.sampling(self.samples.unwrap_or(1) as usize)
        } else {
            match self.beam {
                Some(width) if width > 1 => {
                    Strategy::Beam { width: width as usize, length_penalty: self.length_penalty }
                }
                _ => Strategy::Greedy,
            }
        };
        let max_tokens = match self.max_tokens {
            None => longest,
            Some(n) if n >= 1 && n <= longest => n,
            Some(n) => {
                return Err(ArgumentError::with_hint(
                    format!("--max-tokens {n}: this decoder writes 1 to {longest} tokens"),
                    "leave the flag out for the decoder's own maximum",
                )
                .into());
            }
        };
        let batch = self.batch as usize;
        let (noise, length, guidance) = (self.noise, self.length, self.guidance);
        let options = GenerateOptions { strategy, max_tokens, batch, noise, length, guidance };
        options.check(decoder)?;
        Ok(options)
    }

    /// Refuses flags that change nothing where one text is wanted, without a search.
    fn refuse_unused(&self) -> Result<()> {
        let without = |flag: &str, what: &str, hint: &str| {
            Err(ArgumentError::with_hint(format!("{flag} changes nothing {what}"), hint).into())
        };
        if self.length_penalty != 1.0 && self.beam.is_none_or(|width| width < 2) {
            return without("--length-penalty", "without beams", "--beam WIDTH asks for them");
        }
        if self.seed != 0 && !self.draws() {
            return without("--seed", "where nothing is drawn", "--samples N or --temperature T draws");
        }
        Ok(())
    }

    /// Whether tokens are drawn at all.
    fn draws(&self) -> bool {
        let of_tokens = self.temperature.is_some() || self.top_k.is_some();
        of_tokens || self.top_p.is_some() || self.min_p.is_some() || self.samples.is_some()
    }

    fn sampling(&self, samples: usize) -> Strategy {
        Strategy::Sample {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            samples,
        }
    }

    /// Refuses what makes no sense without a search, such as beams beside samples, which only a search can compare.
    pub(crate) fn check_without_search(&self) -> Result<()> {
        if self.beam.is_some() && self.draws() {
            return Err(ArgumentError::with_hint(
                "--beam beside --samples or --temperature: which of their texts is the better one?",
                "--rerank keeps the one whose vector is nearest",
            )
            .into());
        }
        self.refuse_unused()
    }

    /// Candidates of a search, where flags say which.
    pub(crate) fn candidates(&self) -> Option<Decodes> {
        if self.beam.is_none() && !self.draws() {
            return None;
        }
        let samples = if self.draws() { self.samples.unwrap_or(1) } else { 0 };
        Some(Decodes { beam: self.beam.unwrap_or(1) as usize, samples: samples as usize })
    }

    /// What a search takes over.
    pub(crate) fn search_base(&self) -> SearchOptions {
        let base = SearchOptions::default();
        SearchOptions {
            length_penalty: self.length_penalty,
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed,
            ..base
        }
    }
}
