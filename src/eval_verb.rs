//! `eval`: texts -> vectors -> texts, scored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use data::Split;
use data::pairs::PairSet;
use eval::suites::{Evaluation, SuitesConfig};
use eval::{Invert, RoundTrip, RoundTripOptions, Searching, Spread};
use models::{Embed as _, Encoder, Inverter};
use torch_ext::World;

use crate::decoding::DecodingArgs;
use crate::encoder_source::{self, EncoderArgs};
use crate::eval_suites::{self, Judged, SuiteArgs};
use crate::failure::ArgumentError;
use crate::output;
use crate::progress::Progress;
use crate::search_flags::SearchArgs;

/// Time that processes have to find each other, models loaded, and for a batch of each.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// Flags of `eval`.
#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("what").required(true).multiple(true).args(["texts", "pairs", "suite"])),
    after_help = "\
Examples:
  inverse-stella eval runs/captions --texts held-out.txt --limit 512
  inverse-stella eval runs/captions --pairs runs/captions-pairs --split test --json
  inverse-stella eval runs/stella --pairs runs/stella-pairs --prompt s2p
  inverse-stella eval captions-decoder --texts held-out.txt --beam 4 --out beam-4.json
  inverse-stella eval captions-decoder --texts held-out.txt --budget 32
  inverse-stella eval captions-decoder --texts held-out.txt --samples 16 --rerank
  inverse-stella eval runs/captions --suite all --texts held-out.txt --config configs/eval.toml --out result.json
  inverse-stella launch --processes 4 -- eval runs/captions --texts held-out.txt

The numbers of --json are explained in docs/eval-schema.md.")]
pub(crate) struct EvalArgs {
    /// A run, a checkpoint or an export
    #[arg(value_name = "DECODER")]
    decoder: PathBuf,
    /// Texts to take there and back, one a line (.gz, .xz and .zst too)
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// A pair set, whose vectors (those under --prompt) are taken as they are; by suites its texts
    #[arg(long, value_name = "DIR", conflicts_with = "texts")]
    pairs: Option<PathBuf>,
    /// Which part of the pair set: train, dev or test
    #[arg(long, value_name = "SPLIT", default_value = "test", conflicts_with = "texts")]
    split: Split,
    /// Only the first N texts; the result is marked as a trial
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Best, worst and random texts to show, each so many
    #[arg(long, value_name = "N", default_value_t = 5)]
    show: usize,
    /// Resamples behind each 95 % interval
    #[arg(long, value_name = "N", default_value_t = 1000)]
    bootstrap: usize,
    /// One JSON object on stdout instead of the table
    #[arg(long)]
    json: bool,
    /// Write the JSON object to a file too
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write every row (text, decoded text, its scores) as JSON lines
    #[arg(long, value_name = "FILE.jsonl")]
    rows: Option<PathBuf>,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    search: SearchArgs,
    #[command(flatten)]
    suites: SuiteArgs,
}

/// Takes the texts there and back, and scores what came back.
pub(crate) fn run(args: &EvalArgs) -> Result<()> {
    if args.limit == Some(0) {
        return Err(ArgumentError::new("--limit 0: nothing to evaluate").into());
    }
    for path in [&args.out, &args.rows].into_iter().flatten() {
        output::require_folder(path)?;
    }
    // what is cheap to miss is missed first
    let config = args.suites.config()?;
    let texts = args.texts.as_deref().map(read_texts).transpose()?;
    // before the models are opened: those that could open them hear of one that could not
    let world = World::from_env(TIMEOUT)?;
    evaluate(args, &config, texts, &world).inspect_err(|error| world.tell_failure(&format!("{error:#}")))
}

fn evaluate(args: &EvalArgs, config: &SuitesConfig, texts: Option<Vec<String>>, world: &World) -> Result<()> {
    let device = args.decoding.device;
    let inverter = Inverter::open(&args.decoder, device, args.decoding.dtype)?;
    let encoder = encoder_source::open_for(&inverter, &args.decoder, &args.encoder, device)?;
    let options = RoundTripOptions {
        generate: args.decoding.options(&inverter.config)?,
        limit: args.limit,
        samples: args.show,
        bootstrap: args.bootstrap,
        ..RoundTripOptions::default()
    };
    let searching = match args.search.options(&args.decoding, &options.generate, &inverter)? {
        Some(search) => Some(Searching::new(&inverter, &encoder, search)?),
        None => args.decoding.check_without_search().map(|()| None)?,
    };
    let decoder: &dyn Invert = match &searching {
        Some(searching) => searching,
        None => &inverter,
    };
    let mut bar: Option<(String, Progress)> = None;
    let mut tell = |stage: &str, done: usize, total: usize| {
        if !world.is_first() {
            return;
        }
        if bar.as_ref().is_none_or(|(at, _)| at != stage) {
            if let Some((_, bar)) = bar.take() {
                bar.finish();
            }
            bar = Some((stage.to_owned(), Progress::start(stage, "texts", Some(total as u64))));
        }
        if let Some((_, bar)) = &mut bar {
            bar.at(done as u64, "");
        }
    };
    if args.suites.wanted() {
        let given = match (texts, &args.pairs) {
            (Some(texts), _) => Given { texts, ..Given::default() },
            (None, Some(dir)) => Given::of_pairs(dir, args.split, &encoder)?,
            (None, None) => Given::default(),
        };
        let judged = Judged {
            decoder,
            inverter: &inverter,
            encoder: &encoder,
            world,
            config,
            texts: &given.texts,
            numbers: given.numbers.as_deref(),
            domains: given.domains.as_deref(),
            options: &options,
            device,
            encoder_dtype: args.encoder.encoder_dtype,
            kept: args.out.as_deref().map(kept_beside),
        };
        let evaluation = args.suites.run(&judged, &mut tell)?;
        if let Some((_, bar)) = bar {
            bar.finish();
        }
        return if world.is_first() { tell_evaluation(args, &evaluation) } else { Ok(()) };
    }
    let (inverter, encoder) = (Spread::new(decoder, world), Spread::new(&encoder, world));
    let result = match (texts, &args.pairs) {
        (Some(texts), _) => eval::round_trip(&inverter, &encoder, &texts, None, &options, &mut tell)?,
        (None, Some(dir)) => {
            let pairs = PairSet::open(dir)?;
            eval::round_trip_pairs(&inverter, &encoder, &pairs, args.split, &options, &mut tell)?
        }
        (None, None) => return Err(ArgumentError::new("--texts or --pairs must be given").into()),
    };
    if let Some((_, bar)) = bar {
        bar.finish();
    }
    if !world.is_first() {
        return Ok(());
    }
    write_files(args, &result)?;
    if args.json {
        return output::json(&result);
    }
    output::write(|out| write!(out, "{}", eval::table(&result)))
}

/// Texts for the suites that need some of their own.
#[derive(Default)]
struct Given {
    texts: Vec<String>,
    /// Their rows in the pair set that they are of.
    numbers: Option<Vec<usize>>,
    domains: Option<Vec<String>>,
}

impl Given {
    /// Those of a pair set, under the encoder's prompt.
    fn of_pairs(dir: &Path, split: Split, encoder: &Encoder) -> Result<Self> {
        let pairs = PairSet::open(dir)?;
        let rows = pairs.indices_under(split, &encoder.space().prompt)?;
        let numbers: Vec<usize> = rows.iter().map(|&row| row as usize).collect();
        if numbers.is_empty() {
            return Err(eval::Error::NoTexts { what: format!("split {split} of {}", dir.display()) }.into());
        }
        Ok(Self {
            texts: numbers.iter().map(|&row| pairs.text(row).to_owned()).collect(),
            domains: Some(numbers.iter().map(|&row| pairs.domain(row).to_owned()).collect()),
            numbers: Some(numbers),
        })
    }
}

/// The lines of a file that holds some.
fn read_texts(path: &Path) -> Result<Vec<String>> {
    let texts = data::read_lines(path)?;
    match texts.is_empty() {
        true => Err(eval::Error::NoTexts { what: path.display().to_string() }.into()),
        false => Ok(texts),
    }
}

/// Where the finished tasks of an interrupted evaluation are kept.
fn kept_beside(out: &Path) -> PathBuf {
    out.with_extension("kept.json")
}

fn tell_evaluation(args: &EvalArgs, evaluation: &Evaluation) -> Result<()> {
    if let Some(path) = &args.out {
        output::json_file(path, evaluation)?;
        // now that the whole is safe
        let kept = kept_beside(path);
        if kept.exists() {
            fs_err::remove_file(kept)?;
        }
    }
    match (&args.rows, &evaluation.reconstruction) {
        (Some(path), Some(result)) => {
            RoundTrip { rows: evaluation.rows.clone(), ..result.clone() }.write_rows(path)?;
        }
        (Some(_), None) => tracing::warn!("--rows: there are none without the suite reconstruction"),
        _ => {}
    }
    if args.json {
        return output::json(evaluation);
    }
    output::write(|out| write!(out, "{}", eval_suites::text(evaluation)))
}

/// The result and its rows where the caller wants them kept.
fn write_files(args: &EvalArgs, result: &RoundTrip) -> Result<()> {
    if let Some(path) = &args.out {
        output::json_file(path, result)?;
    }
    if let Some(path) = &args.rows {
        result.write_rows(path)?;
    }
    Ok(())
}
