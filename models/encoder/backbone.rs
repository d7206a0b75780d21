//! The transformer inside an encoder, whichever architecture it is.
#![allow(non_snake_case)]

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use super::bert::Bert;
use crate::error::{Error, Result};
use crate::files;
use crate::weights::Weights;

/// Token ids to hidden states.
pub(super) trait Backbone {
    /// Numbers in a hidden state.
    fn hidden_size(&self) -> i64;

    /// Rows of the embedding table.
    fn vocab_size(&self) -> i64;

    /// The longest text that the positions allow, where there is such a limit.
    fn max_positions(&self) -> Option<usize>;

    /// Last hidden states `[B, T, H]` in the compute format, of ids `[B, T]` (i64), padded on the right. The mask (bool, true
    /// for tokens) is given only where some row is padded.
    fn hidden(&self, ids_BT: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor>;
}

const ARCHITECTURES: [&str; 1] = ["bert"];

/// Loads the backbone that `config.json` names.
pub(super) fn load(
    config: &Path,
    weights: &Weights,
    device: Device,
    kind: Kind,
) -> Result<Box<dyn Backbone>> {
    #[derive(Deserialize)]
    struct Architecture {
        model_type: String,
    }
    let architecture: Architecture = files::read_json(config)?;
    match architecture.model_type.as_str() {
        "bert" => Ok(Box::new(Bert::load(config, weights, device, kind)?)),
        _ => Err(Error::Unsupported {
            path: config.to_owned(),
            what: "architecture",
            name: architecture.model_type,
            supported: ARCHITECTURES.to_vec(),
        }),
    }
}
