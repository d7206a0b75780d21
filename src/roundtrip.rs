//! `roundtrip`: one text, its vector, and what is read back from it.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use eval::{Invert as _, Searching};
use fs_err as fs;
use models::{Embed as _, Inverter};

use crate::decoding::DecodingArgs;
use crate::encoder_source::{self, EncoderArgs};
use crate::failure::WorldError;
use crate::output;
use crate::search_flags::SearchArgs;

/// Flags of `roundtrip`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella roundtrip \"Two dogs run along the beach.\"
  inverse-stella roundtrip --decoder captions-decoder --json \"Two dogs run.\" \"A man sleeps.\"")]
pub(crate) struct RoundtripArgs {
    /// The texts
    #[arg(required = true, value_name = "TEXT")]
    texts: Vec<String>,
    /// A run, a checkpoint or an export [default: the newest below ./runs]
    #[arg(long, value_name = "DECODER", env = "INVERSE_STELLA_DECODER")]
    decoder: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    search: SearchArgs,
}

/// A line of `roundtrip --json`.
#[derive(serde::Serialize)]
struct Line<'a> {
    text: &'a str,
    decoded: &'a str,
    cosine: f64,
    log_prob: Option<f64>,
}

/// Encodes, decodes, encodes again.
pub(crate) fn run(args: &RoundtripArgs) -> Result<()> {
    let decoder = match &args.decoder {
        Some(path) => path.clone(),
        None => newest_decoder(Path::new("runs"))?,
    };
    let inverter = Inverter::open(&decoder, args.decoding.device, args.decoding.dtype)?;
    let options = args.decoding.options(&inverter.config)?;
    let encoder = encoder_source::open_for(&inverter, &decoder, &args.encoder, args.decoding.device)?;
    let texts: Vec<&str> = args.texts.iter().map(String::as_str).collect();
    let rows_ND = encoder.embed(&texts)?;
    let inverted = match args.search.options(&args.decoding, &options, &inverter)? {
        Some(search) => Searching::new(&inverter, &encoder, search)?.invert(&rows_ND, 0, &options)?,
        None => args.decoding.check_without_search().map(|()| inverter.invert(&rows_ND, &options))??,
    };
    let again: Vec<&str> = inverted.iter().map(|inverted| inverted.text.as_str()).collect();
    let cosines = eval::cosines(&rows_ND, &encoder.embed(&again)?)?;
    tracing::info!("decoder {} ({})", decoder.display(), inverter.space.id());
    output::write(|out| {
        for ((text, inverted), cosine) in texts.iter().zip(&inverted).zip(cosines) {
            if args.json {
                let line = Line { text, decoded: &inverted.text, cosine, log_prob: inverted.log_prob };
                writeln!(out, "{}", serde_json::to_string(&line)?)?;
            } else {
                writeln!(out, "text     {}", output::one_line(text))?;
                writeln!(out, "decoded  {}", output::one_line(&inverted.text))?;
                writeln!(out, "cosine   {cosine:.4}\n")?;
            }
        }
        Ok(())
    })
}

/// The run or export below `folder` whose checkpoints or weights were written last.
fn newest_decoder(folder: &Path) -> Result<PathBuf> {
    let mut newest: Option<(std::time::SystemTime, PathBuf)> = None;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let marks = ["checkpoints/latest", "projector.json"].map(|mark| path.join(mark));
        for mark in marks {
            let Ok(written) = fs::metadata(&mark).and_then(|meta| meta.modified()) else { continue };
            if newest.as_ref().is_none_or(|(time, _)| written > *time) {
                newest = Some((written, path.clone()));
            }
        }
    }
    newest.map(|(_, path)| path).ok_or_else(|| {
        WorldError::with_hint(
            format!("no decoder below {}", folder.display()),
            "train one (`make demo`), or say where it is with --decoder",
        )
        .into()
    })
}
