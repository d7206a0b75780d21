//! A tiny BERT with random weights, written as sentence-transformers writes one, and where the real one is.
#![allow(dead_code, unreachable_pub, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use models::save_tensors;
use tch::{Device, Kind, Tensor};

/// What the tiny model is like.
pub struct TinyBert {
    /// Sizes of the dense heads that lie in the folder; the first is the one that `modules.json` names.
    pub dense: Vec<i64>,
    /// Whether there is a Normalize module.
    pub normalize: bool,
    /// Whether the embedding of `blue` is NaN.
    pub poison: bool,
}

impl Default for TinyBert {
    fn default() -> Self {
        Self { dense: vec![], normalize: true, poison: false }
    }
}

const VOCABULARY: [&str; 9] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "green", "blue", "dog"];
const FFN: i64 = 24;

impl TinyBert {
    /// Numbers in a hidden state.
    pub const HIDDEN: i64 = 12;

    /// Writes the folder; the same weights each time.
    pub fn write(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let json = |file: &str, value: serde_json::Value| {
            let path = folder.path().join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, value.to_string()).unwrap();
        };
        json("modules.json", self.modules());
        json("sentence_bert_config.json", serde_json::json!({"max_seq_length": 32, "do_lower_case": false}));
        json(
            "1_Pooling/config.json",
            serde_json::json!({"word_embedding_dimension": Self::HIDDEN, "pooling_mode_mean_tokens": true}),
        );
        json("tokenizer.json", tokenizer());
        json(
            "config.json",
            serde_json::json!({
            "model_type": "bert", "vocab_size": VOCABULARY.len(), "hidden_size": Self::HIDDEN, "num_hidden_layers": 2,
            "num_attention_heads": 3, "intermediate_size": FFN, "hidden_act": "gelu", "max_position_embeddings": 64,
            "type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}),
        );
        // the generator is the process's: another test must not draw from it in between
        static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _drawing = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tch::manual_seed(7);
        save_tensors(&folder.path().join("model.safetensors"), &self.tensors(), &BTreeMap::new()).unwrap();
        for &size in &self.dense {
            let name = format!("2_Dense_{size}");
            json(
                &format!("{name}/config.json"),
                serde_json::json!({
                "in_features": Self::HIDDEN, "out_features": size, "bias": true,
                "activation_function": "torch.nn.modules.linear.Identity"}),
            );
            let tensors = [random("linear.weight", &[size, Self::HIDDEN]), random("linear.bias", &[size])];
            save_tensors(&folder.path().join(name).join("model.safetensors"), &tensors, &BTreeMap::new())
                .unwrap();
        }
        folder
    }

    fn modules(&self) -> serde_json::Value {
        let mut modules = vec![("", "Transformer".to_owned()), ("1_Pooling", "Pooling".to_owned())];
        let dense = self.dense.first().map(|size| format!("2_Dense_{size}"));
        modules.extend(dense.as_deref().map(|path| (path, "Dense".to_owned())));
        if self.normalize {
            modules.push(("3_Normalize", "Normalize".to_owned()));
        }
        modules
            .into_iter()
            .map(|(path, kind)| serde_json::json!({"path": path, "type": format!("sentence_transformers.models.{kind}")}))
            .collect()
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let h = Self::HIDDEN;
        let rows = VOCABULARY.len() as i64;
        let mut all = vec![random("embeddings.word_embeddings.weight", &[rows, h])];
        if self.poison {
            let _ = all[0].1.get(7).fill_(f64::NAN);
        }
        all.push(random("embeddings.position_embeddings.weight", &[64, h]));
        all.push(random("embeddings.token_type_embeddings.weight", &[2, h]));
        let mut pair = |name: String, shape: &[i64]| {
            all.push(random(&format!("{name}.weight"), shape));
            all.push(random(&format!("{name}.bias"), &shape[..1]));
        };
        pair("embeddings.LayerNorm".into(), &[h]);
        for layer in ["encoder.layer.0", "encoder.layer.1"] {
            for part in [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ] {
                pair(format!("{layer}.{part}"), &[h, h]);
            }
            pair(format!("{layer}.attention.output.LayerNorm"), &[h]);
            pair(format!("{layer}.intermediate.dense"), &[FFN, h]);
            pair(format!("{layer}.output.dense"), &[h, FFN]);
            pair(format!("{layer}.output.LayerNorm"), &[h]);
        }
        all
    }
}

fn random(name: &str, shape: &[i64]) -> (String, Tensor) {
    (name.to_owned(), Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.5)
}

fn tokenizer() -> serde_json::Value {
    let vocabulary: serde_json::Map<_, _> =
        VOCABULARY.iter().enumerate().map(|(id, word)| ((*word).to_owned(), serde_json::json!(id))).collect();
    serde_json::json!({
        "version": "1.0",
        // as in many real files, made for another length; the encoder must not heed it
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 10}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"}
    })
}

/// Writes another pooling mode into a folder.
pub fn set_pooling(folder: &Path, mode: &str) {
    let config = serde_json::json!({"embedding_dimension": TinyBert::HIDDEN, "pooling_mode": mode});
    fs_err::write(folder.join("1_Pooling/config.json"), config.to_string()).unwrap();
}

/// Texts of many lengths in no order, the empty one among them.
pub fn texts() -> Vec<String> {
    let words = ["red", "green", "blue", "dog", "cat"];
    (0..40usize)
        .map(|i| (0..(i * 7) % 23).map(|j| words[(i + j * j) % 5]).collect::<Vec<_>>().join(" "))
        .collect()
}

/// The folder of all-MiniLM-L6-v2: `INVERSE_STELLA_MINILM`, or where `make setup` puts it.
pub fn minilm() -> Option<String> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/all-MiniLM-L6-v2");
    let folder = std::env::var_os("INVERSE_STELLA_MINILM").map_or(default, PathBuf::from);
    if folder.join("modules.json").exists() {
        return Some(folder.to_string_lossy().into_owned());
    }
    eprintln!("skipped: {} is not there (set INVERSE_STELLA_MINILM, or run `make setup`)", folder.display());
    None
}
