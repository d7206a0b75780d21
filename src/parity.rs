//! `parity`: does a device compute what the CPU computes, and this machine what another one did?
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Weights, save_tensors};
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::failure::WorldError;
use crate::output;

/// Flags of `parity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella parity --device cuda
  inverse-stella parity --device cuda --encoder .venv/all-MiniLM-L6-v2 --json
  inverse-stella parity --device cpu --encoder encoder --write golden.safetensors     on one machine, and on the other
  inverse-stella parity --device cuda --encoder encoder --golden golden.safetensors

A small decoder of known random weights scores texts, takes a training step with AdamW and with Muon, and generates;
an encoder encodes 32 sentences. In f32 the device must agree with the CPU to rounding and token by token, in bf16 by
cosine; the CPU must agree with the golden file. The exit status is 1 where something does not.")]
pub(crate) struct ParityArgs {
    /// What is compared with the CPU: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// An encoder too: a sentence-transformers folder, or a hub name
    #[arg(long, value_name = "DIR|HUB")]
    encoder: Option<String>,
    /// What another machine's CPU computed, by --write
    #[arg(long, value_name = "FILE.safetensors")]
    golden: Option<PathBuf>,
    /// Write what this machine's CPU computes
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "golden")]
    write: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Numbers by name: [`training::trace`]'s, and `vectors` of the encoder.
type Trace = BTreeMap<String, Tensor>;

/// One thing that was compared.
#[derive(Debug, Serialize)]
struct Check {
    /// What with what.
    between: String,
    /// Of [`Trace`].
    what: String,
    /// How it is measured.
    measure: Measure,
    /// What was found, and the worst that is allowed.
    found: f64,
    allowed: f64,
    ok: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Measure {
    /// Largest difference over the largest number.
    LargestDifference,
    /// Lowest cosine of two rows.
    LowestCosine,
    /// Numbers that differ.
    Differing,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Parity {
    ok: bool,
    device: String,
    /// Whether our kernels for GPUs took part.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu_kernels: Option<String>,
    encoder: Option<String>,
    checks: Vec<Check>,
}

/// Compares and tells.
pub(crate) fn run(args: &ParityArgs) -> Result<()> {
    if let Some(path) = &args.write {
        output::require_folder(path)?;
    }
    let device = args.device.resolve()?;
    let trace = |device: Device, dtype: Dtype| trace(args.encoder.as_deref(), device, dtype);
    let cpu = trace(Device::Cpu, Dtype::F32)?;
    if let Some(path) = &args.write {
        let tensors: Vec<(String, Tensor)> = cpu.into_iter().collect();
        save_tensors(path, &tensors, &BTreeMap::new())?;
        return match args.json {
            true => output::json(&serde_json::json!({ "written": path })),
            false => output::write(|out| writeln!(out, "{}", path.display())),
        };
    }
    let mut checks = Vec::new();
    if let Some(path) = &args.golden {
        let golden = read(path, &cpu)?;
        checks.extend(compare("golden file and CPU, f32", &golden, &cpu, Kind::Float)?);
    }
    let name = models::device::device_name(device);
    if device != Device::Cpu {
        let there = trace(device, Dtype::F32)?;
        checks.extend(compare(&format!("CPU and {name}, f32"), &cpu, &there, Kind::Float)?);
    }
    let there = trace(device, Dtype::Bf16)?;
    checks.extend(compare(&format!("CPU in f32 and {name} in bf16"), &cpu, &there, Kind::BFloat16)?);
    let ok = checks.iter().all(|check| check.ok);
    let gpu_kernels = models::gpu_kernels(device).map(ToString::to_string);
    let found = Parity { ok, device: name, gpu_kernels, encoder: args.encoder.clone(), checks };
    if args.json {
        output::json(&found)?;
    } else {
        output::write(|out| out.write_all(table(&found).as_bytes()))?;
    }
    if found.ok {
        return Ok(());
    }
    let wrong = found.checks.iter().filter(|check| !check.ok).count();
    let message = format!("{wrong} of {} comparisons are farther off than they may be", found.checks.len());
    let hint = "what was computed on this device is not to be trusted before it is known why";
    Err(WorldError::with_hint(message, hint).into())
}

fn trace(encoder: Option<&str>, device: Device, dtype: Dtype) -> Result<Trace> {
    let mut found = training::trace::trace(device, dtype.resolve(device))?;
    if let Some(source) = encoder {
        let device = match device {
            Device::Cuda(index) => DeviceChoice::Cuda(index),
            _ => DeviceChoice::Cpu,
        };
        let encoder = Encoder::open(source, &EncoderOptions { device, dtype, ..EncoderOptions::default() })?;
        found.insert(
            "vectors".to_owned(),
            encoder.embed(&texts().iter().map(String::as_str).collect::<Vec<_>>())?,
        );
    }
    Ok(found)
}

/// Sentences of many lengths, numbers, other scripts and none of it.
fn texts() -> Vec<String> {
    let parts = ["Two dogs run along the beach", "3.14159 kg, or 7 lb", "naïve Σ 東京", "a", "(x + 1)^2 = y"];
    let text = |number: usize| {
        let chosen = (0..=number % 7).map(|at| parts[(number + at * at) % parts.len()]);
        chosen.collect::<Vec<_>>().join(if number.is_multiple_of(2) { ", " } else { " and then " })
    };
    (0..31).map(text).chain([String::new()]).collect()
}

fn read(path: &std::path::Path, cpu: &Trace) -> Result<Trace> {
    let weights = Weights::open(path)?;
    let of = |(name, tensor): (&String, &Tensor)| -> Result<(String, Tensor)> {
        let golden = weights.get(name, &tensor.size()).with_context(|| {
            format!("{} is not of this version, or was written with another encoder", path.display())
        })?;
        Ok((name.clone(), golden))
    };
    cpu.iter().map(of).collect()
}

/// Worst relative difference in f32: sums of another order, through a few layers.
const CLOSE: f64 = 1e-4;
/// Lowest cosine of what bf16 computes with what f32 does.
const ALIKE: f64 = 0.999;

fn compare(between: &str, expected: &Trace, found: &Trace, kind: Kind) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for (what, expected) in expected {
        let Some((measure, allowed)) = bound(what, kind) else { continue };
        let found = found.get(what).with_context(|| format!("{between}: `{what}` was not computed"))?;
        let found = measure.of(expected, found)?;
        let allowed = match measure {
            // two tokens may be equally likely but for rounding, and then all behind them differs: of one text
            Measure::Differing => allowed * expected.size().last().copied().unwrap_or(1) as f64,
            _ => allowed,
        };
        let ok = match measure {
            Measure::LowestCosine => found >= allowed,
            Measure::LargestDifference | Measure::Differing => found <= allowed,
        };
        let (between, what) = (between.to_owned(), what.clone());
        checks.push(Check { between, what, measure, found, allowed, ok });
    }
    Ok(checks)
}

/// How a part of a trace is compared, and the worst that is allowed, of texts how many; none for what may differ.
fn bound(what: &str, kind: Kind) -> Option<(Measure, f64)> {
    let exact = kind == Kind::Float;
    Some(match what {
        "texts" if exact => (Measure::Differing, 1.0),
        // one token that is written otherwise changes all behind it
        "texts" => return None,
        // a first step of AdamW is nearly the gradients' sign, which rounding turns wherever they are nearly 0
        "adamw" | "muon" if exact => (Measure::LowestCosine, ALIKE),
        "adamw" | "muon" => return None,
        "loss" if !exact => (Measure::LargestDifference, 1e-2),
        // over all weights, of which many hardly have a gradient
        "gradients" if !exact => (Measure::LowestCosine, 0.98),
        _ if exact => (Measure::LargestDifference, CLOSE),
        _ => (Measure::LowestCosine, ALIKE),
    })
}

impl Measure {
    /// NaN where a number is none, which no bound allows.
    fn of(self, expected: &Tensor, found: &Tensor) -> Result<f64> {
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        let (expected, found) = (double(expected)?, double(found)?);
        let width = expected.size().last().copied().unwrap_or(1);
        let rows = |tensor: &Tensor| tensor.f_reshape([-1, width]);
        Ok(match self {
            Measure::LargestDifference => {
                let largest = expected.f_abs()?.f_max()?.f_double_value(&[])?.max(1e-30);
                expected.f_sub(&found)?.f_abs()?.f_max()?.f_double_value(&[])? / largest
            }
            Measure::LowestCosine => {
                let (expected, found) = (rows(&expected)?, rows(&found)?);
                // a text of no tokens has no direction on either side
                let empty_N =
                    expected.f_abs()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?.f_eq(0.0)?;
                let cosine_N = Tensor::f_cosine_similarity(&expected, &found, 1, 1e-30)?;
                cosine_N.f_masked_fill(&empty_N, 1.0)?.f_min()?.f_double_value(&[])?
            }
            Measure::Differing => expected.f_ne_tensor(&found)?.f_sum(Kind::Double)?.f_double_value(&[])?,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Measure::LargestDifference => "largest difference",
            Measure::LowestCosine => "lowest cosine",
            Measure::Differing => "tokens that differ",
        }
    }
}

fn table(found: &Parity) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["", "between", "what", "measure", "found", "allowed"]);
    for check in &found.checks {
        let number = |value: f64| match check.measure {
            Measure::LargestDifference => format!("{value:.1e}"),
            Measure::LowestCosine => format!("{value:.6}"),
            Measure::Differing => format!("{value}"),
        };
        table.add_row([
            if check.ok { "ok" } else { "WRONG" }.to_owned(),
            check.between.clone(),
            check.what.clone(),
            check.measure.name().to_owned(),
            number(check.found),
            number(check.allowed),
        ]);
    }
    table.column_iter_mut().skip(4).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    let kernels =
        found.gpu_kernels.as_ref().map_or_else(String::new, |said| format!("our kernels for GPUs: {said}\n"));
    format!("{}\n{kernels}", table.trim_fmt())
}
