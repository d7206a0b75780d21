//! The tokens that begin, end and fill a text, and where `tokenizer.json` says so.
//!
//! A vocabulary of our own has them under names of its own. A pre-trained model has others, some of them one and the
//! same; its file then says which they are in its standard places: the template of the post-processor, which Hugging
//! Face puts around a text, and the padding.

use super::{BOS, EOS, PAD};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

/// Three tokens by their text. The first and the last, or all, may be one token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marks {
    /// Before every text.
    pub bos: String,
    /// After every text.
    pub eos: String,
    /// What fills short rows.
    pub pad: String,
}

impl Marks {
    /// Those of a vocabulary of our own.
    pub(super) fn own() -> Self {
        Self { bos: BOS.into(), eos: EOS.into(), pad: PAD.into() }
    }

    /// The marks, each once.
    pub(super) fn each(&self) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for mark in [&self.bos, &self.eos, &self.pad] {
            if !all.contains(&mark.as_str()) {
                all.push(mark);
            }
        }
        all
    }

    /// Says in a `tokenizer.json` that these are the marks; `id` gives their ids. They become special tokens, which are
    /// left out of decoded texts and never read out of a text.
    pub(super) fn put(&self, root: &mut Value, id: impl Fn(&str) -> u64) {
        let mark = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let (bos, eos) = (self.bos.as_str(), self.eos.as_str());
        let known = |token: &str| json!({"id": token, "ids": [id(token)], "tokens": [token]});
        root["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [mark(bos), text("A"), mark(eos)],
            "pair": [mark(bos), text("A"), text("B"), mark(eos)],
            "special_tokens": {bos: known(bos), eos: known(eos)},
        });
        root["padding"] = json!({
            "strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": id(&self.pad), "pad_type_id": 0, "pad_token": self.pad,
        });
        root["truncation"] = Value::Null;
        let mut added = root["added_tokens"].as_array().cloned().unwrap_or_default();
        for token in self.each() {
            match added.iter_mut().find(|other| other["content"] == token) {
                Some(there) => there["special"] = true.into(),
                None => added.push(super::cut::added_token(token, id(token))),
            }
        }
        added.sort_by_key(|token| token["id"].as_u64());
        root["added_tokens"] = Value::Array(added);
    }
}

/// The marks that a tokenizer's template and padding name, where it has both.
pub(super) fn of_template(tokenizer: &Tokenizer) -> Option<Marks> {
    let pad = tokenizer.get_padding()?.pad_token.clone();
    let template = serde_json::to_value(tokenizer.get_post_processor()?).ok()?;
    let around = template["single"].as_array()?;
    let mark = |piece: Option<&Value>| Some(piece?["SpecialToken"]["id"].as_str()?.to_owned());
    Some(Marks { bos: mark(around.first())?, eos: mark(around.last())?, pad })
}
