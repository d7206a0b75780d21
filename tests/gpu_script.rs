//! `configs/gpu.sh` on machines without a GPU: its time limits, its failures and its report, on a command that answers
//! what the test wants; and its smallest shapes on the real one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;

/// Python of the set-up, else the system's.
fn python() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    if own.exists() { own } else { PathBuf::from("python3") }
}

fn script(stella: &Path, out: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/gpu.sh"));
    for name in ["DECODER", "VECTORS", "ENCODER", "TEXTS", "PEERS", "RECIPE", "PEAK_TFLOPS"] {
        command.env_remove(name);
    }
    command.env("STELLA", stella).env("PYTHON", python()).arg("--out").arg(out).args(arguments);
    command
}

/// (outcome, the rest) of each step of a report.
fn steps(out: &Path) -> BTreeMap<String, Value> {
    let report: Value =
        serde_json::from_str(&fs_err::read_to_string(out.join("report.json")).unwrap()).unwrap();
    let steps = report["steps"].as_array().unwrap().iter();
    steps.map(|step| (step["step"].as_str().unwrap().to_owned(), step.clone())).collect()
}

#[test]
fn steps_end_in_time_and_failures_do_not_stop_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let (stella, out) = (folder.path().join("stella"), folder.path().join("out"));
    let answers = r#"#!/bin/sh
case "$*" in
doctor*) echo '{"ok": true, "checks": [{"name": "libtorch", "found": "2.11.0"}]}' ;;
launch*"-- bench train --recipe "*) echo "{\"tokens_per_s\": 3000, \"flops_per_token\": 989e6, \"processes\": $3}" ;;
"bench train"*) echo 'a line that is no result'
    echo '{"tokens_per_s": 1000, "ms_per_step": 2.5, "flops_per_token": 989e6, "matmul_gflops": 1978}' ;;
*decode*"--device cuda --graphs"*) echo '{"texts_per_s": 9.5, "steps": "graphs"}' ;;
*decode*"--batch 1 "*) trap '' TERM; sleep 30 & wait; sleep 30 ;;
*decode*"--batch 64 "*) echo 'out of memory' >&2; exit 3 ;;
*decode*) echo '{"texts_per_s": 7.5}' ;;
esac
"#;
    fs_err::write(&stella, answers).unwrap();
    fs_err::set_permissions(&stella, std::fs::Permissions::from_mode(0o755)).unwrap();
    let start = Instant::now();
    // the time of a step is two seconds; what ignores the first signal has some more until the second
    let mut run = script(&stella, &out, &["--tiny", "--minutes", "0.03", "--gpus", "2"]);
    run.env("DECODER", "an export").env("KILL_AFTER", "1").assert().success();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let steps = steps(&out);
    let status = |step: &str| steps[step]["status"].as_str().unwrap();
    assert_eq!(status("doctor"), "ok");
    assert_eq!(status("decode-1"), "out of time");
    assert_eq!(status("decode-64"), "failed (3)");
    assert_eq!(status("decode-512"), "ok");
    assert!(status("encode-bf16").starts_with("skipped: TEXTS"));
    assert_eq!((status("processes-1"), status("processes-2")), ("ok", "ok"));
    let shared = &steps["processes-2"];
    assert_eq!(shared["found"]["tokens_per_s"], 3000, "what the docs have a cell for");
    assert!((shared["mfu"].as_f64().unwrap() - 0.0015).abs() < 1e-9, "of each GPU");
    let speed = &steps["train-tiny"];
    assert!((speed["mfu"].as_f64().unwrap() - 0.001).abs() < 1e-9);
    assert!((speed["of_matmul"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert_eq!(fs_err::read_to_string(out.join("decode-64.log")).unwrap(), "out of memory\n");
    let table = fs_err::read_to_string(out.join("report.md")).unwrap();
    assert!(table.contains("| train-tiny | ok | 1000 |  | 2.5 | 0.1% | 50.0% | 2.0 |"), "{table}");
    assert!(table.contains("| decode-512 | ok |  | 7.5 |"), "{table}");
    assert!(table.contains("| decode-64-graphs | ok |  | 9.5 |"), "{table}");
    assert!(table.contains("| decode-1 | out of time |  |  |  |  |  |  |"), "{table}");
}

/// All files of a folder with their bytes.
fn kept(out: &Path) -> Vec<(String, Vec<u8>)> {
    support::files(out, |_| false)
}

#[test]
fn what_was_measured_earlier_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (stella, out) = (folder.path().join("stella"), folder.path().join("out"));
    let answer = |rate: u32| {
        let script = format!("#!/bin/sh\necho '{{\"tokens_per_s\": {rate}, \"texts_per_s\": {rate}}}'\n");
        fs_err::write(&stella, script).unwrap();
        fs_err::set_permissions(&stella, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    answer(1);
    let run = |arguments: &[&str]| {
        script(&stella, &out, &[&["--tiny", "--gpus", "1"], arguments].concat())
            .env("DECODER", "an export")
            .assert()
    };
    run(&[]).success();
    let before = kept(&out);
    run(&["--dry-run"]).success();
    assert!(kept(&out) == before, "a dry run writes nothing");

    answer(2);
    // one step again, and one that is skipped now
    script(&stella, &out, &["--tiny", "--gpus", "1", "decode-64", "decode-1", "encode"]).assert().success();
    run(&["decode-64"]).success();
    let steps = steps(&out);
    let rate = |step: &str| steps[step]["found"]["texts_per_s"].as_f64();
    assert_eq!((rate("decode-1"), rate("decode-64"), rate("decode-512")), (Some(1.0), Some(2.0), Some(1.0)));
    assert_eq!((rate("train-tiny"), rate("processes-1")), (Some(1.0), Some(1.0)));
    let lines = fs_err::read_to_string(out.join("steps.tsv")).unwrap();
    let names: Vec<&str> = lines.lines().filter_map(|line| line.split('\t').next()).collect();
    let at = |step: &str| names.iter().position(|name| *name == step).unwrap();
    assert!(at("decode-1") < at("decode-64") && at("decode-64") < at("decode-512"), "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "decode-64").count(), 1);
}

#[test]
fn the_smallest_shapes_run_on_any_machine() {
    let folder = tempfile::tempdir().unwrap();
    let stella = assert_cmd::cargo::cargo_bin("inverse-stella");
    script(&stella, folder.path(), &["--tiny", "doctor", "train"]).assert().success();
    let steps = steps(folder.path());
    assert_eq!(steps["doctor"]["status"], "ok");
    assert!(!steps.contains_key("decode-1"), "only the steps that were asked for");
    let has_the_verb = support::inverse_stella().args(["bench", "train", "--help"]).output().unwrap();
    if has_the_verb.status.success() {
        assert_eq!(steps["train-tiny"]["status"], "ok");
        assert!(steps["train-tiny"]["mfu"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn what_cannot_be_is_refused_and_a_dry_run_measures_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = Path::new("/nowhere/inverse-stella");
    for (arguments, message) in [
        (vec!["--minutes", "soon"], "--minutes soon is no number"),
        (vec!["--gpus", "all"], "--gpus all is no number"),
        (vec!["--fast"], "there is no flag --fast"),
    ] {
        let refused = script(nothing, folder.path(), &arguments).assert().code(2);
        let said = String::from_utf8_lossy(&refused.get_output().stderr).into_owned();
        assert!(said.contains(message), "{said}");
    }
    let dry = script(nothing, folder.path(), &["--dry-run", "--gpus", "4"]).assert().success();
    let said = String::from_utf8_lossy(&dry.get_output().stdout).into_owned();
    for part in
        ["train-1b: /nowhere/inverse-stella bench train --hidden 2048", "launch --processes 4 -- bench train"]
    {
        assert!(said.contains(part), "{said}");
    }
    assert!(kept(folder.path()).is_empty());
}
