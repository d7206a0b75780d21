//! `bench stella`: what encoding with STELLA 1.5B costs here, without its weights.
#![allow(non_snake_case)]

use std::time::Instant;

use anyhow::Result;
use clap::Args;
use models::encoder::Untrained;
use models::{DeviceChoice, Dtype};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use super::machine::{PeakMemory, encoding_line, matmul_gflops, products_line};
use crate::output;
use crate::progress::Progress;

/// Flags of `bench stella`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella bench stella
  inverse-stella bench stella --length 128 --batch-tokens 65536 --batches 20 --json
  inverse-stella bench stella --layers 2 --dtype f32        # quick, and no figure of STELLA's")]
pub(crate) struct BenchStellaArgs {
    /// Tokens in a text
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = size())]
    length: i64,
    /// Tokens in a batch
    #[arg(long, value_name = "N", default_value_t = 16384, value_parser = size())]
    batch_tokens: i64,
    /// Batches on the clock; one before them is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = size())]
    batches: i64,
    /// Layers; other than the default it is another model
    #[arg(long, value_name = "N", default_value_t = Untrained::LAYERS, value_parser = size())]
    layers: i64,
    /// Words of the vocabulary
    #[arg(long, value_name = "N", default_value_t = Untrained::WORDS, value_parser = size())]
    words: i64,
    /// Numbers to compute with: auto (bf16 where the hardware has it), f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "auto")]
    dtype: Dtype,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

fn size() -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..1 << 24)
}

/// What was measured.
#[derive(Debug, Serialize)]
struct StellaSpeed {
    texts_per_s: f64,
    tokens_per_s: f64,
    /// Numbers in all weights.
    parameters: i64,
    layers: i64,
    /// Tokens in a text.
    length: i64,
    /// Texts in a batch.
    batch: i64,
    n: i64,
    seconds: f64,
    dtype: &'static str,
    device: String,
    threads: i32,
    /// Of the matrix products, in billions a second.
    achieved_gflops: f64,
    /// Of a large matrix product in the same process and format: the ceiling.
    matmul_gflops: f64,
    /// Making the weights.
    load_seconds: f64,
    #[serde(flatten)]
    memory: PeakMemory,
}

/// Times an encoder of random weights on random tokens.
pub(crate) fn run(args: &BenchStellaArgs) -> Result<()> {
    let device = args.device.resolve()?;
    let kind = args.dtype.resolve(device);
    let started = Instant::now();
    let encoder = Untrained::stella(args.layers, args.words, device, kind)?;
    let load_seconds = started.elapsed().as_secs_f64();
    let batch = (args.batch_tokens / args.length).max(1);
    let ids_BT = Tensor::f_randint(args.words, [batch, args.length], (Kind::Int64, Device::Cpu))?;
    let ids_BT = ids_BT.f_to_device(device)?;
    let _ = encoder.embed(&ids_BT)?;
    let mut progress = Progress::start("encoding", "batches", Some(args.batches as u64));
    let started = Instant::now();
    for done in 1..=args.batches {
        let _ = encoder.embed(&ids_BT)?;
        progress.at(done as u64, "");
    }
    let seconds = started.elapsed().as_secs_f64();
    progress.finish();
    let n = batch * args.batches;
    let speed = StellaSpeed {
        texts_per_s: n as f64 / seconds,
        tokens_per_s: (n * args.length) as f64 / seconds,
        parameters: encoder.parameters(),
        layers: args.layers,
        length: args.length,
        batch,
        n,
        seconds,
        dtype: models::device::kind_name(kind),
        device: models::device::device_name(device),
        threads: tch::get_num_threads(),
        achieved_gflops: n as f64 * encoder.flops(args.length as usize) / seconds / 1e9,
        memory: PeakMemory::of(device),
        matmul_gflops: matmul_gflops(kind, device)?,
        load_seconds,
    };
    if args.json { output::json(&speed) } else { tell(&speed) }
}

fn tell(speed: &StellaSpeed) -> Result<()> {
    output::write(|out| {
        writeln!(
            out,
            "encoder   {:.0} M random parameters, {} layers",
            speed.parameters as f64 / 1e6,
            speed.layers
        )?;
        writeln!(out, "computed  {} on {} with {} threads", speed.dtype, speed.device, speed.threads)?;
        writeln!(out, "texts     {} of {} tokens, {} in a batch", speed.n, speed.length, speed.batch)?;
        writeln!(out, "{}", encoding_line(speed.texts_per_s, speed.tokens_per_s, speed.seconds))?;
        writeln!(out, "{}", products_line(speed.achieved_gflops, speed.matmul_gflops))?;
        writeln!(out, "memory    {}", speed.memory)
    })
}
