//! What makes the ranks of a training one: the same recipe, data, weights and clock on all of them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;
use torch_ext::{Reduce, World};

use crate::checkpoint::State;
use crate::prepare::{Beginning, Prepared, beginning, prepare_with};
use crate::recipe::Recipe;
use crate::{Error, Result};

/// Prepares every rank with rank 0's vocabulary, once all are known to have one recipe and the same pairs. What a run keeps
/// of it is left in the folder `run`, which rank 0 gives if any.
pub(crate) fn prepare_all(recipe: &Recipe, run: Option<&Path>, world: &World) -> Result<Prepared> {
    let toml = recipe.to_toml()?;
    let firsts = world.broadcast_bytes(toml.clone().into_bytes())?;
    require_equal(world, "recipe", firsts == toml.as_bytes())?;
    // all that takes long on large corpora is waited for without a limit: the vocabulary, then everybody's tokens
    let first = world.first_does("the vocabulary", || {
        serde_json::to_vec(&beginning(recipe, run)?).map_err(|error| Error::Io(std::io::Error::other(error)))
    })?;
    let beginning: Beginning =
        serde_json::from_slice(&first).map_err(|error| Error::Io(std::io::Error::other(error)))?;
    let prepared = prepare_with(recipe, beginning, run, threads_of(world))?;
    world.patient_barrier("tokenizing")?;
    require_one_start(&prepared, world)?;
    let digest = prepared.pairs_digest();
    let firsts = world.broadcast_bytes(digest.clone().into_bytes())?;
    require_equal(world, "pair set", firsts == digest.as_bytes())?;
    Ok(prepared)
}

/// This process's share of the machine's cores.
fn threads_of(world: &World) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / world.local_size()).max(1)
}

/// Each rank reads the pre-trained model by itself; it must be the same one.
fn require_one_start(prepared: &Prepared, world: &World) -> Result<()> {
    let Some(model) = prepared.pretrained.as_ref().filter(|_| world.size() > 1) else { return Ok(()) };
    let digest = model.started_from()?.weights_digest;
    let firsts = world.broadcast_bytes(digest.clone().into_bytes())?;
    require_equal(world, "pre-trained model", firsts == digest.as_bytes())
}

/// Refuses on all ranks what one of them has otherwise than rank 0.
fn require_equal(world: &World, what: &'static str, is_equal: bool) -> Result<()> {
    let other = if is_equal { f64::INFINITY } else { world.rank() as f64 };
    let [first] = world.reduce_numbers([other], Reduce::Min)?;
    if first.is_finite() { Err(Error::RanksDiffer { what, rank: first as usize }) } else { Ok(()) }
}

/// Where a run is resumed: rank 0's state, and the folder of its checkpoint.
#[derive(Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) state: State,
    pub(crate) checkpoint: Option<PathBuf>,
}

impl Start {
    /// Rank 0's on every rank.
    pub(crate) fn share(own: Option<Self>, world: &World) -> Result<Self> {
        let bad = |error: serde_json::Error| Error::Io(std::io::Error::other(error));
        let own = own.map(|start| serde_json::to_vec(&start)).transpose().map_err(bad)?;
        serde_json::from_slice(&world.broadcast_bytes(own.unwrap_or_default())?).map_err(bad)
    }
}

/// What all ranks go by before a step: rank 0's seconds of training, and whether any was asked to stop.
pub(crate) fn agree(world: &World, seconds: f64, stop: bool) -> Result<(f64, bool)> {
    let own = if world.is_first() { seconds } else { 0.0 };
    let [seconds, stop] = world.reduce_numbers([own, f64::from(u8::from(stop))], Reduce::Max)?;
    Ok((seconds, stop > 0.0))
}

/// Checks that all ranks have the same weights, by their norm.
pub(crate) fn require_same_weights(world: &World, weights: &[Tensor], step: u64) -> Result<()> {
    if world.size() == 1 {
        return Ok(());
    }
    let norm = torch_ext::global_norm(weights)?.f_double_value(&[])?;
    let [least, most] = world.reduce_numbers([norm, -norm], Reduce::Min)?;
    // ranks with other numbers of threads add in another order
    if (least + most).abs() > 1e-6 * least.abs() {
        return Err(Error::WeightsDiffer { step, least, most: -most });
    }
    Ok(())
}
