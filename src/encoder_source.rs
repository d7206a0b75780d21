//! Which encoder belongs to a decoder, and where it lies on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Inverter, Space};

use crate::failure::WorldError;

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

/// Opens the encoder of `space`: the one asked for, else the one the space was made with. An encoder of another
/// space is refused with both named.
pub(crate) fn open_for(space: &Space, args: &EncoderArgs, device: DeviceChoice) -> Result<Encoder> {
    let source = match &args.encoder {
        Some(source) => source.clone(),
        None => locate(space)?,
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
    encoder.space().require_same(space, &format!("the encoder at {source}"), "the decoder")?;
    Ok(encoder)
}

/// The encoder of a decoder, or a clear word on how to give one.
pub(crate) fn open_for_decoder(inverter: &Inverter, args: &EncoderArgs, device: DeviceChoice) -> Result<Encoder> {
    open_for(&inverter.space, args, device)
}

/// Where the encoder of `space` may lie: as it was given when the space was made, by its name among the
/// encoders that set-up leaves, or on the hub.
fn locate(space: &Space) -> Result<String> {
    let given = &space.encoder;
    let name = Path::new(given).file_name().map(PathBuf::from).unwrap_or_default();
    let candidates = [PathBuf::from(given), Path::new(".venv").join(&name)];
    if let Some(found) = candidates.iter().find(|path| path.join("modules.json").exists()) {
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
