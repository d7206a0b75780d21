//! The encoder of a recipe, rounded, and what that costs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use eval::cosines;
use models::encoder::write_rounded;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions};
use serde::Serialize;
use tch::Device;

use crate::failure::WorldError;
use crate::output::one_line;

/// What rounding an encoder's weights costs.
#[derive(Debug, Serialize)]
pub(super) struct RoundedEncoder {
    /// What it was made from.
    pub(super) source: String,
    /// Numbers in a vector.
    pub(super) dim: usize,
    /// Its weights now.
    pub(super) dtype: String,
    /// Texts whose vectors were compared, both computed in f32.
    pub(super) texts: usize,
    /// Mean cosine to the original's vectors.
    pub(super) cosine_mean: f64,
    /// Lowest of them.
    pub(super) cosine_lowest: f64,
}

/// Texts that are compared.
const COMPARED: usize = 256;
/// Texts that encoding is timed with.
const TIMED: usize = 8192;

/// Writes the encoder to `encoder` below `bundle`, makes the recipe name it, and has the CPU's results written that the
/// other machine compares its own with.
pub(super) fn pack(recipe: &mut training::Recipe, dtype: Dtype, bundle: &Path) -> Result<RoundedEncoder> {
    let source = std::mem::replace(&mut recipe.encoder.source, "encoder".to_owned());
    let copy = bundle.join("encoder");
    write_rounded(&source, recipe.encoder.dim, &copy, dtype.resolve(Device::Cpu))?;
    let options = EncoderOptions {
        device: DeviceChoice::Cpu,
        dtype: Dtype::F32,
        dim: recipe.encoder.dim,
        ..EncoderOptions::default()
    };
    let mut texts = texts(recipe, bundle)?;
    fs_err::write(
        bundle.join("sample.txt"),
        texts.iter().map(|text| one_line(text) + "\n").collect::<String>(),
    )?;
    texts.truncate(COMPARED);
    let borrowed: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embed = |source: &str| -> Result<_> { Ok(Encoder::open(source, &options)?.embed(&borrowed)?) };
    let (original, rounded) = (embed(&source)?, embed(&copy.to_string_lossy())?);
    let cosines = cosines(&original, &rounded)?;
    write_golden(&copy, &bundle.join("golden.safetensors"))?;
    Ok(RoundedEncoder {
        source,
        dim: original.size().last().copied().unwrap_or(0) as usize,
        dtype: dtype.to_string(),
        texts: cosines.len(),
        cosine_mean: cosines.iter().sum::<f64>() / cosines.len() as f64,
        cosine_lowest: cosines.iter().copied().fold(1.0, f64::min),
    })
}

/// The first texts of all corpora, an equal share of each, in turn.
fn texts(recipe: &training::Recipe, bundle: &Path) -> Result<Vec<String>> {
    let share = TIMED.div_ceil(recipe.corpus.len().max(1));
    let mut texts = Vec::new();
    for (number, corpus) in recipe.corpus.iter().enumerate() {
        let here: Vec<PathBuf> = corpus.path.as_slice().iter().map(|path| bundle.join(path)).collect();
        let corpus = data::CorpusConfig { path: data::corpus::Paths::Many(here), ..corpus.clone() };
        for (place, document) in data::open_corpus(&corpus)?.take(share).enumerate() {
            texts.push((place, number, document?.text));
        }
    }
    texts.sort();
    let texts: Vec<String> = texts.into_iter().map(|(_, _, text)| text).collect();
    if texts.is_empty() {
        return Err(
            WorldError::with_hint("the recipe's corpora hold no text", "look at its `[[corpus]]`").into()
        );
    }
    Ok(texts)
}

/// In a process of its own: what it computes must not depend on what was computed before.
fn write_golden(encoder: &Path, file: &Path) -> Result<()> {
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    let mut command = Command::new(own);
    command.args(["-q", "parity", "--device", "cpu", "--encoder"]).arg(encoder).arg("--write").arg(file);
    let output = command.output().context("cannot run `parity`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(WorldError::with_hint(format!("`parity --write` failed: {said}"), "see above").into());
    }
    Ok(())
}
