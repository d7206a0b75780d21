//! How fast a decoder trains here: whole steps, timed, with batches from the loader's thread.
#![allow(non_snake_case)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use models::{Condition, Decoder, DecoderConfig, ParamStore};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use tch::{Device, Kind, Tensor};
use torch_ext::{Profiler, Reduce, World};

use crate::batch::{Batch, MicroBatch};
use crate::batches::Cursors;
use crate::consistency::Consistency;
use crate::ema::Ema;
use crate::loader::{Loader, Share, Supply};
use crate::loss::LossOptions;
use crate::optimizer::{AdamWConfig, MuonConfig, Optimizer, OptimizerConfig};
use crate::profile::Profile;
use crate::recipe::Recipe;
use crate::replicas::prepare_all;
use crate::setup::{Hardware, batch_options, new_model, new_optimizer};
use crate::step::Model;
use crate::{Error, Result};

/// Steps that are profiled, behind those on the clock: the profiler slows them down.
const PROFILED: usize = 3;

/// How long is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeedOptions {
    /// Steps on the clock, at least one.
    pub steps: usize,
    /// Steps before the clock starts.
    pub warmup: usize,
    /// Whether shapes are trained with Muon for the matrices, as recipes may be; a recipe says so itself.
    pub muon: bool,
    /// Whether three further steps are looked into, those of the first process.
    pub profile: bool,
    /// Where these are written to for chrome://tracing or Perfetto.
    pub trace: Option<PathBuf>,
}

/// What was measured, and where the time went if that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// Of the steps on the clock.
    #[serde(flatten)]
    pub speed: Speed,
    /// Of the steps behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// A decoder and batches of random tokens, all texts of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shapes {
    /// Numbers in a vector.
    pub dim: i64,
    /// Width of the decoder.
    pub hidden: i64,
    /// Number of blocks.
    pub layers: i64,
    /// Heads, of queries and keys alike; divides `hidden`.
    pub heads: i64,
    /// Width of the feed-forward layers.
    pub ffn: i64,
    /// Tokens in the vocabulary.
    pub vocab: i64,
    /// Positions of the prefix.
    pub prefix: i64,
    /// Texts in a batch.
    pub batch: i64,
    /// Target tokens in a text.
    pub length: i64,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Speed {
    /// Target tokens a second, padding and prefix excluded.
    pub tokens_per_s: f64,
    /// The mean of a step, waiting for its batch included.
    pub ms_per_step: f64,
    /// Loss and gradients.
    pub gradients_ms: f64,
    /// Clipping, the optimizer, compute copies and running averages.
    pub update_ms: f64,
    /// Share of the time in which the step waited for the loader.
    pub data_wait_percent: f64,
    /// Share of the token positions that were padding.
    pub padding_percent: f64,
    /// Trained numbers.
    pub parameters: i64,
    /// Operations of the matrix products of forward and backward pass for a target token ([`models::flops`]).
    pub flops_per_token: f64,
    /// `flops_per_token` times `tokens_per_s`, in billions a second: what cannot be skipped, however it was computed.
    pub achieved_gflops: f64,
    /// Steps on the clock.
    pub steps: usize,
    /// Target tokens of those.
    pub tokens: i64,
    /// Mean loss a token of the last step.
    pub loss: f64,
    /// Processes that shared the steps. Tokens and operations are those of all, times those of the first.
    pub processes: usize,
}

/// A training that is only timed.
struct Timed {
    world: Arc<World>,
    config: DecoderConfig,
    model: Model,
    optimizer: Optimizer,
    ema: Option<Ema>,
    consistency: Option<Consistency>,
    loss: LossOptions,
    clip_norm: Option<f64>,
    learning_rate: f64,
}

/// Times the steps of a recipe on its own pairs, at its full learning rate and with its consistency loss, if any, at full weight, shared by the ranks of `world` as in a training;
/// tells where, and in which type, too. Nothing is written.
///
/// # Errors
/// What [`crate::prepare::prepare`] refuses; [`Error::TimedNonFinite`]; libtorch's own, and what a collective fails with.
pub fn of_recipe(
    recipe: &Recipe,
    options: &SpeedOptions,
    world: &Arc<World>,
) -> Result<(Timing, Device, Kind)> {
    let hardware = Hardware::of(recipe, world)?;
    let prepared = prepare_all(recipe, None, world)?;
    let model = new_model(recipe, &prepared, hardware, world)?;
    let t = &recipe.training;
    let ema = if t.ema_decay > 0.0 { Some(Ema::new(&model.store, t.ema_decay)?) } else { None };
    let timed = Timed {
        config: prepared.config.clone(),
        optimizer: new_optimizer(recipe, &model.store, world)?,
        world: Arc::clone(world),
        model,
        ema,
        consistency: Consistency::open(recipe, &prepared)?,
        loss: LossOptions { label_smoothing: t.label_smoothing, ..LossOptions::default() },
        clip_norm: Some(t.clip_norm).filter(|norm| *norm > 0.0),
        learning_rate: recipe.optimizer.learning_rate,
    };
    let collator = prepared.collator(&prepared.train);
    let supply = Supply { collator, options: batch_options(recipe), parts: t.accumulate, refining: None };
    let share = Share { rank: world.rank(), of: world.size() };
    let loader = Loader::start(supply, share, 0, Cursors::default());
    Ok((timed.measure(loader, options)?, hardware.device, hardware.kind))
}

/// Times the steps of a decoder of the given shapes on random tokens.
///
/// # Errors
/// Shapes that make no decoder; [`Error::TimedNonFinite`]; libtorch's own.
pub fn of_shapes(shapes: Shapes, device: Device, kind: Kind, options: &SpeedOptions) -> Result<Timing> {
    Timed::new(shapes, device, kind, options.muon)?.measure(Loader::of(shapes.batches()), options)
}

impl Shapes {
    /// The decoder: a projector of twice its width, and the embedding as its head.
    pub fn config(&self) -> DecoderConfig {
        DecoderConfig {
            dim: self.dim,
            hidden: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.heads,
            head_dim: self.hidden / self.heads.max(1),
            ffn: self.ffn,
            vocab: self.vocab,
            prefix_tokens: self.prefix,
            projector_hidden: 2 * self.hidden,
            max_tokens: self.length,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
            tie_embeddings: true,
            bos_token_id: 0,
            eos_token_id: 1,
            pad_token_id: 2,
            activation: models::decoder_config::Activation::Gelu,
            input_scale: (self.dim as f64).sqrt(),
            input_normalization: false,
            refines: false,
            knows_noise: false,
            knows_length: false,
            guides: false,
            qkv_bias: false,
        }
    }

    /// The first of those batches: the same wherever it is made.
    pub(crate) fn first_batch(self) -> Result<Batch> {
        self.batch(&mut ChaCha8Rng::seed_from_u64(0))
    }

    fn batches(self) -> impl Iterator<Item = Result<Batch>> + Send + 'static {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        std::iter::repeat_with(move || self.batch(&mut random))
    }

    fn batch(&self, random: &mut ChaCha8Rng) -> Result<Batch> {
        let ids: Vec<i64> =
            (0..self.batch * self.length).map(|_| i64::from(random.next_u32()) % self.vocab).collect();
        let shape = [self.batch, self.length];
        let inputs: Vec<i64> = ids
            .chunks(self.length.max(1) as usize)
            .flat_map(|text| std::iter::once(0).chain(text[..text.len() - 1].iter().copied()))
            .collect();
        // of the length 1 that encoders give, in the mean
        let wide = (3.0 / self.dim as f64).sqrt() as f32;
        let mut number = || (random.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0) * wide;
        let vectors: Vec<f32> = (0..self.batch * self.dim).map(|_| number()).collect();
        let part = MicroBatch {
            rows: (0..self.batch as u32).collect(),
            condition: Condition::first(&Tensor::f_from_slice(&vectors)?.f_view([self.batch, self.dim])?),
            clean_BD: None,
            tokens_BT: Tensor::f_from_slice(&inputs)?.f_view(shape)?,
            positions_N: None,
            targets_N: Tensor::f_from_slice(&ids)?,
        };
        Ok(Batch::whole(vec![part], Cursors::default(), 1))
    }
}

impl Timed {
    /// A new decoder of the given shapes.
    fn new(shapes: Shapes, device: Device, kind: Kind, muon: bool) -> Result<Self> {
        let config = shapes.config();
        config.validate()?;
        let mut store = ParamStore::train(device, kind, 0);
        let decoder = Decoder::new(&config, &mut store)?;
        let muon = muon.then_some(MuonConfig { momentum: 0.95, iterations: 5, weight_decay: 0.1 });
        let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        Ok(Self {
            optimizer: Optimizer::new(OptimizerConfig { adamw, muon }, &store)?,
            world: Arc::new(World::alone()),
            model: Model::new(store, decoder)?,
            config,
            ema: None,
            consistency: None,
            loss: LossOptions::default(),
            clip_norm: Some(1.0),
            learning_rate: 1e-3,
        })
    }

    fn measure(mut self, mut loader: Loader, options: &SpeedOptions) -> Result<Timing> {
        let speed = self.time(&mut loader, options.steps, options.warmup)?;
        let next = options.warmup + options.steps.max(1);
        let profile = if options.profile { self.profile(&mut loader, next, options)? } else { None };
        Ok(Timing { speed, profile })
    }

    /// Where the time of further steps goes, for the first process.
    fn profile(
        &mut self,
        loader: &mut Loader,
        next: usize,
        options: &SpeedOptions,
    ) -> Result<Option<Profile>> {
        let device = self.model.store.device();
        // what the last step left to do is none of these
        wait_for(device);
        let profiler = if self.world.is_first() { Some(Profiler::begin(device.is_cuda())?) } else { None };
        let started = Instant::now();
        for step in next..next + PROFILED {
            self.step(&loader.next_batch()?, step)?;
        }
        wait_for(device);
        let ns = started.elapsed().as_nanos() as u64;
        let Some(profiler) = profiler else { return Ok(None) };
        Ok(Some(Profile::of(&profiler.end(options.trace.as_deref())?, PROFILED, ns)))
    }

    fn time(&mut self, loader: &mut Loader, steps: usize, warmup: usize) -> Result<Speed> {
        for step in 0..warmup {
            self.step(&loader.next_batch()?, step)?;
        }
        // all begin at once
        self.world.barrier()?;
        loader.take_waited();
        let (mut gradients, mut update, mut loss) = (Duration::ZERO, Duration::ZERO, f64::NAN);
        let (mut tokens, mut positions, mut flops) = (0, 0, 0.0);
        let started = Instant::now();
        for step in warmup..warmup + steps.max(1) {
            let batch = loader.next_batch()?;
            let (found, spent) = self.step(&batch, step)?;
            loss = found;
            gradients += spent[0];
            update += spent[1];
            tokens += batch.own_targets();
            positions += batch.parts.iter().map(MicroBatch::positions).sum::<i64>();
            flops += batch.parts.iter().map(|part| flops_of(&self.config, part)).sum::<f64>();
        }
        let seconds = started.elapsed().as_secs_f64();
        let own = [tokens as f64, positions as f64, flops];
        let [tokens, positions, flops] = self.world.reduce_numbers(own, Reduce::Sum)?;
        let ms = |time: f64| 1e3 * time / steps.max(1) as f64;
        Ok(Speed {
            tokens_per_s: tokens / seconds,
            ms_per_step: ms(seconds),
            gradients_ms: ms(gradients.as_secs_f64()),
            update_ms: ms(update.as_secs_f64()),
            data_wait_percent: 100.0 * loader.take_waited().as_secs_f64() / seconds,
            padding_percent: 100.0 * (positions - tokens) / positions.max(1.0),
            parameters: self.model.store.numel(),
            flops_per_token: flops / tokens.max(1.0),
            achieved_gflops: flops / seconds / 1e9,
            steps: steps.max(1),
            tokens: tokens as i64,
            loss,
            processes: self.world.size(),
        })
    }

    /// One step: (loss, time of the gradients and of the update).
    fn step(&mut self, batch: &Batch, step: usize) -> Result<(f64, [Duration; 2])> {
        let started = Instant::now();
        let turn = self.consistency.as_ref().and_then(|loss| loss.turn(step as u64, 1.0));
        let found = self.model.backward_with(batch, self.loss, turn)?;
        let between = started.elapsed();
        if !found.is_finite() {
            return Err(Error::TimedNonFinite { step, loss: found.loss, grad_norm: found.grad_norm });
        }
        self.model.apply(&mut self.optimizer, found, self.clip_norm, self.learning_rate)?;
        if let Some(ema) = &mut self.ema {
            ema.update(step as u64 + 1)?;
        }
        Ok((found.loss, [between, started.elapsed() - between]))
    }
}

/// Waits until a GPU has done what it was given.
fn wait_for(device: Device) {
    if let Device::Cuda(index) = device {
        tch::Cuda::synchronize(index as i64);
    }
}

/// Operations of forward and backward pass, each text taken as of the part's mean length.
fn flops_of(config: &DecoderConfig, part: &MicroBatch) -> f64 {
    let texts = part.tokens_BT.size()[0] as f64;
    texts * config.flops(part.targets() as f64 / texts.max(1.0)).training()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_gives_no_number_has_no_speed() {
        let shapes = Shapes {
            dim: 8,
            hidden: 16,
            layers: 1,
            heads: 2,
            ffn: 24,
            vocab: 50,
            prefix: 2,
            batch: 6,
            length: 5,
        };
        let mut timed = Timed::new(shapes, Device::Cpu, Kind::Float, false).unwrap();
        timed.learning_rate = f64::INFINITY;
        let options = SpeedOptions { steps: 3, warmup: 0, muon: false, profile: false, trace: None };
        let refused = timed.measure(Loader::of(shapes.batches()), &options).unwrap_err();
        assert!(matches!(refused, Error::TimedNonFinite { step: 1, .. }), "{refused}");
        assert!(refused.hint().unwrap().contains("--dtype"), "{refused}");
    }
}
