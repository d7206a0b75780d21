//! `bench decode` on a small export.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use predicates::prelude::*;
use predicates::str::contains;
use support::inverse_stella;

const EXPORT: &str = "models/tests/golden/decoder_tied";

fn bench(flags: &[&str]) -> assert_cmd::assert::Assert {
    inverse_stella().args(["bench", "decode", EXPORT, "--max-tokens", "10", "--n", "40"]).args(flags).assert()
}

#[test]
fn it_tells_each_batch_and_the_best() {
    let done =
        bench(&["--json", "--batch", "1,16", "--runs", "2", "--dtype", "f32", "--check-f32"]).success();
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
    bench(&["--beam", "3", "--batch", "8", "--dtype", "bf16"]).success().stdout(told);
}

#[test]
fn what_cannot_be_is_refused() {
    bench(&["--max-tokens", "13"]).code(2);
    inverse_stella()
        .args(["bench", "decode", EXPORT])
        .assert()
        .code(2)
        .stderr(contains("--max-tokens 32: this decoder writes 1 to").and(contains("hint:")));
    bench(&["--batch", "0"]).code(2);
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("v.jsonl");
    fs_err::write(&vectors, "[1.0, 2.0]\n").unwrap();
    bench(&["--vectors", vectors.to_str().unwrap()])
        .code(1)
        .stderr(contains("2 numbers").and(contains("hint:")));
    inverse_stella().args(["bench", "decode", "no-such-folder"]).assert().code(1).stderr(contains("hint:"));
}
