//! What can be typed: the verbs, and the flags every verb shares. Each verb's own flags lie in its file.

use clap::{Parser, Subcommand};

use crate::{
    bench, bundle, completions, config, curve, doctor, encode, eval_verb, export, invert, launch, pairs,
    parity, report, roundtrip, schema, train,
};

/// Turn sentence-embedding vectors back into text, and measure how much meaning survives.
#[derive(Debug, Parser)]
#[command(
    name = "inverse-stella",
    version,
    propagate_version = true,
    after_help = "\
The main job, step by step:
  inverse-stella pairs build --recipe configs/captions.toml     texts -> (vector, text) pairs
  inverse-stella train --recipe configs/captions.toml           pairs -> a decoder, in a run folder
  inverse-stella eval runs/captions --texts held-out.txt        how much meaning survives
  inverse-stella export runs/captions captions-decoder          the folder a service loads
  inverse-stella invert captions-decoder --vectors vectors.npy  vectors -> texts"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// More on stderr: -v debug, -vv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// Only warnings and errors on stderr, no progress
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Threads for matrix products (default: as many as there are cores)
    #[arg(long, global = true, value_name = "N", env = "INVERSE_STELLA_THREADS",
          value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) threads: Option<i32>,
}

/// The verbs, in the order of the work.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what this machine has and lacks, with a fix for each lack
    Doctor(doctor::DoctorArgs),
    /// Texts -> vectors
    Encode(encode::EncodeArgs),
    /// Corpora -> curated (vector, text) pairs on disk
    Pairs(pairs::PairsArgs),
    /// Pairs -> a decoder
    Train(train::TrainArgs),
    /// Texts -> vectors -> texts, scored
    Eval(eval_verb::EvalArgs),
    /// Evaluations -> a page with plots and samples, Markdown, and what a model card says
    Report(report::ReportArgs),
    /// Fit a learning curve through several runs: what would more compute give?
    Curve(curve::CurveArgs),
    /// A run -> the folder that a service or Hugging Face transformers loads
    Export(export::ExportArgs),
    /// Vectors -> texts
    Invert(invert::InvertArgs),
    /// Read one text back from its own vector, for the impatient
    Roundtrip(roundtrip::RoundtripArgs),
    /// Run train, pairs build or eval as several processes that share the work
    Launch(launch::LaunchArgs),
    /// Measure how fast this machine does the work
    Bench(bench::BenchArgs),
    /// Compare what a device computes with the CPU, and with another machine
    Parity(parity::ParityArgs),
    /// Pack all that a machine needs to train: this program, a recipe, its encoder and texts
    Bundle(bundle::BundleArgs),
    /// Show a recipe as it resolves, and where each value comes from
    Config(config::ConfigArgs),
    /// The JSON Schema of what eval writes
    Schema(schema::SchemaArgs),
    /// Completions for a shell
    Completions(completions::CompletionsArgs),
}
