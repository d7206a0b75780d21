//! `encode` and `bench encode` as a user meets them, on a small model of STELLA's kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};

use predicates::prelude::*;
use predicates::str::contains;
use support::{inverse_stella, write_lines};

const STELLA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tests/golden/backbones/qwen2_stella");

fn texts(folder: &Path) -> PathBuf {
    let path = folder.join("texts.txt");
    let lines = ["Two dogs run along the beach.", "What are safetensors?", "x"].map(str::to_owned);
    write_lines(&path, &lines);
    path
}

/// Encodes with the given flags and gives back what `--json` prints and the space beside the vectors.
fn encode(flags: &[&str]) -> (serde_json::Value, serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("v.npy");
    let done = inverse_stella()
        .args(["encode", "--encoder", STELLA, "--json", "--input"])
        .arg(texts(folder.path()))
        .arg("--output")
        .arg(&output)
        .args(flags)
        .assert()
        .success();
    let printed = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let space = fs_err::read_to_string(folder.path().join("v.space.json")).unwrap();
    (printed, serde_json::from_str(&space).unwrap())
}

#[test]
fn prompt_head_and_scale_are_chosen_and_recorded() {
    let (printed, space) = encode(&[]);
    assert_eq!((&printed["n"], &printed["dim"]), (&3.into(), &12.into()));
    assert_eq!((&space["normalize"], &space["dense"]), (&true.into(), &"2_Dense_12".into()));
    assert_eq!(space["prompt"]["name"], "none");
    assert_eq!(space["attention"], "bidirectional");
    assert_eq!(printed["space"], space);

    let flags =
        ["--prompt", "s2p", "--dim", "6", "--no-normalize", "--dtype", "bf16", "--attention", "causal"];
    let (printed, space) = encode(&flags);
    assert_eq!((&printed["dim"], &space["dense"]), (&6.into(), &"2_Dense_6".into()));
    assert_eq!(space["prompt"]["name"], "s2p_query");
    assert!(space["prompt"]["text"].as_str().unwrap().ends_with("\nQuery: "));
    assert_eq!((&space["normalize"], &space["attention"]), (&false.into(), &"causal".into()));
}

#[test]
fn long_and_empty_texts_keep_their_rows_and_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("odd.txt"), folder.path().join("v.npy"));
    write_lines(&input, &["a b ".repeat(2000), String::new(), "a dog".to_owned()]);
    let done = inverse_stella()
        .args(["encode", "--encoder", STELLA, "--json", "--input"])
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .assert()
        .success()
        .stderr(
            contains("more than 512 tokens, cut there: 1")
                .and(contains("without any token, whose vectors are zero: 1")),
        );
    let printed: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!((&printed["cut"], &printed["empty"], &printed["n"]), (&1.into(), &1.into(), &3.into()));
    let bytes = fs_err::read(&output).unwrap();
    let numbers: Vec<f32> = bytes[bytes.len() - 3 * 12 * 4..]
        .chunks(4)
        .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
        .collect();
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let norms: Vec<f32> = numbers.chunks(12).map(norm).collect();
    assert!((norms[0] - 1.0).abs() < 1e-5 && norms[1] == 0.0 && (norms[2] - 1.0).abs() < 1e-5, "{norms:?}");
}

#[test]
fn what_the_encoder_does_not_have_is_refused_with_what_it_has() {
    let refused = |flags: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        inverse_stella()
            .args(["encode", "--encoder", STELLA, "--output", "v.npy", "--input"])
            .arg(texts(folder.path()))
            .args(flags)
            .current_dir(folder.path())
            .assert()
    };
    refused(&["--prompt", "s2x"]).code(2).stderr(
        contains("no prompt named `s2x`").and(contains("none, s2p_query, s2s_query")).and(contains("hint:")),
    );
    refused(&["--dim", "7"])
        .code(2)
        .stderr(contains("no head for 7 (it has heads for 6, 12)").and(contains("hint:")));
    refused(&["--attention", "sideways"]).code(2).stderr(contains("bidirectional or causal"));
    refused(&["--max-tokens", "5", "--prompt", "s2p"]).code(1).stderr(contains("s2p_query"));
}

#[test]
fn bench_encode_tells_speed_padding_and_memory() {
    let folder = tempfile::tempdir().unwrap();
    let bench = |flags: &[&str]| {
        inverse_stella()
            .args(["bench", "encode", "--encoder", STELLA, "--texts"])
            .arg(texts(folder.path()))
            .args(flags)
            .assert()
            .success()
    };
    let done = bench(&["--json", "--dtype", "bf16", "--runs", "2"]);
    let found: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    assert_eq!((&found["n"], &found["dtype"]), (&3.into(), &"bf16".into()));
    for key in ["texts_per_s", "tokens_per_s", "matmul_gflops", "achieved_gflops", "load_seconds"] {
        assert!(found[key].as_f64().unwrap() > 0.0, "{key} in {found}");
    }
    assert!((0.0..100.0).contains(&found["padding_percent"].as_f64().unwrap()));
    assert!(found["peak_resident_bytes"].as_u64() >= found["load_peak_resident_bytes"].as_u64());
    bench(&["--limit", "1"]).stdout(contains("texts/s").and(contains("GFLOP/s")).and(contains("1 of")));

    let empty = folder.path().join("empty.txt");
    write_lines(&empty, &[" ".to_owned()]);
    inverse_stella()
        .args(["bench", "encode", "--encoder", STELLA, "--texts"])
        .arg(&empty)
        .assert()
        .code(1)
        .stderr(contains("no text in it").and(contains("hint:")));
}
