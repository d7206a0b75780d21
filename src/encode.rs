//! `encode`: texts -> vectors.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use models::Embed as _;

use crate::encoder_flags::EncoderFlags;
use crate::progress::Progress;
use crate::{output, vectors};

/// Flags of `encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella encode --encoder .venv/all-MiniLM-L6-v2 --input texts.txt --output vectors.npy
  inverse-stella encode --encoder sentence-transformers/all-MiniLM-L6-v2 --input texts.txt.gz --output vectors.npy --dtype bf16
  inverse-stella encode --encoder NovaSearch/stella_en_1.5B_v5 --prompt s2p --dim 1024 --input queries.txt --output queries.npy")]
pub(crate) struct EncodeArgs {
    #[command(flatten)]
    encoder: EncoderFlags,
    /// One text a line (.gz, .xz and .zst too)
    #[arg(long, value_name = "TEXTS")]
    input: PathBuf,
    /// Where the vectors go, row by row as the lines; X.space.json beside X.npy says which space they are of
    #[arg(long, value_name = "X.npy")]
    output: PathBuf,
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
    let encoder = args.encoder.open()?;
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
