//! `export`: a run -> the folder that a service or Hugging Face transformers loads.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use data::pairs::PairSet;
use models::{DeviceChoice, Dtype, Inverter};

use crate::{card, output};

/// Flags of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella export runs/captions captions-decoder
  inverse-stella export runs/captions/checkpoints/step-00001000 captions-decoder --dtype bf16

The folder opens with Hugging Face transformers alone; its README.md says how.")]
pub(crate) struct ExportArgs {
    /// A run or a checkpoint
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// The folder to write; an export that lies there is replaced, anything else is refused
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Numbers the weights are stored as: f32 or bf16
    #[arg(long, value_name = "DTYPE", default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// Print what was written as one JSON object
    #[arg(long)]
    json: bool,
}
