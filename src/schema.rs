//! `schema`: the JSON Schema of what `eval --json` writes.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::output;

/// Flags of `schema`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella schema evaluation                    of `eval --suite … --json`
  inverse-stella schema round-trip > round-trip.schema.json

docs/evaluation.schema.json and docs/round-trip.schema.json are the same.")]
pub(crate) struct SchemaArgs {
    /// Of which result
    #[arg(value_enum)]
    result: Of,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Of {
    /// `eval --suite`
    Evaluation,
    /// `eval` of one round trip
    RoundTrip,
}

/// Prints a schema.
pub(crate) fn run(args: &SchemaArgs) -> Result<()> {
    let schema = match args.result {
        Of::Evaluation => eval::json_schema::evaluation(),
        Of::RoundTrip => eval::json_schema::round_trip(),
    };
    let text = serde_json::to_string_pretty(&schema)?;
    output::write(|out| writeln!(out, "{text}"))
}
