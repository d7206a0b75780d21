//! `export`: a run -> the folder that a service or Hugging Face transformers loads.
#![allow(non_snake_case)] // shapes in names: N rows, D numbers

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use data::Split;
use data::pairs::PairSet;
use eval::RoundTrip;
use models::{DeviceChoice, Dtype, ExportOptions, Inverter, StartedFrom};
use tch::{Device, Kind, Tensor};
use training::Recipe;

use crate::{card, output, results, run_recipe};

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
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    dtype: Dtype,
    /// Print what was written as one JSON object
    #[arg(long)]
    json: bool,
}

/// Vectors in the golden file.
const GOLDEN: usize = 8;

/// What `export --json` prints.
#[derive(serde::Serialize)]
struct Exported<'a> {
    out: &'a Path,
    step: Option<u64>,
    parameters: i64,
    golden: i64,
    space: &'a models::Space,
}

/// Writes the export of a run's best checkpoint, or of the checkpoint given.
pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    let inverter = Inverter::open(&args.run, DeviceChoice::Cpu, Dtype::F32)?;
    let recipe = run_recipe::recipe_of(&args.run);
    let golden_ND = golden(&inverter, recipe.as_ref())?;
    let name =
        args.out.file_name().map_or_else(|| "decoder".into(), |name| name.to_string_lossy().into_owned());
    let measured = measured(&args.run, &inverter);
    let started_from = match run_recipe::run_folder(&args.run) {
        Some(run) => StartedFrom::of_run(run)?,
        None => None,
    };
    let readme =
        card::card(&name, &inverter.config, &inverter.space, started_from.as_ref(), measured.as_ref());
    let options = ExportOptions { dtype: args.dtype, golden_ND: &golden_ND, readme: &readme };
    models::write_export(&inverter, &args.out, &options)?;
    let exported = Exported {
        out: &args.out,
        step: inverter.origin.step,
        parameters: inverter.store.numel(),
        golden: golden_ND.size()[0],
        space: &inverter.space,
    };
    if args.json {
        return output::json(&exported);
    }
    output::write(|out| {
        writeln!(out, "{}: {} parameters", args.out.display(), exported.parameters)?;
        if let Some(step) = exported.step {
            writeln!(out, "  of step {step}")?;
        }
        writeln!(out, "  opened again, and its {} golden texts decoded as they must be", exported.golden)
    })
}

/// Vectors whose texts the export must give: held-out ones of the run's pair set, or where that is gone seeded random
/// directions, for which the decoder has an answer too.
fn golden(inverter: &Inverter, recipe: Option<&Recipe>) -> Result<Tensor> {
    let pairs = recipe.and_then(|recipe| PairSet::open(&recipe.pairs.dir).ok());
    if let Some(pairs) =
        pairs.filter(|pairs| pairs.space().require_same(&inverter.space, "the pairs", "the decoder").is_ok())
    {
        let mut rows = pairs.indices(Split::Dev)?;
        rows.truncate(GOLDEN);
        if !rows.is_empty() {
            return Ok(pairs.vectors(&rows));
        }
    }
    tch::manual_seed(0);
    let random_ND = Tensor::randn([GOLDEN as i64, inverter.space.dim as i64], (Kind::Float, Device::Cpu));
    let norm_N1 = random_ND.norm_scalaropt_dim(2, [1i64].as_slice(), true);
    Ok(random_ND / norm_N1)
}

/// The round trip of these very weights, where `eval` left one in the run.
fn measured(run: &Path, inverter: &Inverter) -> Option<RoundTrip> {
    let path = results::in_run(run_recipe::run_folder(run)?)?;
    let result = match results::read_round_trip(&path) {
        Ok(result) => result,
        Err(error) => {
            tracing::warn!("the model card has no figures: {error:#}");
            return None;
        }
    };
    let measured = &result.settings;
    if measured.decoder.step != inverter.origin.step || measured.space != inverter.space {
        tracing::warn!("{} is of other weights and is passed over: evaluate again", path.display());
        return None;
    }
    Some(result)
}
