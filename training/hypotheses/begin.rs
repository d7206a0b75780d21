//! Where refining begins: what the decoder knows of vectors is put where it will read hypotheses.

use models::ParamStore;
use tch::Tensor;

use crate::Result;

/// Gives the networks for a hypothesis' vector and for the difference the weights of that for the target, in the
/// masters and in their `averages` (one a parameter): the prefix then says from the first refinement on what the guess
/// holds and what it lacks, in the terms that the decoder has learnt already, instead of noise.
///
/// # Errors
/// libtorch's own.
pub(crate) fn copy_target_networks(store: &ParamStore, averages: Option<&[Tensor]>) -> Result<()> {
    let params = store.params();
    let place = |name: &str| params.iter().position(|param| param.name == name);
    tch::no_grad(|| {
        for (to, param) in params.iter().enumerate() {
            let Some(from) = source_of(&param.name).and_then(|name| place(&name)) else { continue };
            param.master.detach().f_copy_(&params[from].master)?;
            if let Some(averages) = averages {
                averages[to].shallow_clone().f_copy_(&averages[from])?;
            }
        }
        Ok(store.refresh()?)
    })
}

/// `projector.hypothesis.fc1.weight` has that of `projector.fc1.weight`, and so on.
fn source_of(name: &str) -> Option<String> {
    let rest = ["projector.hypothesis.fc", "projector.difference.fc"];
    let rest = rest.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    Some(format!("projector.fc{rest}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::{Decoder, DecoderConfig};
    use tch::{Device, Kind};

    #[test]
    fn the_three_networks_are_alike_afterwards_and_nothing_else_changes() {
        let config: DecoderConfig = serde_json::from_value(serde_json::json!({
            "dim": 6, "hidden": 8, "layers": 1, "heads": 2, "kv_heads": 2, "head_dim": 4, "ffn": 8, "vocab": 9,
            "prefix_tokens": 2, "projector_hidden": 5, "max_tokens": 8, "rope_theta": 1e4, "rms_norm_eps": 1e-5,
            "tie_embeddings": true, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "input_scale": 3.5,
            "refines": true}))
        .unwrap();
        let mut store = ParamStore::train(Device::Cpu, Kind::BFloat16, 11);
        let _decoder = Decoder::new(&config, &mut store).unwrap();
        let all = || -> Vec<Tensor> { store.params().iter().map(|param| param.master.copy()).collect() };
        let (before, averages) = (all(), all());
        averages.iter().for_each(|average| drop(average.shallow_clone().g_mul_scalar_(0.5)));
        copy_target_networks(&store, Some(&averages)).unwrap();
        let mut copied = 0;
        for (number, param) in store.params().iter().enumerate() {
            let source = source_of(&param.name);
            let from = source.as_ref().map_or(number, |name| {
                copied += 1;
                store.params().iter().position(|other| other.name == *name).unwrap()
            });
            assert!(param.master.equal(&before[from]), "{}", param.name);
            assert!(averages[number].equal(&(&before[from] * 0.5)), "{}", param.name);
            assert!(
                param
                    .compute
                    .to_kind(Kind::Float)
                    .equal(&param.master.to_kind(Kind::BFloat16).to_kind(Kind::Float))
            );
        }
        assert_eq!(copied, 8);
    }
}
