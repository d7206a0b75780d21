//! What a small random decoder computes on a device, in numbers: to be compared with another device's, or another
//! machine's.
#![allow(non_snake_case)]

use std::collections::BTreeMap;

use models::generate::{GenerateOptions, Strategy, generate};
use models::{Decoder, ParamStore};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::loss::LossOptions;
use crate::optimizer::{AdamWConfig, MuonConfig, Optimizer, OptimizerConfig};
use crate::speed::Shapes;
use crate::step::Model;

/// The decoder that is traced: initial weights and texts follow from its seed alone, whatever the device.
pub const SHAPES: Shapes = Shapes {
    dim: 96,
    hidden: 128,
    layers: 3,
    heads: 4,
    ffn: 344,
    vocab: 1000,
    prefix: 4,
    batch: 24,
    length: 14,
};

/// Texts that are generated, in tokens.
const LONGEST: i64 = 24;

/// Computes by name, all f32 on the CPU: `scores` (texts, tokens, vocabulary) of random texts, `loss` and `gradients` of a
/// training step on them, `adamw` and `muon`, the change of all weights by a step of each, and `texts`, the tokens that
/// are generated greedily from their vectors, -1 behind the end.
///
/// # Errors
/// libtorch's own.
pub fn trace(device: Device, kind: Kind) -> Result<BTreeMap<String, Tensor>> {
    let batch = SHAPES.first_batch()?;
    let part = &batch.parts[0];
    let mut found = BTreeMap::new();
    let mut model = new_model(device, kind)?;
    let condition = part.condition.to_device(device)?;
    let scores_BTV = tch::no_grad(|| {
        let h_BTH = model.decoder.hidden(&condition, &part.tokens_BT.f_to_device(device)?)?;
        model.decoder.logits(&h_BTH)
    })?;
    found.insert("scores".to_owned(), host(&scores_BTV)?);
    let step = model.backward(&batch, LossOptions::default())?;
    found.insert("loss".to_owned(), Tensor::f_from_slice(&[step.loss as f32])?);
    found.insert("gradients".to_owned(), host(&flat(model.gradients())?)?);
    found.insert("texts".to_owned(), texts(&outspoken(device, kind)?.decoder, &condition.v_BD)?);
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let muon = MuonConfig { momentum: 0.95, iterations: 5, weight_decay: 0.1 };
    for (name, muon) in [("adamw", None), ("muon", Some(muon))] {
        let mut model = new_model(device, kind)?;
        let before = flat(&masters(&model))?;
        let mut optimizer = Optimizer::new(OptimizerConfig { adamw, muon }, &model.store)?;
        let step = model.backward(&batch, LossOptions::default())?;
        model.apply(&mut optimizer, step, None, 1e-3)?;
        found.insert(name.to_owned(), host(&flat(&masters(&model))?.f_sub(&before)?)?);
    }
    Ok(found)
}

fn new_model(device: Device, kind: Kind) -> Result<Model> {
    let mut store = ParamStore::train(device, kind, 1);
    let mut config = SHAPES.config();
    config.max_tokens = LONGEST;
    let decoder = Decoder::new(&config, &mut store)?;
    Model::new(store, decoder)
}

/// The same with larger weights, so that every text is another one: as it begins, a decoder says one token for ever.
fn outspoken(device: Device, kind: Kind) -> Result<Model> {
    let model = new_model(device, kind)?;
    tch::no_grad(|| -> Result<()> {
        for param in model.store.params().iter().filter(|param| param.master.dim() > 1) {
            let _ = param.master.shallow_clone().f_mul_scalar_(10.0)?;
        }
        Ok(model.store.refresh()?)
    })?;
    Ok(model)
}

fn masters(model: &Model) -> Vec<Tensor> {
    model.store.params().iter().map(|param| param.master.detach()).collect()
}

fn flat(tensors: &[Tensor]) -> Result<Tensor> {
    let flat: Vec<Tensor> =
        tensors.iter().map(|tensor| Ok(tensor.f_detach()?.f_reshape([-1])?)).collect::<Result<_>>()?;
    Ok(Tensor::f_cat(&flat, 0)?)
}

fn texts(decoder: &Decoder, v_BD: &Tensor) -> Result<Tensor> {
    let options = GenerateOptions { strategy: Strategy::Greedy, ..GenerateOptions::default() };
    let mut tokens = Vec::new();
    for text in generate(decoder, v_BD, &options)?.into_iter().flatten() {
        let mut row: Vec<f32> = text.ids.iter().map(|&id| id as f32).collect();
        row.resize(LONGEST as usize, -1.0);
        tokens.extend(row);
    }
    Ok(Tensor::f_from_slice(&tokens)?.f_view([-1, LONGEST])?)
}

fn host(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_the_same_again_and_sees_what_the_weights_are() {
        let (one, two) = (trace(Device::Cpu, Kind::Float).unwrap(), trace(Device::Cpu, Kind::Float).unwrap());
        assert_eq!(one.keys().collect::<Vec<_>>(), ["adamw", "gradients", "loss", "muon", "scores", "texts"]);
        for (name, tensor) in &one {
            assert!(tensor.equal(&two[name]), "{name}");
            let spread = tensor.std(false).double_value(&[]);
            assert!(name == "loss" || spread > 0.0, "{name}");
        }
        assert_eq!(one["scores"].size(), [24, 14, 1000]);
        assert_eq!(one["texts"].size(), [24, 24]);
        let rows: std::collections::BTreeSet<String> = (0..24)
            .map(|text| format!("{:?}", Vec::<f32>::try_from(one["texts"].get(text)).unwrap()))
            .collect();
        assert!(rows.len() > 20, "{} texts are different", rows.len());
        // random texts of 1000 tokens are a matter of chance
        assert!((one["loss"].double_value(&[0]) - 1000f64.ln()).abs() < 1.0);
        assert_ne!(one["adamw"], one["muon"]);
    }
}
