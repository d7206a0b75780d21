//! What a training would be: its size, its memory, its work, its length, and one real step where that can be taken.
//!
//! Where no pair set is there the plan is made on paper, from the recipe and [`PlanOptions`] alone.

mod cost;
mod display;
mod encoder;
mod gpu;
mod memory;
mod texts;

use std::sync::Arc;
use std::time::Instant;

use data::pairs::manifest::MANIFEST_FILE;
use models::decoder_config::ParameterCounts;
use models::{DecoderConfig, Pretrained};
use serde::Serialize;
use tch::Device;
use torch_ext::World;

pub use cost::{Cost, FlopsPerToken};
pub use gpu::Gpu;
pub use memory::MemoryEstimate;

use crate::batch::Batch;
use crate::batches::Epoch;
use crate::collate::in_parts;
use crate::loss::LossOptions;
use crate::prepare::{Prepared, prepare};
use crate::recipe::{OptimizerKind, Recipe};
use crate::setup::{Hardware, new_model, new_optimizer};
use crate::{Error, Result};
use memory::{Held, Place, memory};
use texts::Measured;

/// What a plan takes for granted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanOptions {
    /// Build no model and take no step.
    pub on_paper: bool,
    /// Pairs to be trained on. Default: those of the pair set, else [`PAIRS`].
    pub pairs: Option<u64>,
    /// Target tokens of a text, EOS included. Default: the mean of the pair set, else [`TOKENS_PER_TEXT`].
    pub tokens_per_text: Option<f64>,
    /// The GPU that the time is reckoned for. Default: H200.
    pub gpu: Gpu,
    /// Model FLOPs utilization. Default: [`MFU`].
    pub mfu: f64,
    /// Processes that share the training, a GPU each; the memory is that of one of them. Default: 1.
    pub processes: usize,
}

/// Pairs where nobody says how many.
pub const PAIRS: u64 = 10_000_000;
/// Target tokens of a text where nobody says how many: a long sentence or two short ones.
pub const TOKENS_PER_TEXT: f64 = 64.0;
/// An assumption, not a measurement: PaLM reports 0.46 and GPT-3 0.21 (arXiv 2204.02311, table 3).
pub const MFU: f64 = 0.4;

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            on_paper: false,
            pairs: None,
            tokens_per_text: None,
            gpu: Gpu::default(),
            mfu: MFU,
            processes: 1,
        }
    }
}

/// A training that has not begun.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Where it would compute: a device of this machine, or the GPU of a plan without a step.
    pub device: String,
    /// The type of its matrix products.
    pub compute: String,
    /// Numbers in a vector.
    pub dim: i64,
    /// Trained parameters by part.
    pub parameters: ParameterCounts,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Bytes it needs on `device`.
    pub memory: MemoryEstimate,
    /// Which GPUs it fits on.
    pub fits: Vec<Fit>,
    /// Its work and its time on one GPU.
    pub cost: Cost,
    /// Whether there is a pair set; where there is none, all that follows up to `padding_percent` is unknown.
    pub measured: bool,
    /// Training texts.
    pub texts: Option<usize>,
    /// Training texts left out because they are longer than the decoder reads.
    pub texts_too_long: Option<usize>,
    /// Dev texts that it is evaluated on.
    pub dev_texts: Option<usize>,
    /// Target tokens of an epoch.
    pub tokens_per_epoch: Option<u64>,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: Option<usize>,
    /// Share of the positions that are padding, percent.
    pub padding_percent: Option<f64>,
    /// Target tokens of a step, at most.
    pub batch_tokens: usize,
    /// Parts that a step is computed in.
    pub accumulate: usize,
    /// Steps of the whole training, where it is bounded by them.
    pub max_steps: Option<u64>,
    /// Minutes of the whole training, where it is bounded by them.
    pub max_minutes: Option<f64>,
    /// What the first step gave, where one was taken.
    pub first_step: Option<FirstStep>,
    /// What the numbers rest on: assumptions, and the sources of the formulas.
    pub notes: Vec<String>,
}

/// Whether a training fits on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// The GPU.
    pub gpu: Gpu,
    /// Bytes of its memory.
    pub memory: u64,
    /// Bytes that the training needs on it.
    pub needs: u64,
    /// Whether they are nine tenths of the memory at most; the rest is for CUDA itself and what its allocator wastes.
    pub fits: bool,
}

/// One real step from the initial weights.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FirstStep {
    /// Mean loss a target token; about ln(vocabulary) when all is well, less from a pre-trained model.
    pub loss: f64,
    /// Norm of the gradients.
    pub grad_norm: f64,
    /// Target tokens.
    pub tokens: i64,
    /// Seconds of a step once the first has warmed libtorch up.
    pub seconds: f64,
    /// Target tokens a second.
    pub tokens_per_s: f64,
}

/// Plans the training of a recipe. Where a pair set is there, its texts are measured and, unless the plan is to be on
/// paper, two steps taken (the second is timed). Leaves nothing on the disk.
///
/// # Errors
/// Whatever a training would stumble on at its start; without a pair set, an unknown dimension of the vectors;
/// options that cannot be.
pub fn plan(recipe: &Recipe, options: &PlanOptions) -> Result<Plan> {
    check(recipe, options)?;
    let there = recipe.pairs.dir.join(MANIFEST_FILE).exists();
    let prepared = if there { Some(prepare(recipe)?) } else { None };
    let config = match &prepared {
        Some(prepared) => prepared.config.clone(),
        None => config_on_paper(recipe)?,
    };
    let found = prepared.as_ref().map(|prepared| Measured::new(recipe, prepared, options));
    let measured = found.as_ref().map(|(measured, _)| measured);

    let on_gpu = Place { device: Device::Cuda(0), kind: Gpu::kind(recipe.training.dtype) };
    let part = measured.map_or_else(|| texts::largest_on_paper(recipe, options), |measured| measured.largest);
    let needs = |place: Place| {
        let held = Held {
            averages: recipe.training.ema_decay > 0.0,
            muon: recipe.optimizer.kind == OptimizerKind::Muon,
            optimizer_of: if recipe.distributed.shard_optimizer {
                options.processes.max(1) as u64
            } else {
                1
            },
            encoder: encoder::bytes(recipe, place.device),
        };
        memory(&config, place, part, held)
    };
    let mut hardware = None;
    let mut first_step = None;
    if let (Some(prepared), Some((_, epoch)), false) = (&prepared, &found, options.on_paper) {
        let here = Hardware::of(recipe, &World::alone())?;
        first_step = Some(take_first_step(recipe, prepared, epoch, here)?);
        hardware = Some(here);
    }
    let place = hardware.map_or(on_gpu, |here| Place { device: here.device, kind: here.kind });
    let texts = texts::assumed(recipe, &config, measured, options);
    let (here, on_one_gpu) = (needs(place), needs(on_gpu));
    Ok(Plan {
        device: hardware.map_or_else(|| options.gpu.to_string(), Hardware::device_name),
        compute: models::device::kind_name(place.kind).to_owned(),
        dim: config.dim,
        parameters: config.parameters(),
        vocabulary: config.vocab as usize,
        memory: here,
        fits: Gpu::ALL.map(|gpu| fit(gpu, on_one_gpu.total)).to_vec(),
        cost: Cost::new(recipe, texts, options.gpu, on_gpu.kind, options.mfu),
        measured: there,
        texts: measured.map(|m| m.texts),
        texts_too_long: measured.map(|m| m.too_long),
        dev_texts: prepared.as_ref().map(|prepared| prepared.dev.len()),
        tokens_per_epoch: measured.map(|m| m.tokens),
        steps_per_epoch: measured.map(|m| m.steps),
        padding_percent: measured.map(|m| m.padding_percent),
        batch_tokens: recipe.training.batch_tokens,
        accumulate: recipe.training.accumulate,
        max_steps: recipe.training.max_steps,
        max_minutes: recipe.training.max_minutes,
        first_step,
        notes: display::notes(recipe, options, measured, [here.encoder, on_one_gpu.encoder]),
    })
}

fn fit(gpu: Gpu, needs: u64) -> Fit {
    let memory = gpu.memory();
    Fit { gpu, memory, needs, fits: needs <= memory / 10 * 9 }
}

fn check(recipe: &Recipe, options: &PlanOptions) -> Result<()> {
    let refuse = |what, value: String, wanted: String| Err(Error::Assumption { what, value, wanted });
    let most = recipe.decoder.max_tokens;
    if let Some(tokens) = options.tokens_per_text.filter(|tokens| !(1.0..=most as f64).contains(tokens)) {
        let wanted =
            format!("at least 1 and at most decoder.max_tokens = {most}, since longer texts are left out");
        return refuse("the number of tokens of a text", tokens.to_string(), wanted);
    }
    if options.processes == 0 {
        return refuse("the number of processes", "0".into(), "at least 1".into());
    }
    if options.pairs == Some(0) {
        return refuse("the number of pairs", "0".into(), "at least 1".into());
    }
    if !(options.mfu > 0.0 && options.mfu <= 1.0) {
        return refuse(
            "the model FLOPs utilization",
            options.mfu.to_string(),
            "above 0 and at most 1".into(),
        );
    }
    Ok(())
}

/// The decoder's shape where neither pairs nor encoder are at hand.
fn config_on_paper(recipe: &Recipe) -> Result<DecoderConfig> {
    let unknown = || Error::UnknownDim { dir: recipe.pairs.dir.clone() };
    let dim = recipe.encoder.dim.ok_or_else(unknown)?;
    if let Some(source) = &recipe.decoder.start_from {
        // the small file alone: no tokenizer, no weights
        let model = Pretrained::open(source)?;
        return recipe.decoder_config_of(model.config(), dim as i64, model.config().vocab, [1, 2, 0]);
    }
    let vocab = recipe.tokenizer.vocab;
    let config = recipe.decoder_config(dim as i64, vocab as i64, 1, 2, 0);
    config.validate()?;
    Ok(config)
}

fn take_first_step(
    recipe: &Recipe,
    prepared: &Prepared,
    epoch: &Epoch,
    hardware: Hardware,
) -> Result<FirstStep> {
    let world = Arc::new(World::alone());
    let mut model = new_model(recipe, prepared, hardware, &world)?;
    let mut optimizer = new_optimizer(recipe, &model.store, &world)?;
    let collator = prepared.collator(&prepared.train);
    let mut first: Option<FirstStep> = None;
    for number in 0..2 {
        let texts = epoch.batch(number.min(epoch.len() - 1)).unwrap_or_default();
        let parts = in_parts(texts, recipe.training.accumulate).map(|part| collator.collate(part));
        let parts = parts.collect::<Result<_>>()?;
        let batch = Batch::whole(parts, Default::default(), epoch.len());
        let start = Instant::now();
        let options =
            LossOptions { label_smoothing: recipe.training.label_smoothing, ..LossOptions::default() };
        let found = model.backward(&batch, options)?;
        model.apply(&mut optimizer, found, Some(1.0), 0.0)?;
        let seconds = start.elapsed().as_secs_f64();
        let (loss, grad_norm) = first.map_or((found.loss, found.grad_norm), |f| (f.loss, f.grad_norm));
        let tokens_per_s = found.targets as f64 / seconds;
        first = Some(FirstStep { loss, grad_norm, tokens: found.targets, seconds, tokens_per_s });
    }
    let nothing = FirstStep { loss: 0.0, grad_norm: 0.0, tokens: 0, seconds: 0.0, tokens_per_s: 0.0 };
    Ok(first.unwrap_or(nothing))
}
