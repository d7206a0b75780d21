//! AdamW with its state in our hands, so that a resumed run is bit-equal to one that never stopped.

use std::path::Path;
use std::sync::Arc;

use models::params::Group;
use models::{ParamStore, Weights};
use tch::{Device, Kind, Tensor};
use torch_ext::{Reduce, World};

use crate::checkpoint::tensor_of;
use crate::{Error, Result};

/// Constants of AdamW (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the running mean of gradients.
    pub beta1: f64,
    /// Decay of the running mean of squared gradients.
    pub beta2: f64,
    /// Added to the square root of the second.
    pub eps: f64,
    /// Decoupled weight decay of matrices and embeddings; norms and biases have none.
    pub weight_decay: f64,
}

/// AdamW over all parameters of a store. Sharded, each rank keeps and updates the state of its part of the numbers only
/// (ZeRO stage 1, Rajbhandari et al., arXiv 1910.02054), and then sends what it has updated of the masters.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    names: Vec<String>,
    shapes: Vec<Vec<i64>>,
    /// What this rank updates.
    own: Vec<Part>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// Steps taken, as the fused kernel wants it: f32 scalars, one a part.
    steps: Vec<Tensor>,
    decayed: Vec<usize>,
    plain: Vec<usize>,
    /// The ranks that share the state; this process alone where it is whole.
    world: Arc<World>,
}

/// Neighbouring numbers of one parameter, which is taken as flat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    param: usize,
    start: i64,
    length: i64,
}

impl Part {
    fn of(&self, tensors: &[Tensor]) -> Result<Tensor> {
        Ok(tensors[self.param].f_view([-1])?.f_narrow(0, self.start, self.length)?)
    }
}

impl AdamW {
    /// An optimizer at rest for the parameters of `store`, with the whole state.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(config: AdamWConfig, store: &ParamStore) -> Result<Self> {
        Self::sharded(config, store, Arc::new(World::alone()))
    }

    /// The same with this rank's share of the state: an even part of all numbers in their order.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn sharded(config: AdamWConfig, store: &ParamStore, world: Arc<World>) -> Result<Self> {
        let own = parts_of(store, world.rank(), world.size());
        let zeros = |part: &Part| Ok(Tensor::f_zeros([part.length], (Kind::Float, store.device()))?);
        let steps = own.iter().map(|_| Ok(Tensor::f_zeros([] as [i64; 0], (Kind::Float, store.device()))?));
        let (plain, decayed) =
            (0..own.len()).partition(|&i| store.params()[own[i].param].group == Group::Gain);
        Ok(Self {
            config,
            names: store.params().iter().map(|param| param.name.clone()).collect(),
            shapes: store.params().iter().map(|param| param.master.size()).collect(),
            exp_avgs: own.iter().map(zeros).collect::<Result<_>>()?,
            exp_avg_sqs: own.iter().map(zeros).collect::<Result<_>>()?,
            steps: steps.collect::<Result<_>>()?,
            own,
            decayed,
            plain,
            world,
        })
    }

    /// One update of the masters with f32 `gradients` (one a parameter, in their order), after which the compute
    /// copies are refreshed.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn step(&mut self, store: &ParamStore, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        torch_ext::foreach_add_scalar(&self.steps, 1.0)?;
        let masters: Vec<Tensor> = store.params().iter().map(|param| param.master.detach()).collect();
        for (group, decay) in [(&self.decayed, weight_decay), (&self.plain, 0.0)] {
            let parts_of = |tensors: &[Tensor]| -> Result<Vec<Tensor>> {
                group.iter().map(|&i| self.own[i].of(tensors)).collect()
            };
            let of = |tensors: &[Tensor]| -> Vec<Tensor> {
                group.iter().map(|&i| tensors[i].shallow_clone()).collect()
            };
            torch_ext::fused_adamw(
                &parts_of(&masters)?,
                &parts_of(gradients)?,
                &of(&self.exp_avgs),
                &of(&self.exp_avg_sqs),
                &of(&self.steps),
                learning_rate,
                beta1,
                beta2,
                decay,
                eps,
            )?;
        }
        if self.world.size() > 1 {
            self.share_masters(store, &masters)?;
        }
        Ok(store.refresh()?)
    }

    /// Brings every rank's part of the masters to all, in place.
    fn share_masters(&self, store: &ParamStore, masters: &[Tensor]) -> Result<()> {
        let size = self.world.size();
        let parts =
            (0..size).flat_map(|rank| parts_of(store, rank, size).into_iter().map(move |part| (rank, part)));
        let begun = parts.map(|(rank, part)| Ok(self.world.begin_broadcast(&part.of(masters)?, rank)?));
        let begun: Vec<_> = begun.collect::<Result<_>>()?;
        Ok(begun.into_iter().try_for_each(|pending| self.world.finish(pending))?)
    }

    /// The whole state under its names, on rank 0; nothing on the others. All ranks must call it. Where it is shared, it
    /// comes to the CPU tensor by tensor.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut named = Vec::new();
        for (kind, tensors) in [("exp_avg", &self.exp_avgs), ("exp_avg_sq", &self.exp_avg_sqs)] {
            for (number, (name, shape)) in self.names.iter().zip(&self.shapes).enumerate() {
                let whole = self.whole(number, tensors)?;
                if self.world.is_first() {
                    named.push((format!("{kind}.{name}"), whole.f_view(shape.as_slice())?));
                }
            }
        }
        if self.world.is_first() {
            // all parts have taken the same steps
            let step = self.steps.first().map_or_else(|| Tensor::from(0f32), Tensor::shallow_clone);
            named.extend(self.names.iter().map(|name| (format!("step.{name}"), step.shallow_clone())));
            named.push((RANDOM_STATE.to_owned(), torch_ext::rng_state(Device::Cpu)?));
        }
        Ok(named)
    }

    /// The state of one parameter, flat: this rank's own, and what the others have of it.
    fn whole(&self, number: usize, tensors: &[Tensor]) -> Result<Tensor> {
        let mut own = self.own.iter().zip(tensors).filter(|(part, _)| part.param == number);
        let length: i64 = self.shapes[number].iter().product();
        if self.world.size() == 1 {
            let whole = own.next().map(|(_, tensor)| tensor.shallow_clone());
            return whole.map_or_else(|| Ok(Tensor::f_zeros([length], (Kind::Float, Device::Cpu))?), Ok);
        }
        let device = tensors.first().map_or(Device::Cpu, Tensor::device);
        let whole = Tensor::f_zeros([length], (Kind::Float, device))?;
        for (part, tensor) in own {
            whole.f_narrow(0, part.start, part.length)?.f_copy_(tensor)?;
        }
        // the parts do not overlap: their sum joins them
        self.world.all_reduce(&whole, Reduce::Sum)?;
        // all of them together may be more than the device has room for: that is why they are shared
        Ok(if self.world.is_first() { whole.f_to_device(Device::Cpu)? } else { whole })
    }

    /// Reads the state back, of which this rank keeps its share; the file is one that [`AdamW::state`] was saved in,
    /// by any number of ranks. Sets libtorch's random generator.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type, or belongs to no parameter.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let weights = Weights::open(path)?;
        let known = |name: &str| {
            let of_param =
                |kind: &str| name.strip_prefix(kind).is_some_and(|n| self.names.iter().any(|own| own == n));
            name == RANDOM_STATE || ["exp_avg.", "exp_avg_sq.", "step."].into_iter().any(of_param)
        };
        if let Some(name) = weights.names().find(|name| !known(name)) {
            let reason = format!("`{name}` belongs to no parameter of this decoder");
            return Err(Error::Checkpoint { path: path.to_owned(), reason });
        }
        for (number, (name, shape)) in self.names.iter().zip(&self.shapes).enumerate() {
            let saved = |kind: &str, shape: &[i64]| {
                tensor_of(&weights, path, &format!("{kind}.{name}"), shape, Kind::Float)
            };
            let [first, second] = [saved("exp_avg", shape)?, saved("exp_avg_sq", shape)?];
            let step = saved("step", &[])?;
            for (i, part) in self.own.iter().enumerate().filter(|(_, part)| part.param == number) {
                let of = |whole: &Tensor| whole.f_reshape([-1])?.f_narrow(0, part.start, part.length);
                self.exp_avgs[i].f_copy_(&of(&first)?)?;
                self.exp_avg_sqs[i].f_copy_(&of(&second)?)?;
                self.steps[i].f_copy_(&step)?;
            }
        }
        let random = weights.shape(RANDOM_STATE).ok_or_else(|| Error::Checkpoint {
            path: path.to_owned(),
            reason: format!("`{RANDOM_STATE}` is missing"),
        })?;
        let state = tensor_of(&weights, path, RANDOM_STATE, &random, Kind::Uint8)?;
        Ok(torch_ext::set_rng_state(Device::Cpu, &state)?)
    }
}

/// What rank `rank` of `size` updates: its even part of all numbers, in the order of the parameters.
fn parts_of(store: &ParamStore, rank: usize, size: usize) -> Vec<Part> {
    let share = |rank: usize| store.numel() * rank as i64 / size as i64;
    let (from, to) = (share(rank), share(rank + 1));
    let mut before = 0;
    let mut parts = Vec::new();
    for (param, numel) in store.params().iter().map(|param| param.numel()).enumerate() {
        let (start, end) = (from.max(before), to.min(before + numel));
        if start < end {
            parts.push(Part { param, start: start - before, length: end - start });
        }
        before += numel;
    }
    parts
}

const RANDOM_STATE: &str = "random.cpu";

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
