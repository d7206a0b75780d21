//! Which architecture a model is of, and its backbone.

use std::path::Path;

use serde::Deserialize;

use super::backbone::{Backbone, Source};
use super::bert::{Bert, Family};
use super::gte::Gte;
use super::qwen::Qwen;
use crate::error::{Error, Result};
use crate::files;

/// Every `model_type` that is known, for the refusal of others.
const ARCHITECTURES: [&str; 6] = ["bert", "roberta", "xlm-roberta", "new (gte)", "qwen2", "qwen3"];

/// The `model_type` of a `config.json`.
///
/// # Errors
/// [`Error::Io`] or [`Error::Json`].
pub(super) fn model_type(config: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Architecture {
        model_type: String,
    }
    Ok(files::read_json::<Architecture>(config)?.model_type)
}

/// Whether STELLA is of this architecture: 1.5B is a Qwen2, 400M is what its config calls `new`.
pub(super) fn is_stellas(model_type: &str) -> bool {
    matches!(model_type, "qwen2" | "new")
}

/// Loads the backbone that `config.json` names.
///
/// # Errors
/// [`Error::Unsupported`] for another architecture or for an attention that it does not have.
pub(super) fn load(model_type: &str, source: &Source<'_>) -> Result<Box<dyn Backbone>> {
    let backbone: Box<dyn Backbone> = match model_type {
        "bert" => Box::new(Bert::load(Family::Bert, source)?),
        "roberta" | "xlm-roberta" => Box::new(Bert::load(Family::Roberta, source)?),
        "new" => Box::new(Gte::load(source)?),
        "qwen2" | "qwen3" => Box::new(Qwen::load(model_type, source)?),
        _ => {
            return Err(Error::Unsupported {
                path: source.config.to_owned(),
                what: "architecture",
                name: model_type.to_owned(),
                supported: ARCHITECTURES.to_vec(),
            });
        }
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
