//! The command as a user meets it: help, exit statuses, errors with a hint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use predicates::prelude::*;
use predicates::str::contains;
use support::{inverse_stella, write_lines};

#[test]
fn help_shows_the_main_job_and_every_verb() {
    let help = inverse_stella().arg("--help").assert().success();
    let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    for verb in
        ["doctor", "encode", "pairs", "train", "eval", "export", "invert", "roundtrip", "bench", "config"]
    {
        assert!(text.contains(&format!("  {verb}")), "{verb} is missing from:\n{text}");
        inverse_stella()
            .args([verb, "--help"])
            .assert()
            .success()
            .stdout(contains("xample").or(contains("Commands:")));
    }
}

#[test]
fn wrong_arguments_leave_with_2() {
    inverse_stella().arg("no-such-verb").assert().code(2).stderr(contains("unrecognized subcommand"));
    inverse_stella()
        .args(["eval", "somewhere"])
        .assert()
        .code(2)
        .stderr(contains("--texts").or(contains("--pairs")));
    inverse_stella()
        .args(["train", "--recipe", "configs/demo.toml", "--set", "decoder.hiden=3", "--dry-run"])
        .assert()
        .code(2)
        .stderr(contains("hiden").and(contains("hidden")));
}

#[test]
fn a_missing_file_leaves_with_1_and_a_hint() {
    inverse_stella()
        .args(["train", "--recipe", "configs/no-such.toml"])
        .assert()
        .code(1)
        .stderr(contains("no-such.toml").and(contains("hint:")));
    inverse_stella()
        .args(["invert", "no-such-decoder", "--vectors", "x.npy"])
        .assert()
        .code(1)
        .stderr(contains("no-such-decoder").and(contains("hint:")));
}

#[test]
fn an_encoder_that_is_none_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts.txt");
    write_lines(&texts, &["one text".to_owned()]);
    inverse_stella()
        .args(["encode", "--encoder"])
        .arg(folder.path())
        .arg("--input")
        .arg(&texts)
        .arg("--output")
        .arg(folder.path().join("x.npy"))
        .assert()
        .code(1)
        .stderr(contains("modules.json").and(contains("hint:")));
    assert!(!folder.path().join("x.npy").exists());
}

#[test]
fn doctor_prints_one_json_object() {
    let output = inverse_stella().args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = report.to_string();
    assert!(text.contains("2.11.0"), "{text}");
    assert!(!text.contains("hf_"), "a token must not be shown");
}

#[test]
fn config_show_names_where_each_value_comes_from() {
    inverse_stella()
        .args(["config", "show", "--recipe", "configs/captions.toml", "--set", "training.max_minutes=3"])
        .assert()
        .success()
        .stdout(contains("--set").and(contains("captions.toml:")).and(contains("default")));
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    use std::process::{Command, Stdio};
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("inverse-stella"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
