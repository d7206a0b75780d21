//! `bench train`: whole training steps, timed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use models::{DeviceChoice, Dtype};
use serde::Serialize;
use tch::{Device, Kind};
use torch_ext::World;
use training::profile::{Profile, Spent};
use training::{Shapes, SpeedOptions, Timing, speed};

use super::machine::{PeakMemory, copy_gb_per_s, matmul_gflops, products_line};
use crate::failure::ArgumentError;
use crate::output;

/// Flags of `bench train`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella bench train --steps 30
  inverse-stella bench train --steps 30 --dtype f32 --layers 4 --batch 128 --json
  inverse-stella bench train --recipe configs/captions.toml --steps 50 --json
  inverse-stella bench train --profile=trace.json        # for chrome://tracing or ui.perfetto.dev
  inverse-stella launch --processes 2 -- bench train --recipe configs/captions.toml")]
pub(crate) struct BenchTrainArgs {
    /// Train the decoder of a recipe on its pairs, in place of random tokens; nothing is written. Several processes
    /// share the steps, and one tells
    #[arg(long, value_name = "FILE.toml")]
    recipe: Option<PathBuf>,
    /// Change one value of the recipe (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "recipe")]
    sets: Vec<String>,
    /// Steps on the clock
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before the clock starts
    #[arg(long, value_name = "N", default_value_t = 5)]
    warmup: u32,
    /// What updates the matrices [a recipe has its own]
    #[arg(long, value_name = "NAME", value_enum, default_value_t = OptimizerChoice::Adamw, conflicts_with = "recipe")]
    optimizer: OptimizerChoice,
    /// Look into three further steps: what their time goes into, by operation and by kernel of the GPU; with =FILE, the
    /// trace goes there
    #[arg(long, value_name = "FILE.json", num_args = 0..=1, require_equals = true)]
    #[expect(clippy::option_option, reason = "the flag, and the file with it")]
    profile: Option<Option<PathBuf>>,
    #[command(flatten)]
    shapes: ShapeFlags,
    /// Numbers to compute with: auto (bf16 where the hardware has it), f32, bf16 or f16 [a recipe has its own]
    #[arg(long, value_name = "DTYPE", default_value = "auto", conflicts_with = "recipe")]
    dtype: Dtype,
    /// auto, cpu, cuda or cuda:N [a recipe has its own]
    #[arg(long, value_name = "DEVICE", default_value = "auto", conflicts_with = "recipe")]
    device: DeviceChoice,
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Optimizers, as recipes call them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OptimizerChoice {
    Adamw,
    Muon,
}

/// Shapes of what is trained without a recipe.
#[derive(Debug, Clone, Copy, Args)]
struct ShapeFlags {
    /// Numbers in a vector
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = size(), conflicts_with = "recipe")]
    dim: i64,
    /// Width of the decoder
    #[arg(long, value_name = "N", default_value_t = 384, value_parser = size(), conflicts_with = "recipe")]
    hidden: i64,
    /// Blocks
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = size(), conflicts_with = "recipe")]
    layers: i64,
    /// Heads of attention
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = size(), conflicts_with = "recipe")]
    heads: i64,
    /// Width of the feed-forward layers
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = size(), conflicts_with = "recipe")]
    ffn: i64,
    /// Tokens in the vocabulary, at least 3
    #[arg(long, value_name = "N", default_value_t = 13312, value_parser = clap::value_parser!(i64).range(3..1 << 31),
          conflicts_with = "recipe")]
    vocab: i64,
    /// Positions of the prefix
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = size(), conflicts_with = "recipe")]
    prefix: i64,
    /// Texts in a batch
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = size(), conflicts_with = "recipe")]
    batch: i64,
    /// Target tokens in a text
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = size(), conflicts_with = "recipe")]
    length: i64,
}

impl BenchTrainArgs {
    /// Whether several processes share the work.
    pub(crate) fn takes_part(&self) -> bool {
        self.recipe.is_some()
    }
}

fn size() -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(1..1 << 20)
}

impl ShapeFlags {
    fn shapes(self) -> Result<Shapes> {
        let Self { dim, hidden, layers, heads, ffn, vocab, prefix, batch, length } = self;
        if hidden % (2 * heads) != 0 {
            return Err(ArgumentError::with_hint(
                format!("--hidden {hidden} makes no {heads} heads of an even width"),
                format!("take a multiple of {} for --hidden, or another number of --heads", 2 * heads),
            )
            .into());
        }
        Ok(Shapes { dim, hidden, layers, heads, ffn, vocab, prefix, batch, length })
    }
}

/// What is printed.
#[derive(Debug, Serialize)]
struct TrainSpeed {
    #[serde(flatten)]
    timing: Timing,
    /// Of a large matrix product in one of the processes and the same format: the ceiling of each.
    matmul_gflops: f64,
    /// Read and written by a copy within the device's memory.
    copy_gb_per_s: f64,
    dtype: &'static str,
    device: String,
    threads: i32,
    /// Whether a GPU's element-wise work is done by our kernels.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_kernels: Option<String>,
    #[serde(flatten)]
    memory: PeakMemory,
}

/// Times training steps.
pub(crate) fn run(args: &BenchTrainArgs) -> Result<()> {
    if let Some(Some(trace)) = &args.profile {
        output::require_folder(trace)?;
    }
    let options = SpeedOptions {
        steps: args.steps as usize,
        warmup: args.warmup as usize,
        muon: args.optimizer == OptimizerChoice::Muon,
        profile: args.profile.is_some(),
        trace: args.profile.clone().flatten(),
    };
    let (timing, device, kind) = match &args.recipe {
        Some(path) => {
            let recipe = training::recipe::load(path, &args.sets)?.recipe;
            let patience = Duration::from_secs_f64(recipe.distributed.timeout_seconds);
            let world = Arc::new(World::from_env(patience)?);
            let found = speed::of_recipe(&recipe, &options, &world)
                .inspect_err(|error| world.tell_failure(&error.to_string()))?;
            if !world.is_first() {
                return Ok(());
            }
            found
        }
        None => {
            let device = args.device.resolve()?;
            let kind = args.dtype.resolve(device);
            (speed::of_shapes(args.shapes.shapes()?, device, kind, &options)?, device, kind)
        }
    };
    let found = describe(timing, device, kind)?;
    if args.json { output::json(&found) } else { tell(&found) }
}

fn describe(timing: Timing, device: Device, kind: Kind) -> Result<TrainSpeed> {
    Ok(TrainSpeed {
        timing,
        memory: PeakMemory::of(device),
        matmul_gflops: matmul_gflops(kind, device)?,
        copy_gb_per_s: copy_gb_per_s(device)?,
        dtype: models::device::kind_name(kind),
        device: models::device::device_name(device),
        threads: tch::get_num_threads(),
        gpu_kernels: models::gpu_kernels(device).map(ToString::to_string),
    })
}

fn tell(found: &TrainSpeed) -> Result<()> {
    let TrainSpeed { timing, matmul_gflops, copy_gb_per_s, dtype, device, threads, gpu_kernels, memory } =
        found;
    let speed = &timing.speed;
    output::write(|out| {
        writeln!(out, "decoder   {:.1} M parameters", speed.parameters as f64 / 1e6)?;
        let each =
            if speed.processes > 1 { format!(", {} processes", speed.processes) } else { String::new() };
        writeln!(out, "computed  {dtype} on {device} with {threads} threads{each}")?;
        writeln!(
            out,
            "speed     {:.0} tokens/s, {:.1} ms a step of {:.0} tokens ({} steps)",
            speed.tokens_per_s,
            speed.ms_per_step,
            speed.tokens as f64 / speed.steps as f64,
            speed.steps
        )?;
        writeln!(
            out,
            "parts     gradients {:.1} ms, update {:.1} ms, {:.1} % waiting for data, {:.1} % padding",
            speed.gradients_ms, speed.update_ms, speed.data_wait_percent, speed.padding_percent
        )?;
        writeln!(out, "{}", products_line(speed.achieved_gflops, matmul_gflops * speed.processes as f64))?;
        writeln!(out, "copies    {copy_gb_per_s:.1} GB/s read and written within the memory")?;
        if let Some(kernels) = gpu_kernels {
            writeln!(out, "kernels   {kernels}")?;
        }
        writeln!(out, "memory    {memory}, loss {:.4} in the end", speed.loss)?;
        timing.profile.as_ref().map_or(Ok(()), |profile| tell_profile(out, profile))
    })
}

fn tell_profile(out: &mut dyn Write, profile: &Profile) -> std::io::Result<()> {
    write!(out, "\nprofile   {} steps, {:.1} ms each while looked into", profile.steps, profile.ms_per_step)?;
    match profile.device_busy_percent {
        Some(percent) => writeln!(out, "; the GPU was busy {percent:.1} % of that")?,
        None => writeln!(out)?,
    }
    for (what, rows) in [("kernels", &profile.kernels), ("operations", &profile.operations)] {
        if !rows.is_empty() {
            writeln!(out, "\n{:>9} {:>7} {:>7}  {what}", "ms a step", "%", "calls")?;
        }
        for Spent { name, calls, ms, percent } in rows {
            // kernels are named by their templates
            let name: String = name.chars().take(90).collect();
            writeln!(out, "{ms:>9.3} {percent:>7.1} {calls:>7.1}  {name}")?;
        }
    }
    Ok(())
}
