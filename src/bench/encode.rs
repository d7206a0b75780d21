//! `bench encode`: texts -> vectors, timed.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use models::encoder::padding_percent;
use models::{Embed as _, Encoder};
use serde::Serialize;

use super::machine::{encoding_line, matmul_gflops, peak_resident_bytes, products_line};
use crate::encoder_flags::EncoderFlags;
use crate::failure::WorldError;
use crate::output;
use crate::progress::Progress;

/// Texts that warm the machine up before the clock starts.
const WARM_UP: usize = 64;

/// Flags of `bench encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella bench encode --encoder .venv/all-MiniLM-L6-v2 --texts texts.txt
  inverse-stella bench encode --encoder .venv/all-MiniLM-L6-v2 --texts texts.txt --dtype bf16 --json")]
pub(crate) struct BenchEncodeArgs {
    #[command(flatten)]
    encoder: EncoderFlags,
    /// One text a line (.gz, .xz and .zst too); blank lines are passed over
    #[arg(long, value_name = "TEXTS")]
    texts: PathBuf,
    /// Only the first so many texts
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Time it so many times and tell the fastest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct EncodeSpeed {
    texts_per_s: f64,
    /// Tokens of the texts, prompt and special tokens included and padding not.
    tokens_per_s: f64,
    /// Share of the positions computed that were padding.
    padding_percent: f64,
    dtype: &'static str,
    n: usize,
    tokens: usize,
    /// Tokenizing included.
    seconds: f64,
    device: String,
    threads: i32,
    /// Of the matrix products of texts and padding, in billions a second.
    achieved_gflops: f64,
    /// Of a large matrix product in the same process and format: the ceiling.
    matmul_gflops: f64,
    /// Opening the encoder, its digest included.
    load_seconds: f64,
    /// Once the encoder was open.
    load_peak_resident_bytes: Option<u64>,
    /// Over everything.
    peak_resident_bytes: Option<u64>,
    space: models::Space,
}

/// Times the encoder on the texts of a file.
pub(crate) fn run(args: &BenchEncodeArgs) -> Result<()> {
    let mut texts = data::read_lines(&args.texts)?;
    texts.retain(|text| !text.trim().is_empty());
    texts.truncate(args.limit.unwrap_or(usize::MAX));
    if texts.is_empty() {
        return Err(WorldError::with_hint(
            format!("{}: there is no text in it", args.texts.display()),
            "give a file with one text a line",
        )
        .into());
    }
    let started = Instant::now();
    let encoder = args.encoder.open()?;
    let load_seconds = started.elapsed().as_secs_f64();
    let load_peak_resident_bytes = peak_resident_bytes();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let _ = encoder.embed(&texts[..texts.len().min(WARM_UP)])?;
    let mut seconds = f64::INFINITY;
    for _ in 0..args.runs {
        let mut progress = Progress::start("encoding", "texts", Some(texts.len() as u64));
        let started = Instant::now();
        let _ = encoder.embed_with(&texts, &mut |done| progress.at(done as u64, ""))?;
        seconds = seconds.min(started.elapsed().as_secs_f64());
        progress.finish();
    }
    let peak_resident_bytes = peak_resident_bytes();
    let speed = measured(&encoder, &texts, seconds)?;
    let speed = EncodeSpeed { load_seconds, load_peak_resident_bytes, peak_resident_bytes, ..speed };
    if args.json { output::json(&speed) } else { tell(&speed) }
}

fn measured(encoder: &Encoder, texts: &[&str], seconds: f64) -> Result<EncodeSpeed> {
    let lengths: Vec<usize> = encoder.tokenize(texts)?.iter().map(Vec::len).collect();
    let batches = encoder.batches(&lengths);
    let tokens: usize = lengths.iter().sum();
    let flops: f64 = batches.iter().map(|batch| batch.rows.len() as f64 * encoder.flops(batch.length)).sum();
    Ok(EncodeSpeed {
        texts_per_s: texts.len() as f64 / seconds,
        tokens_per_s: tokens as f64 / seconds,
        padding_percent: padding_percent(&lengths, &batches),
        dtype: models::device::kind_name(encoder.kind()),
        n: texts.len(),
        tokens,
        seconds,
        device: models::device::device_name(encoder.device()),
        threads: tch::get_num_threads(),
        achieved_gflops: flops / seconds / 1e9,
        matmul_gflops: matmul_gflops(encoder.kind(), encoder.device())?,
        load_seconds: 0.0,
        load_peak_resident_bytes: None,
        peak_resident_bytes: None,
        space: encoder.space().clone(),
    })
}

fn tell(speed: &EncodeSpeed) -> Result<()> {
    let gib = |bytes: Option<u64>| {
        bytes.map_or("?".to_owned(), |bytes| format!("{:.2}", bytes as f64 / (1u64 << 30) as f64))
    };
    output::write(|out| {
        writeln!(out, "encoder   {}", speed.space)?;
        writeln!(out, "computed  {} on {} with {} threads", speed.dtype, speed.device, speed.threads)?;
        writeln!(
            out,
            "texts     {} of {:.1} tokens on average, {:.1} % padding",
            speed.n,
            speed.tokens as f64 / speed.n as f64,
            speed.padding_percent
        )?;
        writeln!(out, "{}", encoding_line(speed.texts_per_s, speed.tokens_per_s, speed.seconds))?;
        writeln!(out, "{}", products_line(speed.achieved_gflops, speed.matmul_gflops))?;
        writeln!(
            out,
            "memory    {} GiB at most while opening ({:.1} s), {} GiB in all",
            gib(speed.load_peak_resident_bytes),
            speed.load_seconds,
            gib(speed.peak_resident_bytes)
        )
    })
}
