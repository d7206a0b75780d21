//! The main job on a small corpus with the real encoder: pairs -> train -> eval -> export -> invert, and what
//! happens when it is killed on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use predicates::prelude::*;
use predicates::str::contains;
use support::small::{Small, encode};
use support::{files, inverse_stella, minilm, sentences, write_lines};

#[test]
fn texts_become_pairs_a_decoder_an_export_and_texts_again() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    inverse_stella()
        .args(["pairs", "inspect"])
        .arg(small.path("pairs"))
        .assert()
        .success()
        .stdout(contains("600 pairs of 384 numbers"));
    inverse_stella().args(["pairs", "verify"]).arg(small.path("pairs")).assert().success();

    small.done(&["train", "--dry-run"], &[]);
    assert!(!small.path("run").exists(), "a dry run leaves no run behind");
    small.done(&["train"], &[]);
    for name in
        ["config.toml", "environment.json", "metrics.jsonl", "log.txt", "space.json", "checkpoints/latest"]
    {
        assert!(small.path("run").join(name).exists(), "the run has no {name}");
    }

    let json = inverse_stella()
        .arg("eval")
        .arg(small.path("run"))
        .arg("--pairs")
        .arg(small.path("pairs"))
        .args(["--split", "dev", "--json", "--bootstrap", "50", "--encoder"])
        .arg(&encoder)
        .output()
        .unwrap();
    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    let result: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    for key in
        ["n", "bleu", "sentence_bleu", "chrf", "token_f1", "token_set_f1", "exact_match", "rouge_l", "cosine"]
    {
        assert!(result[key].is_number(), "{key} is no number in {result}");
    }

    let export = small.path("export");
    inverse_stella().arg("export").arg(small.path("run")).arg(&export).assert().success();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "projector.json",
        "space.json",
        "golden.json",
        "README.md",
    ] {
        assert!(export.join(name).exists(), "the export has no {name}");
    }

    let texts = small.path("few.txt");
    write_lines(&texts, &sentences(5));
    let vectors = small.path("few.npy");
    encode(&encoder, &texts, &vectors, &[]);
    let from_export =
        inverse_stella().arg("invert").arg(&export).arg("--vectors").arg(&vectors).output().unwrap();
    let from_run = inverse_stella()
        .arg("invert")
        .arg(small.path("run"))
        .arg("--vectors")
        .arg(&vectors)
        .output()
        .unwrap();
    assert!(from_export.status.success(), "{}", String::from_utf8_lossy(&from_export.stderr));
    assert_eq!(String::from_utf8_lossy(&from_export.stdout).lines().count(), 5);
    assert_eq!(from_export.stdout, from_run.stdout, "an export gives the texts that its run gives");

    inverse_stella()
        .args(["roundtrip", "A man finds a red ball.", "--json", "--decoder"])
        .arg(&export)
        .arg("--encoder")
        .arg(&encoder)
        .assert()
        .success()
        .stdout(contains("\"cosine\""));
}

#[test]
fn a_killed_build_goes_on_to_the_same_bytes() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let whole = small.path("whole");
    small.done(&["pairs", "build"], &[format!("pairs.dir={}", whole.display())]);
    let killed = small.path("killed");
    let sets = [format!("pairs.dir={}", killed.display())];
    small.killed(&["pairs", "build"], &sets, || killed.join("shard-00001.arrow").exists());
    assert!(!killed.join("manifest.json").exists(), "the build was over before it was killed");
    small.done(&["pairs", "build"], &sets);
    let differs = |name: &str| name.ends_with(".lock");
    let (whole, killed) = (files(&whole, differs), files(&killed, differs));
    let names = |found: &[(String, Vec<u8>)]| found.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&whole), names(&killed));
    for ((name, a), (_, b)) in whole.iter().zip(&killed) {
        assert!(a == b, "{name} differs between the whole and the resumed build");
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_weights() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    let whole = small.path("whole");
    small.done(&["train"], &[format!("run.dir={}", whole.display())]);
    let killed = small.path("killed");
    let sets = [format!("run.dir={}", killed.display())];
    small.killed(&["train"], &sets, || killed.join("checkpoints/latest").exists());
    let latest = fs_err::read_to_string(killed.join("checkpoints/latest")).unwrap();
    assert_ne!(latest.trim(), "step-00000012", "the training was over before it was killed");
    small.done(&["train", "--resume"], &sets);
    let last =
        |run: &Path, name: &str| fs_err::read(run.join("checkpoints/step-00000012").join(name)).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
        assert!(
            last(&whole, name) == last(&killed, name),
            "{name} differs between the whole and the resumed run"
        );
    }
}

#[test]
fn a_damaged_shard_is_named() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    let shard = small.path("pairs/shard-00002.arrow");
    let mut bytes = fs_err::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(&shard, bytes).unwrap();
    inverse_stella()
        .args(["pairs", "verify"])
        .arg(small.path("pairs"))
        .assert()
        .code(1)
        .stderr(contains("shard-00002.arrow").and(contains("hint:")));
}

#[test]
fn sigterm_saves_and_leaves_with_0() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    let sets = ["training.max_steps=100000".to_owned(), "training.checkpoint_every=100000".to_owned()];
    let mut child = small.start(&["train"], &sets).spawn().unwrap();
    let metrics = small.path("run/metrics.jsonl");
    let started = Instant::now();
    while fs_err::metadata(&metrics).map_or(0, |meta| meta.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "no step was ever logged");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = small.start(&["train"], &sets).output().unwrap();
    assert_eq!(second.status.code(), Some(1), "a second process on the run folder must be refused");
    assert!(String::from_utf8_lossy(&second.stderr).contains("hint:"));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success(), "SIGTERM must end in status 0");
    let latest = fs_err::read_to_string(small.path("run/checkpoints/latest")).unwrap();
    assert_ne!(latest.trim(), "step-00000000", "nothing was learned before the signal");
    assert!(small.path("run/checkpoints").join(latest.trim()).join("model.safetensors").exists());
}

#[test]
fn vectors_of_another_space_or_shape_are_refused() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[]);
    small.done(&["train"], &["training.max_steps=2".to_owned()]);
    let run = small.path("run");
    let invert =
        |vectors: &Path| inverse_stella().arg("invert").arg(&run).arg("--vectors").arg(vectors).assert();

    let lines = small.path("v.jsonl");
    fs_err::write(&lines, "[1.0, 2.0]\n").unwrap();
    invert(&lines).code(1).stderr(contains("384").and(contains("line 1")).and(contains("hint:")));
    let nan = format!("[{}]\n", vec!["1e999"; 384].join(","));
    fs_err::write(&lines, nan).unwrap();
    invert(&lines).code(1).stderr(contains("hint:"));

    let texts = small.path("few.txt");
    write_lines(&texts, &sentences(2));
    let vectors = small.path("few.npy");
    encode(&encoder, &texts, &vectors, &[]);
    let space = small.path("few.space.json");
    let other = fs_err::read_to_string(&space).unwrap().replace("blake3:", "blake3:00");
    fs_err::write(&space, other).unwrap();
    invert(&vectors).code(1).stderr(contains("space").and(contains("hint:")));
}
