//! `decoder.start_from`: the shape and the tokens are those of a pre-trained model, not the recipe's.

use std::collections::BTreeSet;
use std::path::PathBuf;

use models::{CausalConfig, DecoderConfig};
use toml::{Table, Value};

use super::node::{Item, Node, Origin};
use super::sections::{Recipe, TokenizerSection};
use crate::{Error, Result};

/// Keys of `[decoder]` that the pre-trained model's `config.json` decides.
const SHAPE: [&str; 9] = [
    "hidden",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "tie_embeddings",
    "rope_theta",
    "rms_norm_eps",
];
/// Keys of `[tokenizer]` that have no meaning beside its `tokenizer.json`.
const TOKENS: [&str; 2] = ["kind", "vocab"];

/// All of them, with their sections.
fn decided() -> impl Iterator<Item = (&'static str, &'static str)> {
    SHAPE.map(|key| ("decoder", key)).into_iter().chain(TOKENS.map(|key| ("tokenizer", key)))
}

/// Gives the keys that the model decides their defaults back, but for those that stand in the file that says
/// `start_from`, or above it: these speak of the model and are compared with it. What lies beneath is of a recipe that
/// this one extends, and of another decoder.
pub(super) fn take_over(recipe: &mut Recipe, root: &Node, files: &[PathBuf]) {
    if recipe.decoder.start_from.is_none() {
        return;
    }
    let height = |section: &str, key: &str| match &inside(inside(root, section)?, key)?.origin {
        Origin::Set(_) => Some(files.len()),
        Origin::File { path, .. } => {
            let depth = files.iter().position(|file| file == path)?;
            Some(files.len() - 1 - depth)
        }
        Origin::Default => None,
    };
    let start = height("decoder", "start_from").unwrap_or(0);
    let is_said = |(section, key): &(&str, &str)| height(section, key).is_some_and(|said| said >= start);
    recipe.decoder.said =
        decided().filter(is_said).map(|(section, key)| format!("{section}.{key}")).collect();
    let said = recipe.decoder.said.clone();
    if let Ok(Value::Table(mut table)) = Value::try_from(&recipe.decoder) {
        table.retain(|key, _| is_kept(&said, "decoder", key));
        if let Ok(decoder) = table.try_into() {
            recipe.decoder = decoder;
            recipe.decoder.said = said.clone();
        }
    }
    let default = TokenizerSection::default();
    for key in TOKENS.into_iter().filter(|key| !is_kept(&said, "tokenizer", key)) {
        match key {
            "kind" => recipe.tokenizer.kind = default.kind,
            _ => recipe.tokenizer.vocab = default.vocab,
        }
    }
}

fn inside<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.item {
        Item::Table(table) => table.get(key),
        _ => None,
    }
}

/// Whether a key is the recipe's, where the recipe starts from a pre-trained model.
fn is_kept(said: &BTreeSet<String>, section: &str, key: &str) -> bool {
    said.contains(&format!("{section}.{key}")) || !decided().any(|decided| decided == (section, key))
}

/// A recipe as TOML values; without the keys that the pre-trained model decides, where there is one.
pub(super) fn values(recipe: &Recipe) -> Result<Table> {
    let mut table = Table::try_from(recipe)?;
    if recipe.decoder.start_from.is_some() {
        for section in ["decoder", "tokenizer"] {
            if let Some(Value::Table(section_table)) = table.get_mut(section) {
                section_table.retain(|key, _| is_kept(&recipe.decoder.said, section, key));
            }
        }
    }
    Ok(table)
}

impl Recipe {
    /// The decoder's shape where it starts from a pre-trained model, for vectors of `dim` numbers and `vocab` tokens.
    ///
    /// # Errors
    /// [`Error::OtherShape`] where the recipe says otherwise than the model's `config.json`; a
    /// [`models::Error::DecoderConfig`] for more positions than the model was made for.
    pub fn decoder_config_of(
        &self,
        model: &CausalConfig,
        dim: i64,
        vocab: i64,
        [bos, eos, pad]: [i64; 3],
    ) -> Result<DecoderConfig> {
        self.require_same_shape(model)?;
        let own = &self.decoder;
        let config = DecoderConfig {
            hidden: model.hidden,
            layers: model.layers,
            heads: model.heads,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            ffn: model.ffn,
            projector_hidden: own.projector_hidden.unwrap_or(2 * model.hidden),
            rope_theta: model.rope_theta,
            rms_norm_eps: model.rms_norm_eps,
            tie_embeddings: model.tie_embeddings,
            qkv_bias: model.qkv_bias,
            // what the model does not decide
            ..self.decoder_config(dim, vocab, bos, eos, pad)
        };
        config.validate()?;
        let positions = config.beginning_positions() + config.max_tokens;
        if positions > model.positions {
            let field = "max_tokens".to_owned();
            let before = if config.refines { "the prefix, a hypothesis as long" } else { "the prefix" };
            let problem = format!(
                "is {}; with {before} and <bos> these are {positions} positions, and {} was made for {}",
                config.max_tokens,
                model.path.display(),
                model.positions
            );
            return Err(models::Error::DecoderConfig { field, problem }.into());
        }
        Ok(config)
    }

    /// Compares what the recipe says of the shape with what the model is.
    fn require_same_shape(&self, model: &CausalConfig) -> Result<()> {
        let own = &self.decoder;
        let shown = |value: Option<i64>| value.map_or("unset".to_owned(), |value| value.to_string());
        let compared = [
            ("hidden", "hidden_size", own.hidden.to_string(), model.hidden.to_string()),
            ("layers", "num_hidden_layers", own.layers.to_string(), model.layers.to_string()),
            ("heads", "num_attention_heads", own.heads.to_string(), model.heads.to_string()),
            ("kv_heads", "num_key_value_heads", shown(own.kv_heads), model.kv_heads.to_string()),
            ("head_dim", "head_dim", shown(own.head_dim), model.head_dim.to_string()),
            ("ffn", "intermediate_size", own.ffn.to_string(), model.ffn.to_string()),
            (
                "tie_embeddings",
                "tie_word_embeddings",
                own.tie_embeddings.to_string(),
                model.tie_embeddings.to_string(),
            ),
            ("rope_theta", "rope_theta", own.rope_theta.to_string(), model.rope_theta.to_string()),
            ("rms_norm_eps", "rms_norm_eps", own.rms_norm_eps.to_string(), model.rms_norm_eps.to_string()),
        ];
        for (key, name, said, found) in compared {
            if own.said.contains(&format!("decoder.{key}")) && said != found {
                return Err(Error::OtherShape { key, said, path: model.path.clone(), name, found });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_refinement_needs_positions_for_its_hypothesis() {
        let model = CausalConfig {
            path: "config.json".into(),
            architecture: "LlamaForCausalLM",
            hidden: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            ffn: 48,
            vocab: 300,
            positions: 96,
            rope_theta: 1e4,
            rms_norm_eps: 1e-6,
            tie_embeddings: true,
            qkv_bias: false,
        };
        let config = |max_tokens, share| {
            let mut recipe = Recipe::default();
            (recipe.decoder.prefix_tokens, recipe.decoder.max_tokens) = (2, max_tokens);
            recipe.refinement.share = share;
            recipe.decoder_config_of(&model, 8, 300, [0, 1, 2]).map_err(|error| error.to_string())
        };
        // 2 of the prefix, <bos>, the text; and 6 of three prefixes, the hypothesis, <bos>, the text
        assert!(config(93, 0.0).is_ok() && config(44, 0.5).unwrap().refines);
        assert!(config(94, 0.0).unwrap_err().contains("97 positions"));
        let error = config(45, 0.5).unwrap_err();
        assert!(error.contains("is 45") && error.contains("97 positions") && error.contains("96"), "{error}");
    }
}
