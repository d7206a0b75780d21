//! What a training would be: its size, its memory, its length, and one real step.

use std::fmt;
use std::time::Instant;

use models::DecoderConfig;
use models::decoder::ParameterCounts;
use serde::Serialize;
use tch::Kind;

use crate::Result;
use crate::batches::{Epoch, padding_percent};
use crate::loss::LossOptions;
use crate::optimizer::AdamW;
use crate::prepare::prepare;
use crate::recipe::Recipe;
use crate::setup::{Hardware, adamw, batch_options, new_model};

/// A training that has not begun.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Where it would compute.
    pub device: String,
    /// The type of its matrix products.
    pub compute: String,
    /// Trained parameters by part.
    pub parameters: ParameterCounts,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Bytes it needs.
    pub memory: MemoryEstimate,
    /// Training texts.
    pub texts: usize,
    /// Training texts left out because they are longer than the decoder reads.
    pub texts_too_long: usize,
    /// Dev texts that it is evaluated on.
    pub dev_texts: usize,
    /// Target tokens of an epoch.
    pub tokens_per_epoch: u64,
    /// Optimizer steps of an epoch.
    pub steps_per_epoch: usize,
    /// Share of the positions that are padding, percent.
    pub padding_percent: f64,
    /// Steps of the whole training, where it is bounded by them.
    pub max_steps: Option<u64>,
    /// Minutes of the whole training, where it is bounded by them.
    pub max_minutes: Option<f64>,
    /// What the first step gave.
    pub first_step: FirstStep,
}

/// Bytes that a training needs, estimated.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryEstimate {
    /// f32 masters and the copies in the compute type.
    pub weights: u64,
    /// Gradients of both and their f32 sum.
    pub gradients: u64,
    /// Two f32 moments.
    pub optimizer: u64,
    /// Averaged weights.
    pub averages: u64,
    /// What the backward pass keeps of the forward pass of the largest part of a batch, and the scores of a chunk.
    pub activations: u64,
    /// Sum.
    pub total: u64,
}

/// One real step from the initial weights.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FirstStep {
    /// Mean loss a target token; about ln(vocabulary) when all is well.
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

/// Builds everything that the recipe asks for, takes two steps (the second is timed), and leaves nothing on the disk.
///
/// # Errors
/// Whatever a training would stumble on at its start.
pub fn plan(recipe: &Recipe) -> Result<Plan> {
    let hardware = Hardware::of(recipe)?;
    let prepared = prepare(recipe, None)?;
    let lengths = prepared.train.lengths();
    let epoch = Epoch::new(&lengths, 0, batch_options(recipe));
    let mut model = new_model(recipe, &prepared.config, hardware)?;
    let mut optimizer = AdamW::new(adamw(recipe), &model.store)?;
    let collator = prepared.collator(&prepared.train);
    let mut first: Option<FirstStep> = None;
    for number in 0..2 {
        let texts = epoch.batch(number.min(epoch.len() - 1)).unwrap_or_default();
        let parts = collator.collate_parts(texts, recipe.training.accumulate)?;
        let batch = crate::loader::Batch { parts, next: Default::default(), epoch_batches: epoch.len() };
        let start = Instant::now();
        let options =
            LossOptions { label_smoothing: recipe.training.label_smoothing, ..LossOptions::default() };
        let (gradients, found) = model.gradients(&batch, options)?;
        model.apply(&mut optimizer, &gradients, found, Some(1.0), 0.0)?;
        let seconds = start.elapsed().as_secs_f64();
        let (loss, grad_norm) = first.map_or((found.loss, found.grad_norm), |f| (f.loss, f.grad_norm));
        let tokens_per_s = found.targets as f64 / seconds;
        first = Some(FirstStep { loss, grad_norm, tokens: found.targets, seconds, tokens_per_s });
    }
    let nothing = FirstStep { loss: 0.0, grad_norm: 0.0, tokens: 0, seconds: 0.0, tokens_per_s: 0.0 };
    let texts_a_step = (prepared.train.len() / epoch.len().max(1)).max(1) as u64;
    Ok(Plan {
        device: format!("{:?}", hardware.device),
        compute: format!("{:?}", hardware.kind),
        parameters: prepared.config.parameters(),
        vocabulary: prepared.vocabulary.size(),
        memory: memory(recipe, &prepared.config, hardware.kind, texts_a_step),
        texts: prepared.train.len(),
        texts_too_long: prepared.train.too_long,
        dev_texts: prepared.dev.len(),
        tokens_per_epoch: prepared.train.total(),
        steps_per_epoch: epoch.len(),
        padding_percent: padding_percent(&epoch, &lengths),
        max_steps: recipe.training.max_steps,
        max_minutes: recipe.training.max_minutes,
        first_step: first.unwrap_or(nothing),
    })
}

fn memory(recipe: &Recipe, c: &DecoderConfig, kind: Kind, texts: u64) -> MemoryEstimate {
    let parameters = c.parameters().total as u64;
    let copies = if kind == Kind::Float { 0 } else { 2 };
    let width = if kind == Kind::Float { 4 } else { 2 };
    let positions = (recipe.training.batch_tokens as u64 + texts * c.prefix_tokens as u64)
        / recipe.training.accumulate.max(1) as u64;
    // per block and position: two norms with their inputs, query, key and value before and after rotation, the
    // attention's output and projection; gate and up, the activation and the product
    let block = 12 * c.hidden as u64 + 4 * c.ffn as u64;
    let scores = 2 * 1024.min(recipe.training.batch_tokens as u64) * c.vocab as u64;
    let head = (c.vocab * c.hidden) as u64;
    let activations =
        width * (positions * (block * c.layers as u64 + 4 * c.hidden as u64) + scores + head) + 4 * head;
    let weights = parameters * (4 + copies);
    let gradients = parameters * (4 + copies);
    let optimizer = parameters * 8;
    let averages = if recipe.training.ema_decay > 0.0 { parameters * 4 } else { 0 };
    let total = weights + gradients + optimizer + averages + activations;
    MemoryEstimate { weights, gradients, optimizer, averages, activations, total }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / (1u64 << 20) as f64);
        let (p, m, s) = (&self.parameters, &self.memory, &self.first_step);
        writeln!(f, "device       {} ({})", self.device, self.compute)?;
        writeln!(f, "vocabulary   {} tokens", self.vocabulary)?;
        writeln!(
            f,
            "parameters   {} = embedding {} + blocks {} + head {} + projector {}",
            p.total, p.embedding, p.blocks, p.head, p.projector
        )?;
        writeln!(
            f,
            "memory       {} = weights {} + gradients {} + optimizer {} + averages {} + activations {}",
            mib(m.total),
            mib(m.weights),
            mib(m.gradients),
            mib(m.optimizer),
            mib(m.averages),
            mib(m.activations)
        )?;
        writeln!(
            f,
            "texts        {} for training ({} too long, left out), {} for dev",
            self.texts, self.texts_too_long, self.dev_texts
        )?;
        writeln!(
            f,
            "epoch        {} tokens in {} steps, {:.1} % padding",
            self.tokens_per_epoch, self.steps_per_epoch, self.padding_percent
        )?;
        let steps = self.max_steps.map(|steps| format!("{steps} steps"));
        let minutes = self.max_minutes.map(|minutes| format!("{minutes} minutes"));
        let ends: Vec<String> = steps.into_iter().chain(minutes).collect();
        writeln!(f, "ends after   {}", if ends.is_empty() { "never".into() } else { ends.join(" or ") })?;
        writeln!(
            f,
            "first step   loss {:.3}, gradient norm {:.2}, {} tokens in {:.2} s, {:.0} tokens/s",
            s.loss, s.grad_norm, s.tokens, s.seconds, s.tokens_per_s
        )
    }
}
