//! `bench`: how fast this machine does the work, and how far from the rate of its matrix products that is.

mod decode;
mod encode;
mod machine;
mod stella;
mod train;

pub(crate) use machine::peak_resident_bytes;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    verb: BenchVerb,
}

impl BenchArgs {
    /// Whether several processes share the work.
    pub(crate) fn takes_part(&self) -> bool {
        matches!(&self.verb, BenchVerb::Train(args) if args.takes_part())
    }
}

#[derive(Debug, Subcommand)]
enum BenchVerb {
    /// Vectors -> texts: texts and tokens a second, at several batches
    Decode(decode::BenchDecodeArgs),
    /// Texts -> vectors: texts and tokens a second, padding, memory
    Encode(encode::BenchEncodeArgs),
    /// Texts -> vectors with random weights of STELLA 1.5B's shapes
    Stella(stella::BenchStellaArgs),
    /// Training steps: target tokens a second, waiting for data, share of the machine's products
    Train(train::BenchTrainArgs),
}

/// Measures, and prints what was found.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.verb {
        BenchVerb::Decode(args) => decode::run(args),
        BenchVerb::Encode(args) => encode::run(args),
        BenchVerb::Stella(args) => stella::run(args),
        BenchVerb::Train(args) => train::run(args),
    }
}
