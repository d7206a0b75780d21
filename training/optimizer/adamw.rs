//! AdamW over some of a store's parameters.

use std::path::Path;
use std::sync::Arc;

use models::params::Group;
use models::{ParamStore, Weights};
use tch::{Device, Kind, Tensor};
use torch_ext::{Reduce, World};

use super::Owner;
use crate::Result;
use crate::checkpoint::tensor_of;

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

/// The moments of the parameters, of which each rank has its part of the numbers.
#[derive(Debug)]
pub(super) struct AdamW {
    config: AdamWConfig,
    owners: Vec<Owner>,
    /// What each rank updates.
    by_rank: Vec<Vec<Part>>,
    /// What this rank updates.
    own: Vec<Part>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// Steps taken, as the fused kernel wants it: f32 scalars, one a part.
    steps: Vec<Tensor>,
    decayed: Vec<usize>,
    plain: Vec<usize>,
}

/// Neighbouring numbers of one parameter, which is taken as flat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    /// Number of the parameter's owner.
    owner: usize,
    /// Number of the parameter in the store.
    param: usize,
    start: i64,
    length: i64,
}

impl Part {
    fn of(&self, tensors: &[Tensor]) -> Result<Tensor> {
        Ok(tensors[self.param].f_view([-1])?.f_narrow(0, self.start, self.length)?)
    }
}

/// The two moments as the file names them.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl AdamW {
    /// At rest for the parameters of these numbers.
    pub(super) fn new(
        config: AdamWConfig,
        store: &ParamStore,
        params: &[usize],
        world: &Arc<World>,
    ) -> Result<Self> {
        let owners: Vec<Owner> = params.iter().map(|&param| Owner::of(store, param)).collect();
        let by_rank: Vec<Vec<Part>> =
            (0..world.size()).map(|rank| parts_of(&owners, rank, world.size())).collect();
        let own = by_rank[world.rank()].clone();
        let zeros = |part: &Part| Ok(Tensor::f_zeros([part.length], (Kind::Float, store.device()))?);
        let steps = own.iter().map(|_| Ok(Tensor::f_zeros([] as [i64; 0], (Kind::Float, store.device()))?));
        let (plain, decayed) =
            (0..own.len()).partition(|&i| store.params()[own[i].param].group == Group::Gain);
        Ok(Self {
            config,
            exp_avgs: own.iter().map(zeros).collect::<Result<_>>()?,
            exp_avg_sqs: own.iter().map(zeros).collect::<Result<_>>()?,
            steps: steps.collect::<Result<_>>()?,
            owners,
            by_rank,
            own,
            decayed,
            plain,
        })
    }

    /// One update of what this rank has of the masters.
    pub(super) fn step(&self, masters: &[Tensor], gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        torch_ext::foreach_add_scalar(&self.steps, 1.0)?;
        for (group, decay) in [(&self.decayed, weight_decay), (&self.plain, 0.0)] {
            let parts_of = |tensors: &[Tensor]| -> Result<Vec<Tensor>> {
                group.iter().map(|&i| self.own[i].of(tensors)).collect()
            };
            let of = |tensors: &[Tensor]| -> Vec<Tensor> {
                group.iter().map(|&i| tensors[i].shallow_clone()).collect()
            };
            torch_ext::fused_adamw(
                &parts_of(masters)?,
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
        Ok(())
    }

    /// What each rank has updated of the masters.
    pub(super) fn shares(&self, masters: &[Tensor]) -> Result<Vec<(usize, Tensor)>> {
        let all = self.by_rank.iter().enumerate();
        let parts = all.flat_map(|(rank, parts)| parts.iter().map(move |part| (rank, part)));
        parts.map(|(rank, part)| Ok((rank, part.of(masters)?))).collect()
    }

    /// Names of the whole state.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let of =
            |owner: &Owner| ["exp_avg", "exp_avg_sq", "step"].map(|kind| format!("{kind}.{}", owner.name));
        self.owners.iter().flat_map(of)
    }

    /// The whole state on rank 0.
    pub(super) fn state(&self, world: &World) -> Result<Vec<(String, Tensor)>> {
        let mut named = Vec::new();
        for (kind, tensors) in MOMENTS.into_iter().zip([&self.exp_avgs, &self.exp_avg_sqs]) {
            for (number, owner) in self.owners.iter().enumerate() {
                let whole = self.whole(number, tensors, world)?;
                if world.is_first() {
                    named.push((format!("{kind}.{}", owner.name), whole.f_view(owner.shape.as_slice())?));
                }
            }
        }
        if world.is_first() {
            // all parts have taken the same steps
            let step = self.steps.first().map_or_else(|| Tensor::from(0f32), Tensor::shallow_clone);
            let of = |owner: &Owner| (format!("step.{}", owner.name), step.shallow_clone());
            named.extend(self.owners.iter().map(of));
        }
        Ok(named)
    }

    /// The state of one parameter, flat: this rank's own, and what the others have of it.
    fn whole(&self, number: usize, tensors: &[Tensor], world: &World) -> Result<Tensor> {
        let mut own = self.own.iter().zip(tensors).filter(|(part, _)| part.owner == number);
        let length = self.owners[number].numel();
        if world.size() == 1 {
            let whole = own.next().map(|(_, tensor)| tensor.shallow_clone());
            return whole.map_or_else(|| Ok(Tensor::f_zeros([length], (Kind::Float, Device::Cpu))?), Ok);
        }
        let device = tensors.first().map_or(Device::Cpu, Tensor::device);
        let whole = Tensor::f_zeros([length], (Kind::Float, device))?;
        for (part, tensor) in own {
            whole.f_narrow(0, part.start, part.length)?.f_copy_(tensor)?;
        }
        // the parts do not overlap: their sum joins them
        world.all_reduce(&whole, Reduce::Sum)?;
        // all of them together may be more than the device has room for: that is why they are shared
        Ok(if world.is_first() { whole.f_to_device(Device::Cpu)? } else { whole })
    }

    /// Reads this rank's share back.
    pub(super) fn load(&mut self, weights: &Weights, path: &Path) -> Result<()> {
        for (number, owner) in self.owners.iter().enumerate() {
            let saved = |kind: &str, shape: &[i64]| {
                tensor_of(weights, path, &format!("{kind}.{}", owner.name), shape, Kind::Float)
            };
            let [first, second] = [saved(MOMENTS[0], &owner.shape)?, saved(MOMENTS[1], &owner.shape)?];
            let step = saved("step", &[])?;
            for (i, part) in self.own.iter().enumerate().filter(|(_, part)| part.owner == number) {
                let of = |whole: &Tensor| whole.f_reshape([-1])?.f_narrow(0, part.start, part.length);
                self.exp_avgs[i].f_copy_(&of(&first)?)?;
                self.exp_avg_sqs[i].f_copy_(&of(&second)?)?;
                self.steps[i].f_copy_(&step)?;
            }
        }
        Ok(())
    }
}

/// What rank `rank` of `size` updates: its even part of all numbers, in the order of the parameters.
fn parts_of(owners: &[Owner], rank: usize, size: usize) -> Vec<Part> {
    let all: i64 = owners.iter().map(Owner::numel).sum();
    let share = |rank: usize| all * rank as i64 / size as i64;
    let (from, to) = (share(rank), share(rank + 1));
    let mut before = 0;
    let mut parts = Vec::new();
    for (number, owner) in owners.iter().enumerate() {
        let (start, end) = (from.max(before), to.min(before + owner.numel()));
        if start < end {
            let (start, length) = (start - before, end - start);
            parts.push(Part { owner: number, param: owner.param, start, length });
        }
        before += owner.numel();
    }
    parts
}
