//! `bench decode`: vectors -> texts, timed.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use models::generate::graphed::StaticRows;
use models::{DeviceChoice, Dtype, GenerateOptions, Inverted, Inverter, Strategy};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::machine::PeakMemory;
use crate::failure::ArgumentError;
use crate::progress::Progress;
use crate::{output, vectors};

/// Vectors at least that warm the machine up before the clock starts; a whole batch, so that the first that is timed meets
/// nothing new.
const WARM_UP: i64 = 64;

/// Flags of `bench decode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella bench decode captions-decoder
  inverse-stella bench decode captions-decoder --vectors vectors.npy --batch 16,64,256 --check-f32
  inverse-stella bench decode captions-decoder --vectors vectors.npy --beam 4 --dtype f32 --json
  inverse-stella bench decode captions-decoder --batch 1,64 --device cuda --graphs")]
pub(crate) struct BenchDecodeArgs {
    /// A run, a checkpoint or an export
    #[arg(value_name = "DECODER")]
    decoder: PathBuf,
    /// .npy of shape (rows, numbers) or JSON lines; default: random directions, whose texts seldom end early
    #[arg(long, value_name = "X.npy")]
    vectors: Option<PathBuf>,
    /// Only the first so many vectors, or so many random ones
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    n: u32,
    /// The longest text, in the decoder's tokens
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Texts decoded at a time; several, to see which suits
    #[arg(long, value_name = "N,N,...", default_value = "64", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: Vec<u32>,
    /// Beam search with this many hypotheses a text (1 = greedy)
    #[arg(long, value_name = "WIDTH", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    beam: u32,
    /// Greedy on tensors that stay in place, each step a CUDA graph; on a CPU the same steps, nothing recorded
    #[arg(long)]
    graphs: bool,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// auto (bf16 where the hardware has it), f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    dtype: Dtype,
    /// Time each batch so many times, in turn, and tell the fastest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Decode in f32 too, and tell the share of texts that are the same
    #[arg(long)]
    check_f32: bool,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// The speed at one batch.
#[derive(Debug, Clone, Serialize)]
struct BatchSpeed {
    batch: u32,
    texts_per_s: f64,
    /// Of the tokens of the texts, their ends included and what was computed for nobody not.
    tokens_per_s: f64,
    /// From vectors to texts, detokenizing included.
    seconds: f64,
    tokens: usize,
    /// Share of the texts that ended before the limit, in percent.
    ended_percent: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    equal_to_f32_percent: Option<f64>,
}

/// What was measured: the best batch, and each of them where there are several.
#[derive(Debug, Serialize)]
struct DecodeSpeed {
    #[serde(flatten)]
    best: BatchSpeed,
    n: usize,
    beams: u32,
    /// How steps were computed: `usual`, or with `--graphs` `graphs` on a GPU and `static` on a CPU.
    steps: &'static str,
    max_tokens: u32,
    dtype: &'static str,
    device: String,
    threads: i32,
    parameters: i64,
    #[serde(flatten)]
    memory: PeakMemory,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    batches: Vec<BatchSpeed>,
}

/// Who decodes at one batch.
enum Way<'a> {
    Usual(GenerateOptions),
    Rows(Box<StaticRows<'a>>),
}

impl<'a> Way<'a> {
    /// Warmed up, and with its graphs recorded.
    fn new(args: &BenchDecodeArgs, inverter: &'a Inverter, batch: u32, v_ND: &Tensor) -> Result<Self> {
        let count = v_ND.size()[0];
        let mut way = if args.graphs {
            let record = inverter.decoder.device().is_cuda();
            let rows = i64::from(batch).min(count);
            Self::Rows(Box::new(StaticRows::new(&inverter.decoder, rows, args.max_tokens.into(), record)?))
        } else {
            Self::Usual(options(args, batch))
        };
        way.decode(inverter, &v_ND.f_narrow(0, 0, count.min(WARM_UP.max(batch.into())))?)?;
        Ok(way)
    }

    fn decode(&mut self, inverter: &Inverter, v_ND: &Tensor) -> Result<Vec<Inverted>> {
        Ok(match self {
            Self::Usual(options) => inverter.invert(v_ND, options)?,
            Self::Rows(rows) => inverter.invert_by_rows(rows, v_ND)?,
        })
    }

    fn steps(&self) -> &'static str {
        match self {
            Self::Usual(_) => "usual",
            Self::Rows(rows) if rows.has_graphs() => "graphs",
            Self::Rows(_) => "static",
        }
    }
}

/// Times the decoder.
pub(crate) fn run(args: &BenchDecodeArgs) -> Result<()> {
    if args.graphs && args.beam > 1 {
        let what = format!("--graphs decodes greedily, not with --beam {}", args.beam);
        return Err(ArgumentError::with_hint(what, "leave out one of the two").into());
    }
    let inverter = Inverter::open(&args.decoder, args.device, args.dtype)?;
    let longest = inverter.config.max_tokens;
    if i64::from(args.max_tokens) > longest {
        let what = format!("--max-tokens {}: this decoder writes 1 to {longest} tokens", args.max_tokens);
        return Err(ArgumentError::with_hint(what, format!("give --max-tokens {longest} or less")).into());
    }
    let v_ND = given_or_random(args, &inverter)?;
    let way_of = |&batch: &u32| Way::new(args, &inverter, batch, &v_ND);
    let mut ways: Vec<Way<'_>> = args.batch.iter().map(way_of).collect::<Result<_>>()?;
    let best_of = timed(args, &inverter, &mut ways, &v_ND)?;
    let memory = PeakMemory::of(inverter.decoder.device());
    let f32_texts = if args.check_f32 { Some(in_f32(args, &v_ND)?) } else { None };
    let batches: Vec<BatchSpeed> = args
        .batch
        .iter()
        .zip(&best_of)
        .map(|(&batch, (seconds, texts))| measured(batch, *seconds, texts, f32_texts.as_deref()))
        .collect();
    tell(args, &inverter, ways.first().map_or("usual", Way::steps), memory, batches)
}

/// The fastest of the runs of each way, in seconds, and its texts.
fn timed(
    args: &BenchDecodeArgs,
    inverter: &Inverter,
    ways: &mut [Way<'_>],
    v_ND: &Tensor,
) -> Result<Vec<(f64, Vec<Inverted>)>> {
    let mut best_of: Vec<(f64, Vec<Inverted>)> = vec![(f64::INFINITY, Vec::new()); ways.len()];
    let rows = v_ND.size()[0] as u64;
    let mut done = 0;
    let total = rows * ways.len() as u64 * u64::from(args.runs);
    let mut progress = Progress::start("decoding", "texts", Some(total));
    for _ in 0..args.runs {
        for (way, best) in ways.iter_mut().zip(&mut best_of) {
            let started = Instant::now();
            let texts = way.decode(inverter, v_ND)?;
            let seconds = started.elapsed().as_secs_f64();
            if seconds < best.0 {
                *best = (seconds, texts);
            }
            done += rows;
            progress.at(done, "");
        }
    }
    progress.finish();
    Ok(best_of)
}

/// In f32 at the first batch.
fn in_f32(args: &BenchDecodeArgs, v_ND: &Tensor) -> Result<Vec<Inverted>> {
    let inverter = Inverter::open(&args.decoder, args.device, Dtype::F32)?;
    let batch = args.batch.first().copied().unwrap_or(1);
    Ok(inverter.invert(v_ND, &options(args, batch))?)
}

fn options(args: &BenchDecodeArgs, batch: u32) -> GenerateOptions {
    let (width, max_tokens) = (args.beam as usize, args.max_tokens as usize);
    let strategy = if width > 1 { Strategy::Beam { width, length_penalty: 1.0 } } else { Strategy::Greedy };
    let batch = batch as usize * width;
    GenerateOptions { strategy, max_tokens, batch, ..GenerateOptions::default() }
}

/// The vectors of the file, which must be of the decoder's space, or random ones of length 1.
fn given_or_random(args: &BenchDecodeArgs, inverter: &Inverter) -> Result<Tensor> {
    let dim = inverter.space.dim;
    let Some(path) = &args.vectors else {
        tch::manual_seed(0);
        let v_ND = Tensor::f_randn([args.n.into(), dim as i64], (Kind::Float, Device::Cpu))?;
        let length_N1 = v_ND.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?;
        return Ok(v_ND.f_div(&length_N1)?);
    };
    let given = vectors::read(path, dim)?;
    if let Some(space) = &given.space {
        space.require_within(&inverter.space, &path.display().to_string(), "the decoder")?;
    }
    require_any(path, &given.rows_ND)?;
    Ok(given.rows_ND.f_narrow(0, 0, given.rows_ND.size()[0].min(args.n.into()))?)
}

fn require_any(path: &Path, rows_ND: &Tensor) -> Result<()> {
    if rows_ND.size()[0] > 0 {
        return Ok(());
    }
    let what = format!("{}: there is no vector in it", path.display());
    Err(crate::failure::WorldError::with_hint(what, "encode texts to it: inverse-stella encode --help")
        .into())
}

fn measured(batch: u32, seconds: f64, texts: &[Inverted], f32_texts: Option<&[Inverted]>) -> BatchSpeed {
    let percent = |count: usize| 100.0 * count as f64 / texts.len() as f64;
    let tokens: usize = texts.iter().map(|text| text.tokens + usize::from(text.finished)).sum();
    let equal = |others: &[Inverted]| texts.iter().zip(others).filter(|(a, b)| a.text == b.text).count();
    BatchSpeed {
        batch,
        texts_per_s: texts.len() as f64 / seconds,
        tokens_per_s: tokens as f64 / seconds,
        seconds,
        tokens,
        ended_percent: percent(texts.iter().filter(|text| text.finished).count()),
        equal_to_f32_percent: f32_texts.map(|others| percent(equal(others))),
    }
}

fn tell(
    args: &BenchDecodeArgs,
    inverter: &Inverter,
    steps: &'static str,
    memory: PeakMemory,
    batches: Vec<BatchSpeed>,
) -> Result<()> {
    let faster = |a: &&BatchSpeed, b: &&BatchSpeed| a.texts_per_s.total_cmp(&b.texts_per_s);
    let Some(best) = batches.iter().max_by(faster).cloned() else { return Ok(()) };
    let decoder = &inverter.decoder;
    let speed = DecodeSpeed {
        n: (best.texts_per_s * best.seconds).round() as usize,
        beams: args.beam,
        steps,
        max_tokens: args.max_tokens,
        dtype: models::device::kind_name(decoder.kind()),
        device: models::device::device_name(decoder.device()),
        threads: tch::get_num_threads(),
        parameters: inverter.store.numel(),
        memory,
        batches: if batches.len() > 1 { batches.clone() } else { Vec::new() },
        best,
    };
    if args.json {
        return output::json(&speed);
    }
    let DecodeSpeed { dtype, device, threads, .. } = &speed;
    output::write(|out| {
        writeln!(out, "decoder   {} ({} parameters)", args.decoder.display(), speed.parameters)?;
        writeln!(out, "computed  {dtype} on {device} with {threads} threads")?;
        match steps {
            "graphs" => writeln!(out, "steps     CUDA graphs")?,
            "static" => {
                writeln!(out, "steps     on static tensors, without graphs: the decoder is on the CPU")?
            }
            _ => {}
        }
        let how = if args.beam > 1 { format!("{} beams", args.beam) } else { "greedy".to_owned() };
        writeln!(
            out,
            "texts     {}, {how}, of {:.1} tokens on average and at most {}, {:.1} % ended",
            speed.n,
            speed.best.tokens as f64 / speed.n as f64,
            args.max_tokens,
            speed.best.ended_percent
        )?;
        for at in &batches {
            let equal = at.equal_to_f32_percent.map(|share| format!(", {share:.1} % equal to f32"));
            writeln!(
                out,
                "batch {:<5} {:.1} texts/s, {:.0} tokens/s ({:.2} s){}",
                at.batch,
                at.texts_per_s,
                at.tokens_per_s,
                at.seconds,
                equal.unwrap_or_default()
            )?;
        }
        if batches.len() > 1 {
            writeln!(out, "best      batch {}", speed.best.batch)?;
        }
        writeln!(out, "memory    {memory}")
    })
}
