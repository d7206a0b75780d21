//! `inverse-stella`: text from sentence-embedding vectors, and how much meaning survives the way.
//!
//! Results go to stdout; logs and progress to stderr. Exit status: 0 done, 1 the data or the world is
//! wrong, 2 the arguments are wrong, 101 a bug of ours.

use std::process::ExitCode;

use clap::Parser;

mod again;
mod bench;
mod bundle;
mod card;
mod cli;
mod completions;
mod config;
mod curve;
mod decoding;
mod doctor;
mod encode;
mod encoder_flags;
mod encoder_source;
mod eval_suites;
mod eval_verb;
mod export;
mod failure;
mod invert;
mod launch;
mod output;
mod pairs;
mod parity;
mod progress;
mod report;
mod results;
mod roundtrip;
mod run_recipe;
mod schema;
mod search_flags;
mod signals;
mod train;
mod vectors;

use cli::{Cli, Command};

fn main() -> ExitCode {
    failure::install_panic_message();
    launch::end_with_launcher();
    // libtorch_cuda registers its kernels when it is loaded, so this comes before the first tensor
    torch_ext::load_cuda();
    let cli = Cli::parse();
    progress::init_logging(cli.verbose, cli.quiet);
    progress::show_fetches();
    // libtorch counts the machine's cores; a container may have fewer
    let most = std::thread::available_parallelism().map_or(i32::MAX, |most| most.get() as i32);
    match cli.threads {
        Some(threads) => tch::set_num_threads(threads),
        None if tch::get_num_threads() > most => tch::set_num_threads(most),
        None => {}
    }
    let done = match &cli.command {
        Command::Doctor(args) => return doctor::run(args).unwrap_or_else(|error| failure::report(&error)),
        Command::Launch(args) => return launch::run(args).unwrap_or_else(|error| failure::report(&error)),
        Command::Encode(args) => encode::run(args),
        Command::Pairs(args) => pairs::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval_verb::run(args),
        Command::Report(args) => report::run(args),
        Command::Curve(args) => curve::run(args),
        Command::Parity(args) => parity::run(args),
        Command::Bundle(args) => bundle::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Export(args) => export::run(args),
        Command::Invert(args) => invert::run(args),
        Command::Roundtrip(args) => roundtrip::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
