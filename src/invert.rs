//! `invert`: vectors -> texts.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use models::{Embed as _, Encoder, Inverted, Inverter, Space, Strategy};

use crate::decoding::DecodingArgs;
use crate::encoder_source::{self, EncoderArgs};
use crate::progress::Progress;
use crate::{output, vectors};

/// Flags of `invert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella invert captions-decoder --vectors vectors.npy
  inverse-stella invert runs/captions --vectors vectors.npy --json --encoder .venv/all-MiniLM-L6-v2
  echo '[0.01, -0.07, ...]' | inverse-stella invert captions-decoder --vectors -")]
pub(crate) struct InvertArgs {
    /// A run, a checkpoint or an export
    #[arg(value_name = "DECODER")]
    decoder: PathBuf,
    /// .npy of shape (rows, numbers), or JSON lines (an array, or an object with `vector`); - is stdin
    #[arg(long, value_name = "X.npy")]
    vectors: PathBuf,
    /// One JSON object a line: text, log_prob, tokens, finished and, with --encoder, cosine
    #[arg(long)]
    json: bool,
    /// Encode each text again and give its cosine to the vector (--encoder and --prompt do so too)
    #[arg(long)]
    cosine: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
}

/// A line of `invert --json`.
#[derive(serde::Serialize)]
struct Line<'a> {
    row: usize,
    text: &'a str,
    log_prob: f64,
    tokens: usize,
    finished: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
}

/// Decodes a file of vectors.
pub(crate) fn run(args: &InvertArgs) -> Result<()> {
    let inverter = Inverter::open(&args.decoder, args.decoding.device, args.decoding.dtype)?;
    let options = args.decoding.options(inverter.config.max_tokens as usize)?;
    let given = vectors::read(&args.vectors, inverter.space.dim)?;
    if let Some(space) = &given.space {
        space.require_within(&inverter.space, &args.vectors.display().to_string(), "the decoder")?;
    }
    // before the vectors are decoded: a mistyped name should not cost minutes
    let encoder = if args.cosine || args.encoder.encoder.is_some() || args.encoder.prompt.is_some() {
        Some(encoder_of(&inverter, args, given.space.as_ref())?)
    } else {
        None
    };
    let rows = given.rows_ND.size()[0];
    let mut progress = Progress::start("decoding", "texts", Some(rows as u64));
    // what sampling draws depends on a vector's place in the call, so it takes all of them at once
    let chunk = match options.strategy {
        Strategy::Sample { .. } => rows.max(1),
        _ => options.batch as i64 * 8,
    };
    let mut texts: Vec<Inverted> = Vec::with_capacity(rows as usize);
    for start in (0..rows).step_by(chunk as usize) {
        let part_ND = given.rows_ND.narrow(0, start, chunk.min(rows - start));
        texts.extend(inverter.invert(&part_ND, &options)?);
        progress.at(texts.len() as u64, "");
    }
    progress.finish();
    let cosines = match &encoder {
        Some(encoder) => {
            let again: Vec<&str> = texts.iter().map(|inverted| inverted.text.as_str()).collect();
            Some(eval::cosines(&given.rows_ND, &encoder.embed(&again)?)?)
        }
        None => None,
    };
    output::write(|out| {
        for (row, inverted) in texts.iter().enumerate() {
            if args.json {
                let line = Line {
                    row,
                    text: &inverted.text,
                    log_prob: inverted.log_prob,
                    tokens: inverted.tokens,
                    finished: inverted.finished,
                    cosine: cosines.as_ref().map(|cosines| cosines[row]),
                };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            } else {
                writeln!(out, "{}", output::one_line(&inverted.text))?;
            }
        }
        Ok(())
    })
}

/// The encoder under the prompt of the vectors, which the file beside them or else `--prompt` says.
fn encoder_of(inverter: &Inverter, args: &InvertArgs, vectors: Option<&Space>) -> Result<Encoder> {
    let (decoder, device) = (&args.decoder, args.decoding.device);
    let said = vectors.filter(|_| args.encoder.prompt.is_none()).map(|space| &space.prompt.text);
    let prompt = inverter.space.prompts().find(|prompt| Some(&prompt.text) == said);
    let encoder = match prompt {
        Some(prompt) => encoder_source::open_under(prompt, inverter, decoder, &args.encoder, device)?,
        None => encoder_source::open_for(inverter, decoder, &args.encoder, device)?,
    };
    if let Some(space) = vectors {
        space.require_same(encoder.space(), &args.vectors.display().to_string(), "the encoder")?;
    }
    Ok(encoder)
}
