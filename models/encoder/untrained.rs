//! An encoder of STELLA 1.5B's shapes with random weights, made on the device: what encoding costs where the weights
//! are not at hand.
#![allow(non_snake_case)]

use tch::{Device, Kind, Tensor};

use super::backbone::Backbone as _;
use super::head::{normalize, pool};
use super::qwen::Qwen;
use crate::error::Result;
use crate::params::Init;
use crate::space::Pooling;

/// Numbers in a vector: those of `2_Dense_1024`.
const DIM: i64 = 1024;

/// STELLA 1.5B without what it learnt, and without a tokenizer. Its vectors mean nothing.
pub struct Untrained {
    qwen: Qwen,
    head_DH: Tensor,
    bias_D: Tensor,
    parameters: i64,
}

impl Untrained {
    /// Layers of the real one.
    pub const LAYERS: i64 = 28;
    /// Words of the real one.
    pub const WORDS: i64 = 151_646;

    /// One with so many layers and words, in `kind`; the head is in f32, as always.
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and below.
    pub fn stella(layers: i64, words: i64, device: Device, kind: Kind) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let (qwen, parameters) = Qwen::untrained(layers, words, device, kind)?;
        let hidden = qwen.dimensions().hidden;
        let make = |shape: &[i64]| Init::Normal(0.02).on_device(shape, Kind::Float, device);
        let (head_DH, bias_D) = (make(&[DIM, hidden])?, make(&[DIM])?);
        Ok(Self { qwen, head_DH, bias_D, parameters: parameters + DIM * (hidden + 1) })
    }

    /// Vectors of ids `[B, T]` (i64, on the encoder's device) without padding: `[B, 1024]`, f32, on the CPU.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn embed(&self, ids_BT: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let pooled_BH = pool(Pooling::Mean, &self.qwen.hidden(ids_BT, None)?, None)?;
        let x_BD = pooled_BH.f_linear(&self.head_DH, Some(&self.bias_D))?;
        Ok(normalize(&x_BD)?.f_to_device(Device::Cpu)?)
    }

    /// Numbers in all weights.
    pub fn parameters(&self) -> i64 {
        self.parameters
    }

    /// Operations of the matrix products for one text of so many tokens, the head aside.
    pub fn flops(&self, tokens: usize) -> f64 {
        self.qwen.flops(tokens)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_has_stellas_size_and_gives_vectors_of_length_one() {
        let small = Untrained::stella(1, 50, Device::Cpu, Kind::BFloat16).unwrap();
        let vectors_ND = small.embed(&Tensor::from_slice2(&[[1i64, 2, 3], [4, 5, 6], [1, 2, 3]])).unwrap();
        assert_eq!(vectors_ND.size(), [3, 1024]);
        let lengths = vectors_ND.norm_scalaropt_dim(2, [1i64].as_slice(), false);
        assert!(lengths.allclose(&Tensor::ones([3], (Kind::Float, Device::Cpu)), 1e-5, 1e-5, false));
        let apart = (vectors_ND.get(0) - vectors_ND.get(1)).abs().max().double_value(&[]);
        assert!(apart > 0.01, "{apart}");
        // what is added by a layer and a word, the rest being the last norm and the head: 1.54 billion in all
        let two = Untrained::stella(2, 51, Device::Cpu, Kind::BFloat16).unwrap();
        let layer = two.parameters() - small.parameters() - 1536;
        let rest = small.parameters() - layer - 50 * 1536;
        let all = Untrained::LAYERS * layer + Untrained::WORDS * 1536 + rest;
        assert!((1.542e9..1.546e9).contains(&(all as f64)), "{all}");
        assert_eq!(rest, 1536 + 1024 * 1537);
    }
}
