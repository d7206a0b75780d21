//! The tokenizer of an encoder or of a pre-trained model, cut to the tokens that a corpus uses and renumbered.
//!
//! The cut works on the JSON form: its format is documented and stable, the library's structures are not open.

use super::{BOS, EOS, PAD, Vocabulary, tokenize_error};
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use tokenizers::Tokenizer;

/// A vocabulary of the encoder's tokens that occur in the texts, and those they are built from. WordPiece (BERT) and
/// byte-level BPE (Qwen2) are supported. A tokenizer that lowers case or strips accents does so here too.
///
/// # Errors
/// [`Error::Unsupported`] for another kind of tokenizer, [`Error::Tokenize`].
pub fn cut_from_encoder(tokenizer: &Tokenizer, texts: impl Iterator<Item = String>) -> Result<Vocabulary> {
    let path = Path::new("the encoder's tokenizer");
    let json = tokenizer.to_string(false).map_err(tokenize_error)?;
    let mut root: Value = serde_json::from_str(&json).map_err(|error| Error::Tokenize(error.to_string()))?;
    let used = used_tokens(tokenizer, texts)?;
    let kind = root["model"]["type"].as_str().unwrap_or("unknown").to_owned();
    let unknown = match kind.as_str() {
        "WordPiece" => cut_word_piece(&mut root["model"], used),
        "BPE" => {
            cut_bpe(&mut root["model"], used, &[BOS, EOS, PAD], &[]);
            None
        }
        _ => {
            let supported = vec!["WordPiece", "BPE"];
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "tokenizer",
                name: kind,
                supported,
            });
        }
    };
    let special = [(BOS, 0), (EOS, 1), (PAD, 2)].into_iter().map(|(token, id)| (token.to_owned(), id));
    let added: Vec<Value> = special.chain(unknown).map(|(token, id)| added_token(&token, id)).collect();
    root["added_tokens"] = Value::Array(added);
    for part in ["post_processor", "truncation", "padding"] {
        root[part] = Value::Null;
    }
    Vocabulary::parse(root.to_string().as_bytes(), path)
}

/// The vocabulary of a pre-trained model (a BPE), cut to the tokens that occur in the texts, those they are merged from,
/// and the bytes, so that any text can be written that could be before. Its own marks stay, and come first.
///
/// # Errors
/// [`Error::Unsupported`] for another kind of tokenizer, [`Error::Tokenize`].
pub fn cut_from_pretrained(whole: &Vocabulary, texts: impl Iterator<Item = String>) -> Result<Vocabulary> {
    let path = Path::new("the pre-trained model's tokenizer");
    let json = whole.tokenizer().to_string(false).map_err(tokenize_error)?;
    let mut root: Value = serde_json::from_str(&json).map_err(|error| Error::Tokenize(error.to_string()))?;
    let kind = root["model"]["type"].as_str().unwrap_or("unknown").to_owned();
    if kind != "BPE" {
        let (what, supported) = ("tokenizer", vec!["BPE"]);
        return Err(Error::Unsupported { path: path.to_owned(), what, name: kind, supported });
    }
    let mut used = used_tokens(whole.tokenizer(), texts)?;
    let is_byte = |token: &&String| token.starts_with("<0x") && token.len() == 6;
    used.extend(ordered(&root["model"]).iter().filter(is_byte).cloned());
    used.extend(root["model"]["unk_token"].as_str().map(str::to_owned));
    let mut added = root["added_tokens"].as_array().cloned().unwrap_or_default();
    let marks = whole.marks();
    let is_kept = |token: &str| marks.each().contains(&token) || used.contains(token);
    added.retain(|token| token["content"].as_str().is_some_and(is_kept));
    let contents: Vec<String> =
        added.iter().filter_map(|token| token["content"].as_str().map(str::to_owned)).collect();
    cut_bpe(&mut root["model"], used, &marks.each(), &contents);
    let vocab = root["model"]["vocab"].clone();
    for token in &mut added {
        token["id"] = vocab[token["content"].as_str().unwrap_or_default()].clone();
    }
    root["added_tokens"] = Value::Array(added);
    marks.put(&mut root, |token| vocab[token].as_u64().unwrap_or(0));
    Vocabulary::parse(root.to_string().as_bytes(), path)
}

pub(super) fn added_token(token: &str, id: u64) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    })
}

/// Tokens of all texts, special tokens aside.
fn used_tokens(tokenizer: &Tokenizer, texts: impl Iterator<Item = String>) -> Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for text in texts {
        let encoding = tokenizer.encode_fast(text, false).map_err(tokenize_error)?;
        ids.extend(encoding.get_ids().iter().copied());
    }
    Ok(ids.into_iter().filter_map(|id| tokenizer.id_to_token(id)).collect())
}

/// The old vocabulary in the order of its ids.
fn ordered(model: &Value) -> Vec<String> {
    let mut tokens: Vec<(&String, u64)> = model["vocab"]
        .as_object()
        .map(|vocab| vocab.iter().map(|(token, id)| (token, id.as_u64().unwrap_or(0))).collect())
        .unwrap_or_default();
    tokens.sort_by_key(|(_, id)| *id);
    tokens.into_iter().map(|(token, _)| token.clone()).collect()
}

/// Special tokens first, then the kept ones in their old order.
fn renumber(old: &[String], special: &[&str], keep: impl Fn(&str) -> bool) -> Map<String, Value> {
    let kept = old.iter().map(String::as_str).filter(|token| !special.contains(token) && keep(token));
    special.iter().copied().chain(kept).zip(0u64..).map(|(token, id)| (token.to_owned(), id.into())).collect()
}

/// Keeps the used pieces, the single characters they consist of (so that a new word of known characters can be
/// written) and the unknown token, which is returned with its new id.
fn cut_word_piece(model: &mut Value, used: BTreeSet<String>) -> Option<(String, u64)> {
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or("##").to_owned();
    let unknown = model["unk_token"].as_str().unwrap_or("[UNK]").to_owned();
    let mut keep = BTreeSet::from([unknown.clone()]);
    for piece in used {
        for letter in piece.strip_prefix(&prefix).unwrap_or(&piece).chars() {
            keep.insert(letter.to_string());
            keep.insert(format!("{prefix}{letter}"));
        }
        keep.insert(piece);
    }
    let vocab = renumber(&ordered(model), &[BOS, EOS, PAD], |token| keep.contains(token));
    let id = vocab.get(&unknown).and_then(Value::as_u64);
    model["vocab"] = Value::Object(vocab);
    id.map(|id| (unknown, id))
}

/// Keeps the used tokens, all single-character tokens (the bytes), what the used tokens are merged from, and the merges
/// whose parts and result are kept: then the texts are split as before. `added` are tokens beside the model's own.
fn cut_bpe(model: &mut Value, used: BTreeSet<String>, special: &[&str], added: &[String]) {
    let mut old = ordered(model);
    let merges: Vec<(String, String)> =
        model["merges"].as_array().into_iter().flatten().filter_map(merge_pair).collect();
    let ranks: HashMap<(&str, &str), usize> =
        merges.iter().enumerate().map(|(rank, (a, b))| ((a.as_str(), b.as_str()), rank)).collect();
    let mut keep: BTreeSet<String> = old.iter().filter(|token| token.chars().count() == 1).cloned().collect();
    for token in used {
        if !added.contains(&token) {
            keep.extend(derivation(&token, &ranks));
        }
        keep.insert(token);
    }
    let kept_merges: Vec<Value> = merges
        .iter()
        .filter(|(a, b)| keep.contains(a) && keep.contains(b) && keep.contains(&format!("{a}{b}")))
        .map(|(a, b)| json!([a, b]))
        .collect();
    let known: HashSet<String> = old.iter().cloned().collect();
    old.extend(added.iter().filter(|token| !known.contains(*token)).cloned());
    model["vocab"] = Value::Object(renumber(&old, special, |token| keep.contains(token)));
    model["merges"] = Value::Array(kept_merges);
}

/// A merge is `["a", "b"]`, or `"a b"` in older files.
fn merge_pair(merge: &Value) -> Option<(String, String)> {
    match merge {
        Value::String(pair) => pair.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => Some((pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned())),
        _ => None,
    }
}

/// The tokens that come up while the characters of `token` are merged by rank.
fn derivation(token: &str, ranks: &HashMap<(&str, &str), usize>) -> Vec<String> {
    let mut parts: Vec<String> = token.chars().map(String::from).collect();
    let mut seen = parts.clone();
    loop {
        let rank_at = |i: usize| ranks.get(&(parts[i].as_str(), parts[i + 1].as_str())).copied();
        let best = (1..parts.len()).filter_map(|i| rank_at(i - 1).map(|rank| (rank, i - 1))).min();
        let Some((_, at)) = best else { return seen };
        let merged = format!("{}{}", parts[at], parts[at + 1]);
        seen.push(merged.clone());
        parts.splice(at..at + 2, [merged]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::vocabulary::train_bpe;

    fn corpus() -> Vec<String> {
        ["the cat sat on the mat", "the cats are on the mats", "a naïve café — 42 €", "where there is smoke"]
            .map(str::to_owned)
            .to_vec()
    }

    #[test]
    fn a_cut_bpe_splits_the_corpus_as_before() {
        let wide: Vec<String> =
            corpus().into_iter().chain(["another mother bothers brothers on boats".into()]).collect();
        let whole = train_bpe(wide.into_iter().cycle().take(50), 400).unwrap();
        let cut = cut_from_encoder(whole.tokenizer(), corpus().into_iter()).unwrap();
        assert!(cut.size() < whole.size());
        for text in corpus() {
            let tokens =
                |v: &Vocabulary| v.tokenizer().encode(text.as_str(), false).unwrap().get_tokens().to_vec();
            assert_eq!(tokens(&cut), tokens(&whole));
            assert_eq!(cut.decode(&cut.encode(&text).unwrap()).unwrap(), text);
        }
        // bytes remain, so that unseen text can be written
        let unseen = "žluťoučký <eos> \u{0}\n";
        assert_eq!(cut.decode(&cut.encode(unseen).unwrap()).unwrap(), unseen);
        assert_eq!((cut.bos, cut.eos, cut.pad), (0, 1, 2));
    }

    #[test]
    fn a_cut_word_piece_keeps_used_pieces_and_their_letters() {
        let root = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {"[PAD]": 0, "[UNK]": 1, "cat": 2, "##s": 3, "dog": 4, "c": 5, "##a": 6, "##t": 7,
                    "d": 8, "a": 9, "t": 10, "the": 11}}
        });
        let whole = Tokenizer::from_bytes(root.to_string()).unwrap();
        let cut = cut_from_encoder(&whole, ["The cats".to_owned()].into_iter()).unwrap();
        let vocab = cut.tokenizer().get_vocab(true);
        for kept in ["cat", "##s", "c", "##a", "##t", "a", "t", "the", "[UNK]"] {
            assert!(vocab.contains_key(kept), "{kept}");
        }
        for gone in ["dog", "d", "[PAD]"] {
            assert!(!vocab.contains_key(gone), "{gone}");
        }
        let mut ids: Vec<u32> = vocab.into_values().collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..cut.size() as u32).collect::<Vec<_>>());
        assert_eq!(cut.decode(&cut.encode("the CATS").unwrap()).unwrap(), "the cats");
    }

    #[test]
    fn another_kind_is_refused() {
        let root = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0}}
        });
        let whole = Tokenizer::from_bytes(root.to_string()).unwrap();
        let error = cut_from_encoder(&whole, std::iter::empty()).unwrap_err();
        assert!(error.to_string().contains("WordLevel"), "{error}");
    }
}
