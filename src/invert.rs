//! `invert`: vectors -> texts.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use eval::round_trip::SEARCHED_TOGETHER;
use eval::{Invert, Searching};
use models::{Embed as _, Encoder, Inverted, Inverter, Space};

use crate::decoding::DecodingArgs;
use crate::encoder_source::{self, EncoderArgs};
use crate::progress::Progress;
use crate::search_flags::SearchArgs;
use crate::{output, vectors};

/// Flags of `invert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella invert captions-decoder --vectors vectors.npy
  inverse-stella invert captions-decoder --vectors vectors.npy --budget 32
  inverse-stella invert runs/captions --vectors vectors.npy --json --encoder .venv/all-MiniLM-L6-v2
  echo '[0.01, -0.07, ...]' | inverse-stella invert captions-decoder --vectors -")]
pub(crate) struct InvertArgs {
    /// A run, a checkpoint or an export
    #[arg(value_name = "DECODER")]
    decoder: PathBuf,
    /// .npy of shape (rows, numbers), or JSON lines (an array, or an object with `vector`); - is stdin
    #[arg(long, value_name = "X.npy")]
    vectors: PathBuf,
    /// One JSON object a line: text, log_prob, tokens, finished, with --encoder cosine, with a search encodings
    #[arg(long)]
    json: bool,
    /// Encode each text again and give its cosine to the vector (--encoder and --prompt do so too)
    #[arg(long)]
    cosine: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    search: SearchArgs,
}

/// A line of `invert --json`.
#[derive(serde::Serialize)]
struct Line<'a> {
    row: usize,
    text: &'a str,
    log_prob: Option<f64>,
    tokens: usize,
    finished: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cosine: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encodings: Option<usize>,
}

/// Decodes a file of vectors.
pub(crate) fn run(args: &InvertArgs) -> Result<()> {
    let inverter = Inverter::open(&args.decoder, args.decoding.device, args.decoding.dtype)?;
    let options = args.decoding.options(&inverter.config)?;
    let given = vectors::read(&args.vectors, inverter.space.dim)?;
    if let Some(space) = &given.space {
        space.require_within(&inverter.space, &args.vectors.display().to_string(), "the decoder")?;
    }
    // before the vectors are decoded: a mistyped name should not cost minutes
    let named = args.encoder.encoder.is_some() || args.encoder.prompt.is_some();
    let encoder = if args.cosine || named || args.search.wanted() {
        Some(encoder_of(&inverter, args, given.space.as_ref())?)
    } else {
        None
    };
    let rows = given.rows_ND.size()[0];
    let mut progress = Progress::start("decoding", "texts", Some(rows as u64));
    let searching = match (&encoder, args.search.options(&args.decoding, &options, &inverter)?) {
        (Some(encoder), Some(search)) => Some(Searching::new(&inverter, encoder, search)?),
        _ => args.decoding.check_without_search().map(|()| None)?,
    };
    let decoder: &dyn Invert = match &searching {
        Some(searching) => searching,
        None => &inverter,
    };
    let chunk = match &searching {
        // of all candidates the vectors are kept until the last text of a chunk has ended
        Some(_) => SEARCHED_TOGETHER as i64,
        None => options.batch as i64 * 8,
    };
    let mut texts: Vec<Inverted> = Vec::with_capacity(rows as usize);
    for start in (0..rows).step_by(chunk as usize) {
        let part_ND = given.rows_ND.narrow(0, start, chunk.min(rows - start));
        texts.extend(decoder.invert(&part_ND, start as u64, &options)?);
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
                    encodings: searching.as_ref().map(|_| inverted.encodings),
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
