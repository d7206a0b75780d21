//! Which encoder belongs to a decoder, and where it lies on this machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use models::space::prompt_meant;
use models::{DeviceChoice, Dtype, Embed as _, Encoder, EncoderOptions, Inverter, Prompt, Space};

use crate::failure::{ArgumentError, WorldError};
use crate::run_recipe;

/// Flags about the encoder, shared by the verbs that re-encode.
#[derive(Debug, Args)]
pub(crate) struct EncoderArgs {
    /// Where the encoder lies: a sentence-transformers folder or a hub name [default: from the decoder's space]
    #[arg(long, value_name = "DIR|HUB")]
    pub(crate) encoder: Option<String>,
    /// A prompt of the decoder's space that texts are encoded under, by its name [default: the first]
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt: Option<String>,
    /// Numbers the encoder computes with: auto, f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    pub(crate) encoder_dtype: Dtype,
}

/// Opens the encoder of a decoder's space under the prompt asked for, or the first of that space: the encoder asked for, else the one its run was trained
/// with, else the one its space names. An encoder of another space is refused with both named. `decoder` is the folder
/// it was opened from.
pub(crate) fn open_for(
    inverter: &Inverter,
    decoder: &Path,
    args: &EncoderArgs,
    device: DeviceChoice,
) -> Result<Encoder> {
    let space = &inverter.space;
    let prompt = match &args.prompt {
        Some(name) => prompt_named(space, name)?,
        None => &space.prompt,
    };
    open_under(prompt, inverter, decoder, args, device)
}

/// The same under a prompt of the decoder's space.
pub(crate) fn open_under(
    prompt: &Prompt,
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
        prompt: Some(prompt.name.clone()),
        max_tokens: Some(space.max_tokens),
        normalize: Some(space.normalize),
        dim: Some(space.dim),
        attention: Some(space.attention),
        ..EncoderOptions::default()
    };
    let encoder = Encoder::open(&source, &options)?;
    encoder.space().require_within(space, &format!("the encoder at {source}"), "the decoder")?;
    Ok(encoder)
}

/// The prompt of a decoder that a name means; as for encoders, `s2p` will do for `s2p_query`.
fn prompt_named<'a>(space: &'a Space, name: &str) -> Result<&'a Prompt> {
    let meant = prompt_meant(name, space.prompts().map(|prompt| prompt.name.as_str()));
    space.prompts().find(|prompt| Some(prompt.name.as_str()) == meant).ok_or_else(|| {
        let known: Vec<&str> = space.prompts().map(|prompt| prompt.name.as_str()).collect();
        ArgumentError::with_hint(
            format!("--prompt {name}: the decoder reads vectors under: {}", known.join(", ")),
            "choose one of these, or train a decoder on pairs whose recipe names it in encoder.prompts",
        )
        .into()
    })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_found_among_the_decoders() {
        let space: Space = serde_json::from_value(serde_json::json!({
            "encoder": "e", "revision": null, "weights_digest": "blake3:0", "pooling": "mean", "dense": null, "dim": 2,
            "normalize": true, "max_tokens": 8, "prompt": {"name": "none", "text": ""},
            "other_prompts": [{"name": "s2p_query", "text": "find: "}, {"name": "s2s_query", "text": "like: "}]
        }))
        .unwrap();
        let text = |name: &str| prompt_named(&space, name).map(|prompt| prompt.text.clone());
        assert_eq!(text("none").unwrap(), "");
        assert_eq!(text("s2p").unwrap(), "find: ");
        assert_eq!(text("s2s_query").unwrap(), "like: ");
        let error = text("web").unwrap_err().to_string();
        assert_eq!(error, "--prompt web: the decoder reads vectors under: none, s2p_query, s2s_query");
    }
}
