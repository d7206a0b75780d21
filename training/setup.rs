//! What a recipe's settings are to the parts of a training: hardware, fresh weights, optimizer, batches, end, schedule.
#![allow(non_snake_case)] // shapes in names: B vectors, D numbers

use std::sync::Arc;
use std::time::Duration;

use models::pretrained::{prefix_factor, scale_prefix};
use models::{Decoder, ParamStore, Pretrained};
use tch::{Device, Kind};
use torch_ext::{Reduce, World};

use crate::Result;
use crate::batches::BatchOptions;
use crate::normalization::fit_input;
use crate::optimizer::{AdamWConfig, MuonConfig, Optimizer, OptimizerConfig};
use crate::prepare::Prepared;
use crate::recipe::{OptimizerKind, Recipe, ScheduleKind};
use crate::schedule::{Budget, Decay, Schedule};
use crate::step::Model;

/// Where a training computes, and in which type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    pub(crate) device: Device,
    pub(crate) kind: Kind,
}

impl Hardware {
    pub(crate) fn of(recipe: &Recipe, world: &World) -> Result<Self> {
        let device = recipe.training.device.resolve()?;
        if let Device::Cuda(_) = device {
            world.attach_cuda(device)?;
        }
        if let Some(threads) = recipe.training.threads {
            tch::set_num_threads(threads.max(1) as i32);
        }
        Ok(Self { device, kind: recipe.training.dtype.resolve(device) })
    }

    pub(crate) fn device_name(self) -> String {
        format!("{:?}", self.device)
    }

    pub(crate) fn kind_name(self) -> String {
        format!("{:?}", self.kind)
    }
}

/// A decoder with its initial weights, which follow from the seed and the pre-trained model where there is one.
pub(crate) fn new_model(
    recipe: &Recipe,
    prepared: &Prepared,
    hardware: Hardware,
    world: &Arc<World>,
) -> Result<Model> {
    tch::manual_seed(recipe.training.seed as i64);
    let mut store = ParamStore::train(hardware.device, hardware.kind, recipe.training.seed);
    let decoder = Decoder::new(&prepared.config, &mut store)?;
    fit_input(recipe, prepared, &store)?;
    if let Some(model) = &prepared.pretrained {
        start_from(model, prepared, &decoder, &mut store, world)?;
    }
    let bucket_bytes = recipe.distributed.bucket_mib * f64::from(1 << 20);
    Model::among(Arc::clone(world), store, decoder, bucket_bytes as usize)
}

/// Vectors that the size of a new prefix is measured by.
const MEASURED: usize = 256;

/// Takes over a pre-trained model, and makes the prefix that the new projector gives for training vectors as large as
/// its token embeddings.
fn start_from(
    model: &Pretrained,
    prepared: &Prepared,
    decoder: &Decoder,
    store: &mut ParamStore,
    world: &World,
) -> Result<()> {
    model.load(store, &prepared.vocabulary)?;
    let texts = prepared.train.len().min(MEASURED) as u32;
    let rows: Vec<u32> = (0..texts).map(|text| prepared.train.row(text)).collect();
    let v_BD = prepared.pairs.vectors(&rows).f_to_device(store.device())?;
    // one factor for all ranks, whose sums may be rounded otherwise
    let [factor] = world.reduce_numbers([prefix_factor(decoder, &v_BD)?], Reduce::Max)?;
    Ok(scale_prefix(store, factor)?)
}

/// Its optimizer: whole, or this rank's share.
pub(crate) fn new_optimizer(recipe: &Recipe, store: &ParamStore, world: &Arc<World>) -> Result<Optimizer> {
    let config = optimizer_config(recipe);
    if recipe.distributed.shard_optimizer {
        Optimizer::sharded(config, store, Arc::clone(world))
    } else {
        Optimizer::new(config, store)
    }
}

fn optimizer_config(recipe: &Recipe) -> OptimizerConfig {
    let o = &recipe.optimizer;
    let weight_decay = o.weight_decay;
    let muon = MuonConfig { momentum: o.momentum, iterations: o.newton_schulz_iterations, weight_decay };
    OptimizerConfig {
        adamw: AdamWConfig { beta1: o.beta1, beta2: o.beta2, eps: o.eps, weight_decay },
        muon: (o.kind == OptimizerKind::Muon).then_some(muon),
    }
}

/// How texts are put into batches.
pub(crate) fn batch_options(recipe: &Recipe) -> BatchOptions {
    let t = &recipe.training;
    BatchOptions { tokens: t.batch_tokens, texts: t.batch_texts, seed: t.seed }
}

/// When the run ends.
pub(crate) fn budget(recipe: &Recipe) -> Budget {
    let time = recipe.training.max_minutes.map(|minutes| duration(minutes.max(0.0) * 60.0));
    Budget { steps: recipe.training.max_steps, time }
}

/// The learning rate over the run.
pub(crate) fn schedule(recipe: &Recipe) -> Schedule {
    let s = &recipe.schedule;
    let decay = match s.kind {
        ScheduleKind::Cosine => Decay::Cosine,
        ScheduleKind::Linear => Decay::Linear,
        ScheduleKind::Constant => Decay::Constant,
    };
    Schedule { warmup_steps: s.warmup_steps, decay, final_share: s.final_fraction }
}

/// Seconds as a duration; the longest one where they are more, or no number.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_minutes_is_a_time() {
        let mut recipe = Recipe::default();
        for (minutes, time) in
            [(0.5, Duration::from_secs(30)), (1e300, Duration::MAX), (-1.0, Duration::ZERO)]
        {
            recipe.training.max_minutes = Some(minutes);
            assert_eq!(budget(&recipe).time, Some(time));
        }
    }
}
