//! Which architecture a model is of, and its backbone.

use std::path::Path;

use serde::Deserialize;

use super::backbone::{Backbone, Source};
use super::bert::{Bert, Family};
use super::gte::Gte;
use super::qwen::Qwen;
use crate::error::{Error, Result};
use crate::files;

/// Every `model_type` that there is an implementation of, with what else it is called.
const KNOWN: [(&str, &str); 6] = [
    ("bert", "bert"),
    ("roberta", "roberta"),
    ("xlm-roberta", "xlm-roberta"),
    ("new", "new (gte)"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
];

/// What every `config.json` of a transformer says.
#[derive(Debug, Deserialize)]
pub(super) struct Architecture {
    /// Its name.
    pub(super) model_type: String,
    /// Numbers in a hidden state.
    pub(super) hidden_size: i64,
}

impl Architecture {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], or [`Error::Unsupported`] for an architecture that is not known.
    pub(super) fn read(config: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Name {
            model_type: String,
        }
        // the name first: another architecture may have other keys
        let Name { model_type } = files::read_json(config)?;
        if !KNOWN.iter().any(|(known, _)| *known == model_type) {
            return Err(Error::Unsupported {
                path: config.to_owned(),
                what: "architecture",
                name: model_type,
                supported: KNOWN.iter().map(|(_, called)| *called).collect(),
            });
        }
        files::read_json(config)
    }

    /// Whether STELLA is of this architecture: 1.5B is a Qwen2, 400M is what its config calls `new`.
    pub(super) fn is_stellas(&self) -> bool {
        matches!(self.model_type.as_str(), "qwen2" | "new")
    }
}

/// Loads the backbone of a known architecture.
///
/// # Errors
/// [`Error::Unsupported`] for an attention that it does not have; what is wrong with configuration and weights.
pub(super) fn load(architecture: &Architecture, source: &Source<'_>) -> Result<Box<dyn Backbone>> {
    let model_type = architecture.model_type.as_str();
    let backbone: Box<dyn Backbone> = match model_type {
        "roberta" | "xlm-roberta" => Box::new(Bert::load(Family::Roberta, source)?),
        "new" => Box::new(Gte::load(source)?),
        "qwen2" | "qwen3" => Box::new(Qwen::load(model_type, source)?),
        _ => Box::new(Bert::load(Family::Bert, source)?),
    };
    if let Some(asked) = source.attention.filter(|asked| *asked != backbone.attention()) {
        return Err(Error::Unsupported {
            path: source.config.to_owned(),
            what: "attention",
            name: format!("{} for the architecture {model_type}", asked.name()),
            supported: vec![backbone.attention().name()],
        });
    }
    Ok(backbone)
}
