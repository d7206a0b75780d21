//! `bench decode` on a small export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, non_snake_case)]

mod support;

use std::path::{Path, PathBuf};

use models::space::Attention;
use models::vocabulary::train_bpe;
use models::{
    Decoder, DecoderConfig, Dtype, ExportOptions, Inverter, Origin, OriginKind, ParamStore, Pooling, Prompt,
    Space, write_export,
};
use predicates::prelude::*;
use predicates::str::contains;
use support::inverse_stella;
use tch::{Device, Kind, Tensor};

fn space() -> Space {
    Space {
        encoder: "tiny".into(),
        revision: None,
        weights_digest: "blake3:00".into(),
        prompt: Prompt::none(),
        other_prompts: vec![],
        special_tokens: None,
        attention: Attention::Bidirectional,
        pooling: Pooling::Mean,
        dense: None,
        dim: 8,
        normalize: true,
        max_tokens: 64,
    }
}

/// A random decoder of vectors of 8 numbers and texts of up to 12 tokens.
fn export(folder: &Path) -> PathBuf {
    let texts = ["A man is playing a guitar.", "Two dogs run through the snow."];
    let vocabulary = train_bpe(texts.into_iter().cycle().take(100).map(str::to_owned), 300).unwrap();
    let config = DecoderConfig {
        dim: 8,
        hidden: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        ffn: 48,
        vocab: vocabulary.size() as i64,
        prefix_tokens: 3,
        projector_hidden: 16,
        max_tokens: 12,
        rope_theta: 1e4,
        rms_norm_eps: 1e-6,
        tie_embeddings: true,
        bos_token_id: vocabulary.bos.into(),
        eos_token_id: vocabulary.eos.into(),
        pad_token_id: vocabulary.pad.into(),
        activation: Default::default(),
        input_scale: 8f64.sqrt(),
        input_normalization: false,
        refines: false,
        knows_noise: false,
        knows_length: false,
        guides: false,
        qkv_bias: false,
    };
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 4);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    let origin = Origin { kind: OriginKind::Run, path: PathBuf::from("made here"), step: None };
    let inverter = Inverter { decoder, config, vocabulary, space: space(), origin, store };
    let golden_ND = Tensor::eye(8, (Kind::Float, Device::Cpu));
    let out = folder.join("export");
    let options = ExportOptions { dtype: Dtype::F32, golden_ND: &golden_ND, readme: "# A decoder\n" };
    write_export(&inverter, &out, &options).unwrap();
    out
}

fn bench(flags: &[&str]) -> assert_cmd::assert::Assert {
    let folder = tempfile::tempdir().unwrap();
    let mut command = inverse_stella();
    command.args(["bench", "decode"]).arg(export(folder.path())).args(["--n", "40"]).args(flags).assert()
}

#[test]
fn it_tells_each_batch_and_the_best() {
    let done = bench(&[
        "--json",
        "--max-tokens",
        "10",
        "--batch",
        "1,16",
        "--runs",
        "2",
        "--dtype",
        "f32",
        "--check-f32",
    ])
    .success();
    let found: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!((&found["n"], &found["beams"], &found["dtype"]), (&40.into(), &1.into(), &"f32".into()));
    let batches = found["batches"].as_array().unwrap();
    assert_eq!(batches.iter().map(|at| at["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 16]);
    let speed = |at: &serde_json::Value| at["texts_per_s"].as_f64().unwrap();
    assert_eq!(speed(&found), f64::max(speed(&batches[0]), speed(&batches[1])));
    for at in batches {
        assert!(at["tokens_per_s"].as_f64().unwrap() > 0.0 && at["tokens"].as_u64().unwrap() <= 400, "{at}");
        assert_eq!(at["equal_to_f32_percent"], 100.0);
    }
}

#[test]
fn it_tells_beams_in_lines() {
    let told =
        contains("3 beams").and(contains("texts/s")).and(contains("% ended")).and(contains("best").not());
    bench(&["--max-tokens", "10", "--beam", "3", "--batch", "8", "--dtype", "bf16"]).success().stdout(told);
}

#[test]
fn static_rows_give_the_same_texts_and_say_that_nothing_was_recorded() {
    // 40 vectors: 16, 16 and 8 rows; and fewer vectors than rows were asked for
    let flags = ["--max-tokens", "10", "--dtype", "f32", "--device", "cpu", "--check-f32", "--json"];
    let found = |more: &[&str]| -> serde_json::Value {
        let done = bench(&[&flags, more].concat()).success();
        serde_json::from_slice(&done.get_output().stdout).unwrap()
    };
    let rows = found(&["--graphs", "--batch", "16,64", "--runs", "2"]);
    for at in rows["batches"].as_array().unwrap() {
        assert_eq!(at["equal_to_f32_percent"], 100.0, "{rows}");
    }
    let usual = found(&[]);
    assert_eq!((&rows["steps"], &usual["steps"]), (&"static".into(), &"usual".into()));
    assert_eq!(rows["tokens"], usual["tokens"]);
    assert_eq!(rows["peak_device_bytes"], serde_json::Value::Null);
    assert!(rows["peak_resident_bytes"].as_u64().unwrap() > 1 << 20);
    let told = contains("on static tensors, without graphs").and(contains("GiB at most"));
    bench(&["--max-tokens", "10", "--device", "cpu", "--graphs"]).success().stdout(told);
    if !tch::Cuda::is_available() {
        bench(&["--max-tokens", "10", "--device", "cuda", "--graphs"]).failure().stderr(contains("hint:"));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    bench(&["--graphs", "--beam", "2"]).code(2).stderr(contains("--beam 2").and(contains("hint:")));
    let refused = contains("--max-tokens 32: this decoder writes 1 to 12 tokens").and(contains("hint:"));
    bench(&[]).code(2).stderr(refused);
    bench(&["--max-tokens", "10", "--batch", "0"]).code(2);
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("v.jsonl");
    fs_err::write(&vectors, "[1.0, 2.0]\n").unwrap();
    bench(&["--max-tokens", "10", "--vectors", vectors.to_str().unwrap()])
        .code(1)
        .stderr(contains("2 numbers").and(contains("hint:")));
    inverse_stella().args(["bench", "decode", "no-such-folder"]).assert().code(1).stderr(contains("hint:"));
}
