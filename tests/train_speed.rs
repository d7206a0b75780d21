//! `bench train` as a user meets it, on shapes that take no time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use predicates::prelude::*;
use predicates::str::contains;
use support::inverse_stella;

const TINY: [&str; 22] = [
    "bench", "train", "--dim", "8", "--hidden", "16", "--layers", "2", "--heads", "2", "--ffn", "24",
    "--vocab", "50", "--prefix", "2", "--batch", "6", "--length", "5", "--device", "cpu",
];

#[test]
fn speed_work_and_waiting_are_told() {
    for dtype in ["f32", "bf16"] {
        let done = inverse_stella()
            .args(TINY)
            .args(["--steps", "3", "--warmup", "1", "--dtype", dtype, "--json"])
            .assert()
            .success();
        let found: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
        for key in
            ["tokens_per_s", "ms_per_step", "gradients_ms", "update_ms", "achieved_gflops", "matmul_gflops"]
        {
            assert!(found[key].as_f64().unwrap() > 0.0, "{key} in {found}");
        }
        assert!((0.0..100.0).contains(&found["data_wait_percent"].as_f64().unwrap()));
        assert_eq!(
            (&found["steps"], &found["tokens"], &found["dtype"]),
            (&3.into(), &90.into(), &dtype.into())
        );
        assert_eq!(found["padding_percent"], 0.0);
        // embedding, projector of two layers with biases, two blocks, three kinds of gains
        let blocks = 2 * (4 * 16 * 16 + 3 * 16 * 24);
        let expected = 50 * 16 + (8 * 32 + 32) + (32 * 32 + 32) + blocks + 5 * 16;
        assert_eq!(found["parameters"], expected);
        // by models::flops: 7 positions see 28 keys
        let forward = 2 * blocks * 7 + 4 * 2 * 16 * 28 + 2 * 50 * 16 * 5 + 2 * 32 * (8 + 2 * 16);
        assert_eq!(found["flops_per_token"].as_f64().unwrap(), 3.0 * f64::from(forward) / 5.0);
        let product =
            found["flops_per_token"].as_f64().unwrap() * found["tokens_per_s"].as_f64().unwrap() / 1e9;
        assert!((product / found["achieved_gflops"].as_f64().unwrap() - 1.0).abs() < 1e-9);
        assert!(found["peak_resident_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(found.get("peak_device_bytes"), Some(&serde_json::Value::Null), "on a CPU");
        let loss = found["loss"].as_f64().unwrap();
        assert!((loss - 50f64.ln()).abs() < 0.5, "random tokens of 50: {loss}");
    }
}

#[test]
fn a_profile_says_what_the_time_goes_into() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.json");
    let flag = format!("--profile={}", trace.display());
    let done = inverse_stella()
        .args(TINY)
        .args(["--steps", "2", "--warmup", "1", "--dtype", "f32", "--json", &flag])
        .assert()
        .success();
    let found: serde_json::Value = serde_json::from_slice(&done.get_output().stdout).unwrap();
    let profile = &found["profile"];
    assert_eq!((&profile["steps"], profile.get("device_busy_percent")), (&3.into(), None), "on a CPU");
    let operations = profile["operations"].as_array().unwrap();
    let calls = |name: &str| {
        let row = operations.iter().find(|row| row["name"] == name);
        row.map_or(0.0, |row| row["calls"].as_f64().unwrap())
    };
    assert!(calls("aten::mm") > 5.0, "{profile}");
    // our own kernels have names too: a norm in front of each part of two blocks, and one behind them
    assert_eq!(calls("te_add_rms_norm"), 5.0, "{profile}");
    let percent: f64 = operations.iter().map(|row| row["percent"].as_f64().unwrap()).sum();
    assert!(percent > 20.0 && percent < 100.5, "{percent} of one thread's time");
    let trace: serde_json::Value = serde_json::from_slice(&fs_err::read(trace).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == "aten::mm"));
    inverse_stella()
        .args(TINY)
        .args(["--steps", "1", "--warmup", "0", "--profile"])
        .assert()
        .success()
        .stdout(contains("ms a step").and(contains("aten::mm")));
}

#[test]
fn lines_are_for_people() {
    inverse_stella()
        .args(TINY)
        .args(["--steps", "1", "--warmup", "0"])
        .assert()
        .success()
        .stdout(contains("tokens/s").and(contains("waiting for data")).and(contains("GFLOP/s of")));
}

#[test]
fn what_makes_no_decoder_is_refused() {
    let refused = |flags: &[&str]| inverse_stella().args(["bench", "train"]).args(flags).assert().code(2);
    refused(&["--hidden", "20", "--heads", "3"]).stderr(contains("--hidden 20").and(contains("hint:")));
    refused(&["--steps", "0"]);
    refused(&["--layers", "0"]);
    refused(&["--recipe", "configs/demo.toml", "--layers", "3"]).stderr(contains("cannot be used with"));
    refused(&["--set", "training.dtype=f32"]).stderr(contains("--recipe"));
    inverse_stella()
        .args(["bench", "train", "--recipe", "configs/no-such.toml"])
        .assert()
        .code(1)
        .stderr(contains("no-such.toml").and(contains("hint:")));
}
