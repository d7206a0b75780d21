//! A copy of an encoder with its weights rounded to 16 bits: half the bytes, to be carried to another machine.
//!
//! The space of its vectors is that of the original, whose digest the copy names: what rounding costs is for whoever
//! makes the copy to measure (a cosine of 0.999999 or so in f16), and a decoder that was trained on the copy's vectors
//! reads the original's.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Device, Kind, Tensor};

use super::folder::ModelFolder;
use crate::device::kind_name;
use crate::error::{Error, Result};
use crate::files;
use crate::hub::{Repository, join};
use crate::save_tensors;

/// Key of the metadata of rounded weights: the digest of the weights that they were made from.
pub(super) const ROUNDED_FROM: &str = "rounded_from";

/// Writes a copy of an encoder to a folder that is not there yet. `dim` chooses a dense head, as for
/// [`super::EncoderOptions::dim`]; dense heads are copied as they are.
///
/// # Errors
/// As [`super::Encoder::open`]; the disk's.
pub fn write_rounded(source: &str, dim: Option<usize>, target: &Path, kind: Kind) -> Result<()> {
    let repository = Repository::open(source)?;
    let folder = ModelFolder::read(&repository, dim)?;
    folder.require_dim(&repository, dim)?;
    for name in folder.descriptions() {
        if let Some(file) = repository.find(&name)? {
            copy(&file, &target.join(&name))?;
        }
    }
    name_heads(&target.join("modules.json"), &folder)?;
    let weights = folder.open_weights(&repository)?;
    for (dense, head) in folder.dense.iter().zip(&weights.dense) {
        copy(head.path(), &target.join(join(&dense.name, "model.safetensors")))?;
    }
    let transformer = &weights.transformer;
    let rounded = transformer.names().map(|name| {
        let shape = transformer.shape(name).unwrap_or_default();
        let own = transformer.kind(name);
        let kind = if own.is_some_and(is_float) { kind } else { own.unwrap_or(kind) };
        Ok((name.to_owned(), transformer.load(name, &shape, kind, Device::Cpu)?))
    });
    let rounded: Vec<(String, Tensor)> = rounded.collect::<Result<_>>()?;
    if let Some((name, _)) = rounded.iter().find(|(_, tensor)| is_float(tensor.kind()) && !is_finite(tensor))
    {
        let (path, dtype) = (transformer.path().to_owned(), kind_name(kind));
        return Err(Error::TensorOverflow { path, name: name.clone(), dtype });
    }
    let metadata = BTreeMap::from([(ROUNDED_FROM.to_owned(), weights.digest())]);
    let path = target.join(join(&folder.transformer, "model.safetensors"));
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    save_tensors(&path, &rounded, &metadata)
}

/// Has `modules.json` name the dense heads that were chosen, which are the only ones that are there.
fn name_heads(modules: &Path, folder: &ModelFolder) -> Result<()> {
    let mut all: Vec<serde_json::Map<String, serde_json::Value>> = files::read_json(modules)?;
    let mut heads = folder.dense.iter();
    for module in &mut all {
        let kind = module.get("type").and_then(|kind| kind.as_str());
        let is_dense = kind.is_some_and(|kind| kind.ends_with("Dense"));
        if let Some(head) = is_dense.then(|| heads.next()).flatten() {
            module.insert("path".to_owned(), head.name.clone().into());
        }
    }
    let text = serde_json::to_string_pretty(&all).map_err(std::io::Error::from)?;
    Ok(fs_err::write(modules, text)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder)?;
    }
    // the original may be read-only, as in a cache; the copy is the user's own
    fs_err::write(to, fs_err::read(from)?)?;
    Ok(())
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::Double | Kind::Float | Kind::Half | Kind::BFloat16)
}

fn is_finite(tensor: &Tensor) -> bool {
    let all = tensor.f_isfinite().and_then(|finite| finite.f_all());
    all.and_then(|all| all.f_int64_value(&[])).is_ok_and(|all| all != 0)
}
