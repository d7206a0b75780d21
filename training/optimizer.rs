//! AdamW with its state in our hands, so that a resumed run is bit-equal to one that never stopped.

use std::collections::BTreeMap;
use std::path::Path;

use models::params::Group;
use models::{ParamStore, Weights, save_tensors};
use tch::{Device, Kind, Tensor};

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

/// AdamW over all parameters of a store.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    names: Vec<String>,
    exp_avgs: Vec<Tensor>,
    exp_avg_sqs: Vec<Tensor>,
    /// Steps taken, as the fused kernel wants it: f32 scalars, one a parameter.
    steps: Vec<Tensor>,
    decayed: Vec<usize>,
    plain: Vec<usize>,
}

impl AdamW {
    /// An optimizer at rest for the parameters of `store`.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(config: AdamWConfig, store: &ParamStore) -> Result<Self> {
        let zeros = || -> Result<Vec<Tensor>> {
            store.params().iter().map(|param| Ok(param.master.detach().f_zeros_like()?)).collect()
        };
        let steps = store
            .params()
            .iter()
            .map(|_| Ok(Tensor::f_zeros([] as [i64; 0], (Kind::Float, store.device()))?));
        let (plain, decayed) =
            (0..store.params().len()).partition(|&i| store.params()[i].group == Group::Gain);
        Ok(Self {
            config,
            names: store.params().iter().map(|param| param.name.clone()).collect(),
            exp_avgs: zeros()?,
            exp_avg_sqs: zeros()?,
            steps: steps.collect::<Result<_>>()?,
            decayed,
            plain,
        })
    }

    /// One update of the masters with f32 `gradients` (one a parameter, in their order), after which the compute
    /// copies are refreshed.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn step(&mut self, store: &ParamStore, gradients: &[Tensor], learning_rate: f64) -> Result<()> {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        torch_ext::foreach_add_scalar(&self.steps, 1.0)?;
        for (group, decay) in [(&self.decayed, weight_decay), (&self.plain, 0.0)] {
            if group.is_empty() {
                continue;
            }
            let of = |tensors: &[Tensor]| -> Vec<Tensor> {
                group.iter().map(|&i| tensors[i].shallow_clone()).collect()
            };
            let masters: Vec<Tensor> = group.iter().map(|&i| store.params()[i].master.detach()).collect();
            torch_ext::fused_adamw(
                &masters,
                &of(gradients),
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
        Ok(store.refresh()?)
    }

    fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let parts = [("exp_avg", &self.exp_avgs), ("exp_avg_sq", &self.exp_avg_sqs), ("step", &self.steps)];
        let named = |(part, tensors): (&'static str, &Vec<Tensor>)| -> Vec<(String, Tensor)> {
            let names = self.names.iter().map(move |name| format!("{part}.{name}"));
            names.zip(tensors.iter().map(Tensor::shallow_clone)).collect()
        };
        parts.into_iter().flat_map(named).collect()
    }

    /// Writes the whole state, and the state of libtorch's random generator, as safetensors.
    ///
    /// # Errors
    /// The disk's, or libtorch's.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = self.named_tensors();
        tensors.push((RANDOM_STATE.to_owned(), torch_ext::rng_state(Device::Cpu)?));
        Ok(save_tensors(path, &tensors, &BTreeMap::new())?)
    }

    /// Reads the state back.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or type, or belongs to no parameter.
    pub fn load(&mut self, path: &Path) -> Result<()> {
        let weights = Weights::open(path)?;
        let own = self.named_tensors();
        if let Some(name) =
            weights.names().find(|name| *name != RANDOM_STATE && own.iter().all(|(own, _)| own != name))
        {
            return Err(Error::Checkpoint {
                path: path.to_owned(),
                reason: format!("`{name}` belongs to no parameter of this decoder"),
            });
        }
        for (name, tensor) in own {
            let saved = tensor_of(&weights, path, &name, &tensor.size(), tensor.kind())?;
            tensor.shallow_clone().f_copy_(&saved)?;
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
