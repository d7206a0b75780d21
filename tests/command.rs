//! The command as a user meets it: help, exit statuses, errors with a hint.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;
use support::{inverse_stella, write_lines};

#[test]
fn help_shows_the_main_job_and_every_verb() {
    let help = inverse_stella().arg("--help").assert().success();
    let text = String::from_utf8(help.get_output().stdout.clone()).unwrap();
    for verb in [
        "doctor",
        "encode",
        "pairs",
        "train",
        "eval",
        "report",
        "curve",
        "export",
        "invert",
        "roundtrip",
        "launch",
        "parity",
        "bundle",
        "bench",
        "config",
        "schema",
    ] {
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
fn doctor_sees_the_hub_as_encoders_will() {
    let home = tempfile::tempdir().unwrap();
    let report = |variables: &[(&str, &str)]| {
        let mut command = inverse_stella();
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        command.env("HF_HOME", home.path()).envs(variables.iter().copied());
        let output = command.args(["doctor", "--json"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains("hf_secret"), "a token must not be shown");
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        move |name: &str| {
            let checks = report["checks"].as_array().unwrap();
            checks.iter().find(|check| check["name"] == name).unwrap()["data"].clone()
        }
    };
    let plain = report(&[]);
    assert_eq!(plain("HF cache")["path"], home.path().join("hub").to_str().unwrap());
    assert_eq!(plain("HF token")["present"], false);
    assert_eq!(report(&[("HF_HUB_CACHE", "/c")])("HF cache")["path"], "/c");
    assert_eq!(report(&[("HF_TOKEN", "hf_secret")])("HF token")["place"], "HF_TOKEN");
    fs_err::write(home.path().join("token"), "hf_secret").unwrap();
    assert_eq!(report(&[])("HF token")["place"], home.path().join("token").to_str().unwrap());
    assert_eq!(report(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")])("HF token")["present"], false);
    assert_eq!(report(&[("HF_HUB_OFFLINE", "on")])("offline mode")["offline"], true);
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

#[test]
fn a_training_is_planned_where_neither_pairs_nor_encoder_are() {
    let plan = ["train", "--recipe", "configs/stella-en-1.5b-v5.toml", "--dry-run"];
    // a pair set of that name may be there; the plan is to be made without
    let away = ["--set", "pairs.dir=runs/no-such-pairs"];
    inverse_stella()
        .args(plan)
        .args(away)
        .assert()
        .success()
        .stdout(contains("fits on H200").and(contains("arXiv 2001.08361")).and(contains("no-such-pairs")));
    let json = inverse_stella()
        .args(plan)
        .args(away)
        .args(["--json", "--pairs", "30000000", "--tokens-per-text", "32", "--mfu", "0.3", "--gpu", "h100"])
        .output()
        .unwrap();
    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    let plan: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    for key in
        ["parameters", "memory", "fits", "cost", "notes", "max_steps", "device", "compute", "vocabulary"]
    {
        assert!(!plan[key].is_null(), "{key} is missing from {plan}");
    }
    // what only pairs can tell is there and null
    for key in
        ["texts", "texts_too_long", "dev_texts", "tokens_per_epoch", "steps_per_epoch", "padding_percent"]
    {
        assert!(plan.get(key).is_some_and(serde_json::Value::is_null), "{key} is not null in {plan}");
    }
    assert!(plan.get("first_step").is_some_and(serde_json::Value::is_null));
    let cost = &plan["cost"];
    assert_eq!(cost["pairs"], 30_000_000);
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let seconds = number(&cost["pass_flops"]) / (989e12 * 0.3);
    assert!((number(&cost["pass_seconds"]) / seconds - 1.0).abs() < 1e-9, "{cost}");
}

#[test]
fn a_plan_refuses_what_cannot_be() {
    let plan = |more: &[&str]| {
        inverse_stella()
            .args(["train", "--recipe", "configs/stella-small.toml", "--dry-run"])
            .args(["--set", "pairs.dir=runs/no-such-pairs"])
            .args(more)
            .assert()
    };
    plan(&["--mfu", "1.5"]).code(2).stderr(contains("utilization"));
    plan(&["--tokens-per-text", "4000"]).code(2).stderr(contains("decoder.max_tokens"));
    plan(&["--pairs", "0"]).code(2).stderr(contains("pairs"));
    plan(&["--gpu", "h300"]).code(2).stderr(contains("h200"));
    inverse_stella()
        .args(["train", "--recipe", "configs/stella-small.toml", "--on-paper"])
        .assert()
        .code(2)
        .stderr(contains("--dry-run"));
    let folder = tempfile::tempdir().unwrap();
    let recipe = folder.path().join("recipe.toml");
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/base.toml");
    let text =
        "[encoder]\nsource = \"x\"\n[pairs]\ndir = \"runs/no-such-pairs\"\n[training]\nmax_steps = 1\n";
    fs_err::write(&recipe, format!("extends = \"{}\"\n{text}", base.display())).unwrap();
    inverse_stella()
        .args(["train", "--dry-run", "--recipe"])
        .arg(&recipe)
        .assert()
        .code(1)
        .stderr(contains("runs/no-such-pairs").and(contains("encoder.dim")));
}

#[test]
fn a_plan_reads_like_this() {
    let plan = inverse_stella()
        .args(["train", "--recipe", "configs/stella-small.toml", "--dry-run"])
        .args(["--set", "pairs.dir=runs/no-such-pairs"])
        .output()
        .unwrap();
    insta::assert_snapshot!(String::from_utf8(plan.stdout).unwrap(), @r"
    device       H200 (bf16)
    vectors      1024 numbers
    vocabulary   50000 tokens
    parameters   54449664 = embedding 25600000 + blocks 23601664 + head 0 + projector 5248000
    memory       25.1 GB = weights 327 MB + gradients 378 MB + optimizer 436 MB + averages 218 MB + activations 23.6 GB + evaluation 109 MB
    one GPU      fits on H200 (18 % of 141 GB); fits on H100 (31 % of 80.0 GB)
    FLOPs/token  105 M forward = blocks 53.1 M + attention 673 k + head 51.2 M + projector 164 k; 315 M with the backward pass
    a step       65536 tokens at most, in 1 parts
    time         8.5 minutes for one pass over 10000000 pairs of 64.0 tokens: 202 PFLOP on one H200 at 0.4 of 989 TFLOP/s, 1254430 tokens/s
    ends after   30000 steps: on that H200 3.1 passes, 26.1 minutes
    note         on paper: there is no pair set at runs/no-such-pairs; vocabulary, texts and their lengths are assumed, padding is left out, and memory is that of a step of the shortest texts
    note         the encoder NovaSearch/stella_en_1.5B_v5@d03be74b361d4eb24f42a2fe5bd2e29917df4604 is on the same device, and its size is not known here: its weights come on top of the memory
    note         time: FLOPs / (peak of NVIDIA's data sheet, dense x 0.4 utilization), the utilization (MFU as in arXiv 2204.02311, appendix B) being an assumption, not a measurement; evaluations and the making of the vectors come on top
    note         FLOPs: 2 x matrix weights a position + 4 x heads x head_dim x visible keys a layer, backward twice the forward (Kaplan et al. 2020, arXiv 2001.08361, table 1)
    note         activations: what each block keeps for its backward pass (in the manner of Korthikanti et al. 2022, arXiv 2205.05198), and the scores of a chunk of positions; it fits where nine tenths of the memory are enough
    ");
}
