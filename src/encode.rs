//! `encode`: texts -> vectors.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions};

use crate::progress::Progress;
use crate::{output, vectors};

/// Flags of `encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella encode --encoder .venv/all-MiniLM-L6-v2 --input texts.txt --output vectors.npy
  inverse-stella encode --encoder sentence-transformers/all-MiniLM-L6-v2 --input texts.txt.gz --output vectors.npy --dtype bf16")]
pub(crate) struct EncodeArgs {
    /// A sentence-transformers folder, or a hub name with an optional @revision
    #[arg(long, value_name = "DIR|HUB")]
    encoder: String,
    /// One text a line (.gz, .xz and .zst too)
    #[arg(long, value_name = "TEXTS")]
    input: PathBuf,
    /// Where the vectors go, row by row as the lines; X.space.json beside X.npy says which space they are of
    #[arg(long, value_name = "X.npy")]
    output: PathBuf,
    /// The encoder's prompt, by name
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Numbers to compute with: auto (bf16 where the hardware has it), f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    dtype: Dtype,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Tokens in a batch, padding included
    #[arg(long, value_name = "N", default_value_t = EncoderOptions::default().batch_tokens)]
    batch_tokens: usize,
    /// Print what was done as one JSON object
    #[arg(long)]
    json: bool,
}

/// What `encode --json` prints.
#[derive(serde::Serialize)]
struct Encoded<'a> {
    n: usize,
    dim: usize,
    seconds: f64,
    texts_per_s: f64,
    space: &'a models::Space,
    output: &'a std::path::Path,
}

/// Encodes the lines of a file.
pub(crate) fn run(args: &EncodeArgs) -> Result<()> {
    output::require_folder(&args.output)?;
    let texts = data::read_lines(&args.input)?;
    let options = EncoderOptions {
        device: args.device,
        dtype: args.dtype,
        prompt: args.prompt.clone(),
        batch_tokens: args.batch_tokens,
        ..EncoderOptions::default()
    };
    let encoder = Encoder::open(&args.encoder, &options)?;
    let started = Instant::now();
    let mut progress = Progress::start("encoding", "texts", Some(texts.len() as u64));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let rows_ND = encoder.embed_with(&texts, &mut |done| progress.at(done as u64, ""))?;
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    vectors::write(&args.output, &rows_ND, encoder.space())?;
    let encoded = Encoded {
        n: texts.len(),
        dim: encoder.space().dim,
        seconds,
        texts_per_s: texts.len() as f64 / seconds.max(1e-9),
        space: encoder.space(),
        output: &args.output,
    };
    if args.json {
        return output::json(&encoded);
    }
    tracing::info!(
        "{} vectors of {} numbers in {} ({:.0} texts/s), space {}",
        encoded.n,
        encoded.dim,
        args.output.display(),
        encoded.texts_per_s,
        encoder.space().id()
    );
    Ok(())
}
