//! Which encoder belongs to a decoder, and where it lies on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Inverter, Space};

use crate::failure::WorldError;
use crate::run_recipe;

/// Flags about the encoder, shared by the verbs that re-encode.
#[derive(Debug, Args)]
pub(crate) struct EncoderArgs {
    /// Where the encoder lies: a sentence-transformers folder or a hub name [default: from the decoder's space]
    #[arg(long, value_name = "DIR|HUB")]
    pub(crate) encoder: Option<String>,
    /// Numbers the encoder computes with: auto, f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    pub(crate) encoder_dtype: Dtype,
}

/// Opens the encoder of a decoder's space: the one asked for, else the one its run was trained with, else the one its
/// space names. An encoder of another space is refused with both named. `decoder` is the folder it was opened from.
pub(crate) fn open_for(
    inverter: &Inverter,
    decoder: &Path,
    args: &EncoderArgs,
    device: DeviceChoice,
) -> Result<Encoder> {
    let space = &inverter.space;
    let source = match &args.encoder {
        Some(source) => source.clone(),
        None => locate(space, run_recipe::recipe_of(decoder).map(|recipe| recipe.encoder.source))?,
    };
    let options = EncoderOptions {
        device,
        dtype: args.encoder_dtype,
        prompt: Some(space.prompt.name.clone()),
        max_tokens: Some(space.max_tokens),
        normalize: Some(space.normalize),
        dim: Some(space.dim),
        ..EncoderOptions::default()
    };
    let encoder = Encoder::open(&source, &options)?;
    encoder.space().require_within(space, &format!("the encoder at {source}"), "the decoder")?;
    Ok(encoder)
}

/// Where the encoder of `space` may lie: where it lay for the training, by its name here or among the encoders that
/// set-up leaves, or on the hub.
fn locate(space: &Space, trained_with: Option<String>) -> Result<String> {
    let given = &space.encoder;
    let name = Path::new(given).file_name().map(PathBuf::from).unwrap_or_default();
    let candidates =
        [trained_with.map(PathBuf::from), Some(PathBuf::from(given)), Some(Path::new(".venv").join(name))];
    if let Some(found) = candidates.iter().flatten().find(|path| path.join("modules.json").exists()) {
        return Ok(found.display().to_string());
    }
    let looks_like_a_hub_name = given.split('/').count() == 2 && !given.starts_with(['.', '/', '~']);
    if looks_like_a_hub_name {
        return Ok(match &space.revision {
            Some(revision) => format!("{given}@{revision}"),
            None => given.clone(),
        });
    }
    Err(WorldError::with_hint(
        format!("the encoder of this space, `{given}`, is not on this machine ({})", space.id()),
        "say where it lies with `--encoder DIR` (or its hub name)",
    )
    .into())
}
