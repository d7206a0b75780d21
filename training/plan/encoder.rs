//! The encoder that stands beside a training.

use std::path::Path;

use models::{DeviceChoice, Weights};
use tch::Device;

use crate::recipe::{ConsistencyKind, Recipe};

/// Bytes of its weights on the device of the training: 0 where none is there, `None` where its size is not known here.
pub(super) fn bytes(recipe: &Recipe, device: Device) -> Option<u64> {
    if !(is_needed(recipe) && is_on(recipe, device)) {
        return Some(0);
    }
    let kind = recipe.encoder.dtype.resolve(device);
    Some(parameters(Path::new(&recipe.encoder.source))? * kind.elt_size_in_bytes() as u64)
}

/// Whether texts are encoded in the training's course: for round trips, hypotheses, or the consistency loss.
fn is_needed(recipe: &Recipe) -> bool {
    recipe.eval.texts > 0 || recipe.refinement.share > 0.0 || recipe.consistency.kind != ConsistencyKind::None
}

/// Whether it is on the training's device. On a GPU, which need not be that of this machine, it is unless the recipe says
/// otherwise.
fn is_on(recipe: &Recipe, device: Device) -> bool {
    match (device, recipe.encoder.device, recipe.training.device) {
        (Device::Cuda(_), DeviceChoice::Cpu, _) => false,
        (Device::Cuda(_), DeviceChoice::Cuda(own), DeviceChoice::Cuda(other)) => own == other,
        (Device::Cuda(_), _, _) => true,
        (_, choice, _) => choice.resolve().is_ok_and(|own| own == device),
    }
}

/// Numbers in the weights of a model in a folder here, its dense heads aside. A hub is not asked: a plan needs no network.
fn parameters(folder: &Path) -> Option<u64> {
    let names = ["model.safetensors", "model.safetensors.index.json"];
    let file = names.iter().map(|name| folder.join(name)).find(|file| file.is_file())?;
    let weights = Weights::open(file).ok()?;
    let size = |name: &str| weights.shape(name).map_or(0, |shape| shape.iter().product::<i64>());
    Some(weights.names().map(size).sum::<i64>() as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::Dtype;

    #[test]
    fn it_counts_where_it_is_needed_and_on_the_same_device() {
        let mut recipe = Recipe::default();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tests/golden/backbones/bert");
        recipe.encoder.source = golden.to_owned();
        recipe.encoder.dtype = Dtype::F32;
        let gpu = Device::Cuda(0);
        let all = parameters(Path::new(golden)).unwrap();
        // the table of words alone has 139 rows of 32
        assert!((139 * 32..100_000).contains(&all), "{all}");
        assert_eq!(bytes(&recipe, gpu), Some(4 * all));
        recipe.encoder.dtype = Dtype::Auto;
        assert_eq!(bytes(&recipe, gpu), Some(2 * all));
        recipe.encoder.device = DeviceChoice::Cpu;
        assert_eq!(bytes(&recipe, gpu), Some(0));
        (recipe.encoder.device, recipe.training.device) = (DeviceChoice::Cuda(1), DeviceChoice::Cuda(0));
        assert_eq!(bytes(&recipe, gpu), Some(0));
        recipe.encoder.device = DeviceChoice::Auto;
        recipe.eval.texts = 0;
        assert_eq!(bytes(&recipe, gpu), Some(0));
        recipe.refinement.share = 0.5;
        assert_eq!(bytes(&recipe, gpu), Some(2 * all));
        recipe.encoder.source = "organisation/elsewhere".to_owned();
        assert_eq!(bytes(&recipe, gpu), None);
    }
}
