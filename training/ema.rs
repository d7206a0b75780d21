//! An exponential moving average of the weights: what a run is evaluated and exported with.

use std::path::Path;

use models::{ParamStore, Weights};
use tch::Tensor;

use crate::checkpoint::tensor_of;
use crate::{Error, Result};

/// f32 averages of the master weights, one a parameter and in their order.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averages: Vec<Tensor>,
    masters: Vec<Tensor>,
}

impl Ema {
    /// Starts at the weights as they are.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(store: &ParamStore, decay: f64) -> Result<Self> {
        let masters: Vec<Tensor> = store.params().iter().map(|param| param.master.detach()).collect();
        let averages =
            masters.iter().map(|master| master.f_empty_like()).collect::<std::result::Result<Vec<_>, _>>()?;
        torch_ext::foreach_copy(&averages, &masters)?;
        Ok(Self { decay, averages, masters })
    }

    /// Takes the weights after step `step` (counted from 1) in. Early on the average forgets faster, else it would
    /// carry the random start for long: decay = min(decay, (1 + step) / (10 + step)), as TensorFlow's
    /// `ExponentialMovingAverage` with `num_updates`.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn update(&mut self, step: u64) -> Result<()> {
        let decay = self.decay.min((1 + step) as f64 / (10 + step) as f64);
        Ok(torch_ext::foreach_lerp(&self.averages, &self.masters, 1.0 - decay)?)
    }

    /// The averages, one a parameter and in their order.
    pub fn averages(&self) -> &[Tensor] {
        &self.averages
    }

    /// The averages under the names on disk, and the buffers of the store.
    pub fn named_tensors(&self, store: &ParamStore) -> Vec<(String, Tensor)> {
        let of_params = store.params().iter().zip(&self.averages).flat_map(|(param, average)| {
            let mut start = 0;
            param.parts.iter().map(move |part| {
                let tensor = if param.parts.len() == 1 {
                    average.shallow_clone()
                } else {
                    average.narrow(0, start, part.rows)
                };
                start += part.rows;
                (part.name.clone(), tensor)
            })
        });
        of_params.chain(store.buffers().iter().map(|(name, b)| (name.clone(), b.shallow_clone()))).collect()
    }

    /// Reads the averages back.
    ///
    /// # Errors
    /// A tensor that is missing, or has another shape or type.
    pub fn load(&mut self, store: &ParamStore, path: &Path) -> Result<()> {
        let weights = Weights::open(path)?;
        for (name, tensor) in self.named_tensors(store) {
            let saved = tensor_of(&weights, path, &name, &tensor.size(), tensor.kind())?;
            tensor.shallow_clone().f_copy_(&saved).map_err(Error::from)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::params::{Group, Init};
    use tch::{Device, Kind};

    /// Weights that leave their start at once: a short training's average must not hang on it.
    #[test]
    fn the_start_is_soon_forgotten() {
        let mut store = ParamStore::train(Device::Cpu, Kind::Float, 0);
        let _ = store.tensor("w", &[2], Init::Zeros, Group::Matrix).unwrap();
        let mut ema = Ema::new(&store, 0.999).unwrap();
        let _ = store.params()[0].master.detach().fill_(1.0);
        let mut left = 1.0;
        for step in 1..=50 {
            ema.update(step).unwrap();
            left *= (1.0 + step as f64) / (10.0 + step as f64);
            let average = ema.averages()[0].double_value(&[0]);
            assert!((1.0 - average - left).abs() < 1e-5, "step {step}: {average}");
        }
        // a constant decay would have kept 95 %
        assert!(left < 1e-4, "{left}");
    }
}
