//! Damaged and unsupported encoder folders: each is refused, with the file and the part named.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;

use common::TinyBert;
use models::{DeviceChoice, Dtype, Encoder, EncoderOptions, Error};

/// Opens a tiny encoder after `damage`, and gives back the error.
fn refused(damage: impl FnOnce(&Path)) -> (Error, String) {
    let folder = TinyBert { dense: vec![3], ..TinyBert::default() }.write();
    damage(folder.path());
    let options =
        EncoderOptions { device: DeviceChoice::Cpu, dtype: Dtype::F32, ..EncoderOptions::default() };
    let error = Encoder::open(folder.path().to_str().unwrap(), &options).err().expect("it was not refused");
    assert!(error.hint().is_some() || matches!(error, Error::Config { .. }), "no hint: {error}");
    let message = error.to_string();
    (error, message)
}

fn replace(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = fs_err::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    fs_err::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn truncated_weights() {
    let (error, message) = refused(|folder| {
        let path = folder.join("model.safetensors");
        let bytes = fs_err::read(&path).unwrap();
        fs_err::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    });
    assert!(matches!(error, Error::Safetensors { .. }) && message.contains("model.safetensors"), "{message}");
}

#[test]
fn a_tensor_of_wrong_shape() {
    let (error, message) = refused(|folder| {
        replace(folder, "config.json", "\"intermediate_size\":24", "\"intermediate_size\":25")
    });
    assert!(matches!(error, Error::TensorShape { .. }), "{message}");
    assert!(
        message.contains("encoder.layer.0.intermediate.dense.weight") && message.contains("[24, 12]"),
        "{message}"
    );
}

#[test]
fn a_missing_tensor() {
    let (error, message) = refused(|folder| {
        replace(folder, "config.json", "\"num_hidden_layers\":2", "\"num_hidden_layers\":3")
    });
    assert!(matches!(error, Error::MissingTensor { .. }), "{message}");
    assert!(
        message.contains("`encoder.layer.2.attention.self.query.weight`") && message.contains("nearest"),
        "{message}"
    );
}

#[test]
fn modules_that_are_no_json() {
    let (_, message) = refused(|folder| fs_err::write(folder.join("modules.json"), "[{").unwrap());
    assert!(message.contains("modules.json"), "{message}");
    let (_, message) =
        refused(|folder| replace(folder, "modules.json", "\"path\":\"1_Pooling\"", "\"path\":7"));
    assert!(message.contains("modules.json") && message.contains("[1].path"), "{message}");
    let (_, message) = refused(|folder| replace(folder, "modules.json", "1_Pooling", "../1_Pooling"));
    assert!(message.contains("inside the model folder"), "{message}");
}

#[test]
fn modules_of_unknown_kind_or_order() {
    let (_, message) = refused(|folder| replace(folder, "modules.json", "models.Dense", "models.CNN"));
    assert!(
        message.contains("sentence_transformers.models.CNN")
            && message.contains("Transformer, Pooling, Dense, Normalize"),
        "{message}"
    );
    let (_, message) =
        refused(|folder| replace(folder, "modules.json", "models.Normalize", "models.Pooling"));
    assert!(message.contains("Transformer, Pooling, Dense, Pooling"), "{message}");
}

#[test]
fn an_unknown_architecture() {
    let (error, message) = refused(|folder| replace(folder, "config.json", "\"bert\"", "\"mpnet\""));
    assert!(matches!(error, Error::Unsupported { what: "architecture", .. }), "{message}");
    assert!(message.contains("`mpnet`") && message.contains("supported: bert"), "{message}");
    let (_, message) = refused(|folder| replace(folder, "config.json", "\"absolute\"", "\"relative_key\""));
    assert!(message.contains("relative_key"), "{message}");
    let (_, message) = refused(|folder| replace(folder, "config.json", "\"gelu\"", "\"mish\""));
    assert!(message.contains("activation `mish`"), "{message}");
}

#[test]
fn a_pooling_that_is_not_ours() {
    let (_, message) = refused(|folder| common::set_pooling(folder, "max"));
    assert!(message.contains("pooling `max`") && message.contains("mean, cls, lasttoken"), "{message}");
}

#[test]
fn a_tokenizer_that_is_broken_or_too_large() {
    let (error, message) = refused(|folder| fs_err::write(folder.join("tokenizer.json"), "{}").unwrap());
    assert!(matches!(error, Error::Tokenizer { .. }) && message.contains("tokenizer.json"), "{message}");
    let (error, message) =
        refused(|folder| replace(folder, "tokenizer.json", "\"blue\":7", "\"blue\":70000"));
    assert!(matches!(error, Error::TokenizerFit { .. }) && message.contains("70000"), "{message}");
}

#[test]
fn weights_that_are_pickled_or_missing() {
    let (error, message) = refused(|folder| {
        fs_err::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    });
    assert!(matches!(error, Error::PickledWeights { .. }) && message.contains("pickle"), "{message}");
    let (_, message) = refused(|folder| fs_err::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(message.contains("`model.safetensors` is missing"), "{message}");
    let (_, message) =
        refused(|folder| fs_err::remove_file(folder.join("2_Dense_3/model.safetensors")).unwrap());
    assert!(message.contains("`2_Dense_3/model.safetensors` is missing"), "{message}");
}

#[test]
fn lengths_that_cannot_be() {
    let (_, message) = refused(|folder| {
        fs_err::write(folder.join("sentence_bert_config.json"), r#"{"max_seq_length": 2}"#).unwrap()
    });
    assert!(
        message.contains("2 special tokens") && message.contains("sentence_bert_config.json"),
        "{message}"
    );
    // what the user asks for is refused, what the folder asks for is cut to what there is
    let folder = TinyBert::default().write();
    fs_err::write(folder.path().join("sentence_bert_config.json"), r#"{"max_seq_length": 65}"#).unwrap();
    let open = |max_tokens| {
        let options = EncoderOptions {
            device: DeviceChoice::Cpu,
            dtype: Dtype::F32,
            max_tokens,
            ..EncoderOptions::default()
        };
        Encoder::open(folder.path().to_str().unwrap(), &options)
    };
    let message = open(Some(65)).err().expect("it was not refused").to_string();
    assert!(message.contains("`max_tokens` is 65") && message.contains("64 positions"), "{message}");
    assert!(message.contains("--max-tokens"), "{message}");
    for (asked, found) in [(None, 64), (Some(64), 64), (Some(9), 9)] {
        assert_eq!(models::Embed::space(&open(asked).unwrap()).max_tokens, found);
    }
}

#[test]
fn a_prompt_that_is_not_pooled() {
    let folder = TinyBert::default().write();
    let pooling = r#"{"pooling_mode": "mean", "include_prompt": false}"#;
    fs_err::write(folder.path().join("1_Pooling/config.json"), pooling).unwrap();
    let prompts = r#"{"prompts": {"query": "red ", "passage": ""}}"#;
    fs_err::write(folder.path().join("config_sentence_transformers.json"), prompts).unwrap();
    let open = |prompt: &str| {
        let options = EncoderOptions {
            device: DeviceChoice::Cpu,
            dtype: Dtype::F32,
            prompt: Some(prompt.to_owned()),
            ..EncoderOptions::default()
        };
        Encoder::open(folder.path().to_str().unwrap(), &options)
    };
    let without = open("none").unwrap();
    // an empty prompt has no tokens to be left out
    assert!(without.under("passage").is_ok());
    for refused in [open("query"), without.under("query")] {
        let error = refused.err().expect("it was not refused");
        assert!(matches!(error, Error::Unsupported { what: "pooling", .. }), "{error}");
        assert!(error.to_string().contains("include_prompt"), "{error}");
    }
}

#[test]
fn numbers_that_are_not_finite() {
    let folder = TinyBert { poison: true, ..TinyBert::default() }.write();
    let options =
        EncoderOptions { device: DeviceChoice::Cpu, dtype: Dtype::F32, ..EncoderOptions::default() };
    let encoder = Encoder::open(folder.path().to_str().unwrap(), &options).unwrap();
    // the row of `blue` is NaN
    let error = models::Embed::embed(&encoder, &["red", "green", "red blue", "green"]).unwrap_err();
    assert!(matches!(error, Error::NonFinite { index: 2 }), "{error}");
}
