//! Which of a pre-trained model's tokens begin, end and fill the decoder's texts.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::hub::Repository;
use crate::vocabulary::Marks;
use crate::{Error, Result, Vocabulary, files};

/// The ids in `config.json` and `generation_config.json`.
#[derive(Debug, Default, Deserialize)]
struct Ids {
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
    pad_token_id: Option<Value>,
}

/// The tokens in `tokenizer_config.json`, each a text or an object with a `content`.
#[derive(Debug, Default, Deserialize)]
struct Named {
    bos_token: Option<Value>,
    eos_token: Option<Value>,
    pad_token: Option<Value>,
}

/// The model's vocabulary, from its `tokenizer.json` at `path` and what other files say about its special tokens.
pub(super) fn vocabulary(repository: &Repository, path: &Path) -> Result<Vocabulary> {
    let read = |file: &str| {
        repository.find(file)?.map_or_else(|| Ok(Ids::default()), |path| files::read_json(&path))
    };
    let files = [read("generation_config.json")?, read("config.json")?];
    let named: Named = match repository.find("tokenizer_config.json")? {
        Some(path) => files::read_json(&path)?,
        None => Named::default(),
    };
    let bytes = fs_err::read(path)?;
    let tokenizer = Tokenizer::from_bytes(&bytes)
        .map_err(|error| Error::Tokenizer { path: path.to_owned(), reason: error.to_string() })?;
    let marks = choose(&tokenizer, &files, &named).ok_or_else(|| Error::Tokenizer {
        path: path.to_owned(),
        reason: "neither generation_config.json nor config.json nor tokenizer_config.json names a token of it that ends a text (eos)".into(),
    })?;
    Vocabulary::of_pretrained(&bytes, path, &marks)
}

/// The end is what the model was taught to write there: generation_config.json says, else config.json, else
/// tokenizer_config.json; of several it is the first. The beginning is the tokenizer's, else config.json's (Qwen2 has
/// <|endoftext|> there, which stood before its texts too), else the end, behind which a new text began in pre-training.
/// What fills rows is never seen nor predicted: the model's own, another special token, the end at last.
fn choose(tokenizer: &Tokenizer, ids: &[Ids; 2], named: &Named) -> Option<Marks> {
    let by_id = |key: fn(&Ids) -> &Option<Value>| {
        ids.iter().find_map(|ids| {
            let value = key(ids).as_ref()?;
            let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64())?;
            tokenizer.id_to_token(u32::try_from(id).ok()?)
        })
    };
    let by_name = |value: &Option<Value>| {
        let value = value.as_ref()?;
        let token = value.as_str().or_else(|| value["content"].as_str())?;
        tokenizer.token_to_id(token).map(|_| token.to_owned())
    };
    let eos = by_id(|ids| &ids.eos_token_id).or_else(|| by_name(&named.eos_token))?;
    let bos =
        by_name(&named.bos_token).or_else(|| by_id(|ids| &ids.bos_token_id)).unwrap_or_else(|| eos.clone());
    let own_pad = by_name(&named.pad_token).or_else(|| by_id(|ids| &ids.pad_token_id));
    let pad = own_pad
        .into_iter()
        .chain([bos.clone()])
        .find(|token| *token != eos)
        .or_else(|| other_special(tokenizer, &eos))
        .unwrap_or_else(|| eos.clone());
    Some(Marks { bos, eos, pad })
}

/// The first special token that is not the end.
fn other_special(tokenizer: &Tokenizer, eos: &str) -> Option<String> {
    let added = tokenizer.get_added_tokens_decoder();
    let mut special: Vec<_> =
        added.into_iter().filter(|(_, token)| token.special && token.content != eos).collect();
    special.sort_by_key(|(id, _)| *id);
    special.into_iter().next().map(|(_, token)| token.content)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tokenizer(special: &[&str]) -> Tokenizer {
        let vocab: serde_json::Map<_, _> = special
            .iter()
            .chain(&["a"])
            .zip(0..)
            .map(|(token, id)| ((*token).to_owned(), json!(id)))
            .collect();
        let added: Vec<Value> = special
            .iter()
            .zip(0..)
            .map(|(token, id)| {
                json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true})
            })
            .collect();
        let root = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}});
        Tokenizer::from_bytes(root.to_string()).unwrap()
    }

    fn chosen(special: &[&str], generation: Value, config: Value, named: Value) -> Option<[String; 3]> {
        let ids = [generation, config].map(|ids| serde_json::from_value(ids).unwrap());
        let marks = choose(&tokenizer(special), &ids, &serde_json::from_value(named).unwrap())?;
        Some([marks.bos, marks.eos, marks.pad])
    }

    #[test]
    fn the_marks_of_well_known_models() {
        let none = || json!({});
        let llama = ["<unk>", "<s>", "</s>"];
        let ids = json!({"bos_token_id": 1, "eos_token_id": 2});
        let found = chosen(&llama, none(), ids, json!({"bos_token": {"content": "<s>"}, "pad_token": null}));
        assert_eq!(found.unwrap(), ["<s>", "</s>", "<s>"]);

        let qwen = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
        let tokens = json!({"bos_token": null, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"});
        let instruct = json!({"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0});
        let found = chosen(&qwen, instruct, json!({"bos_token_id": 0, "eos_token_id": 2}), tokens.clone());
        assert_eq!(found.unwrap(), ["<|endoftext|>", "<|im_end|>", "<|endoftext|>"]);
        let base = json!({"bos_token_id": 0, "eos_token_id": 0});
        assert_eq!(
            chosen(&qwen, none(), base, tokens).unwrap(),
            ["<|endoftext|>", "<|endoftext|>", "<|im_start|>"]
        );
    }

    #[test]
    fn what_is_missing_is_made_up_for_but_for_the_end() {
        let none = || json!({});
        let found = chosen(&["<e>"], none(), json!({"eos_token_id": 0}), none());
        assert_eq!(found.unwrap(), ["<e>", "<e>", "<e>"]);
        let by_name = chosen(&["<b>", "<e>"], none(), none(), json!({"eos_token": "<e>"}));
        assert_eq!(by_name.unwrap(), ["<e>", "<e>", "<b>"]);
        assert_eq!(chosen(&["<e>"], none(), json!({"eos_token_id": 77}), none()), None);
    }
}
