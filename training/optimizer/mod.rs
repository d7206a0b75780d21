//! How gradients become steps: AdamW for all parameters, or Muon for the matrices between hidden layers and AdamW for
//! the rest. The state is in our hands, so that a resumed run is bit-equal to one that never stopped.

mod adamw;
mod muon;
mod orthogonalize;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use models::params::Group;
use models::{ParamStore, Weights};
use tch::{Device, Kind, Tensor};
use torch_ext::World;

pub use adamw::AdamWConfig;
pub use muon::MuonConfig;
pub use orthogonalize::orthogonalize;

use crate::checkpoint::tensor_of;
use crate::{Error, Result};
use adamw::AdamW;
use muon::Muon;

/// Which parameters are updated by what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerConfig {
    /// Constants of AdamW.
    pub adamw: AdamWConfig,
    /// Where it is said, the parameters of [`Group::Matrix`] are Muon's and not AdamW's.
    pub muon: Option<MuonConfig>,
}

/// The optimizer of a store's parameters. Sharded, each rank keeps and updates its share of the state alone (ZeRO stage
/// 1, Rajbhandari et al., arXiv 1910.02054), and then sends what it has updated of the masters.
#[derive(Debug)]
pub struct Optimizer {
    adamw: AdamW,
    muon: Option<Muon>,
    /// The ranks that share the state; this process alone where it is whole.
    world: Arc<World>,
}

impl Optimizer {
    /// An optimizer at rest for the parameters of `store`, with the whole state.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(config: OptimizerConfig, store: &ParamStore) -> Result<Self> {
        Self::sharded(config, store, Arc::new(World::alone()))
    }

    /// The same with this rank's share of the state: of AdamW's an even part of all numbers in their order, of Muon's
    /// whole matrices.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn sharded(config: OptimizerConfig, store: &ParamStore, world: Arc<World>) -> Result<Self> {
        let is_muons = |number: &usize| {
            let param = &store.params()[*number];
            config.muon.is_some() && param.group == Group::Matrix && param.master.dim() == 2
        };
        let (matrices, others): (Vec<usize>, Vec<usize>) = (0..store.params().len()).partition(is_muons);
        let muon = config.muon.map(|muon| Muon::new(muon, store, &matrices, &world)).transpose()?;
        Ok(Self { adamw: AdamW::new(config.adamw, store, &others, &world)?, muon, world })
    }

    /// One update of the masters with f32 `gradients` (one a parameter, in their order), after which the compute
    /// copies are refreshed.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn step(&mut self, store: &ParamStore, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        let masters: Vec<Tensor> = store.params().iter().map(|param| param.master.detach()).collect();
        self.adamw.step(&masters, gradients, learning_rate)?;
        if let Some(muon) = &mut self.muon {
            muon.step(&masters, gradients, learning_rate)?;
        }
        self.share_masters(&masters)?;
        Ok(store.refresh()?)
    }

    /// Brings every rank's part of the masters to all, in place.
    fn share_masters(&self, masters: &[Tensor]) -> Result<()> {
        if self.world.size() == 1 {
            return Ok(());
        }
        let mut parts = self.adamw.shares(masters)?;
        if let Some(muon) = &self.muon {
            parts.extend(muon.shares(masters)?);
        }
        let begun = parts.iter().map(|(rank, part)| Ok(self.world.begin_broadcast(part, *rank)?));
        let begun: Vec<_> = begun.collect::<Result<_>>()?;
        Ok(begun.into_iter().try_for_each(|pending| self.world.finish(pending))?)
    }

    /// The whole state under its names, on rank 0; nothing on the others. All ranks must call it.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut named = self.adamw.state(&self.world)?;
        if let Some(muon) = &self.muon {
            named.extend(muon.state(&self.world)?);
        }
        if self.world.is_first() {
            named.push((RANDOM_STATE.to_owned(), torch_ext::rng_state(Device::Cpu)?));
        }
        Ok(named)
    }

    /// Reads the state back, of which this rank keeps its share; the file is one that [`Optimizer::state`] was saved in,
    /// by any number of ranks. Sets libtorch's random generator.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type, or belongs to no parameter.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let weights = Weights::open(path)?;
        let mut known: HashSet<String> = self.adamw.names().collect();
        known.extend(self.muon.iter().flat_map(Muon::names));
        known.insert(RANDOM_STATE.to_owned());
        if let Some(name) = weights.names().find(|name| !known.contains(*name)) {
            let reason = format!("`{name}` belongs to no parameter of this decoder");
            return Err(Error::Checkpoint { path: path.to_owned(), reason });
        }
        self.adamw.load(&weights, path)?;
        if let Some(muon) = &mut self.muon {
            muon.load(&weights, path)?;
        }
        let random = weights.shape(RANDOM_STATE).ok_or_else(|| Error::Checkpoint {
            path: path.to_owned(),
            reason: format!("`{RANDOM_STATE}` is missing"),
        })?;
        let state = tensor_of(&weights, path, RANDOM_STATE, &random, Kind::Uint8)?;
        Ok(torch_ext::set_rng_state(Device::Cpu, &state)?)
    }
}

const RANDOM_STATE: &str = "random.cpu";

/// A parameter that has a state.
#[derive(Debug)]
struct Owner {
    /// Its number in the store.
    param: usize,
    name: String,
    shape: Vec<i64>,
}

impl Owner {
    fn of(store: &ParamStore, param: usize) -> Self {
        let found = &store.params()[param];
        Self { param, name: found.name.clone(), shape: found.master.size() }
    }

    fn numel(&self) -> i64 {
        self.shape.iter().product()
    }
}

/// Scales gradients in place so that their global norm is at most `limit`, given that norm.
///
/// # Errors
/// libtorch's own.
pub fn clip(gradients: &[Tensor], norm: f64, limit: Option<f64>) -> Result<()> {
    let Some(limit) = limit.filter(|limit| norm > *limit) else { return Ok(()) };
    let device = gradients.first().map_or(Device::Cpu, Tensor::device);
    let factor = Tensor::f_full([] as [i64; 0], limit / (norm + 1e-6), (Kind::Float, device))?;
    Ok(torch_ext::foreach_mul_scalar_tensor(gradients, &factor)?)
}
