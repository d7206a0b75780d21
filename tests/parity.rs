//! `parity` on a machine without a GPU: it agrees with itself, and tells when something does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use support::{inverse_stella, minilm};

fn parity(arguments: &[&str]) -> assert_cmd::Command {
    let mut command = inverse_stella();
    command.args(["parity", "--device", "cpu"]).args(arguments);
    command
}

fn found(arguments: &[&str], code: i32) -> Value {
    let output = parity(arguments).arg("--json").output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Copies a file with the first numbers of a tensor changed.
fn altered(from: &Path, to: &Path, name: &str, count: usize) {
    let bytes = fs_err::read(from).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: BTreeMap<String, (Vec<usize>, Vec<u8>)> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec())))
        .collect();
    let data = &mut all.get_mut(name).unwrap().1;
    data.chunks_exact_mut(4).take(count).for_each(|number| number.copy_from_slice(&77.0f32.to_le_bytes()));
    let views = all.iter().map(|(name, (shape, data))| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
    });
    fs_err::write(to, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn a_machine_agrees_with_itself_and_with_a_golden_file() {
    let Some(encoder) = minilm() else { return };
    let folder = tempfile::tempdir().unwrap();
    let golden = folder.path().join("golden.safetensors");
    let with_encoder = ["--encoder", encoder.to_str().unwrap()];
    parity(&with_encoder)
        .arg("--write")
        .arg(&golden)
        .assert()
        .success()
        .stdout(contains("golden.safetensors"));
    let with_golden = [with_encoder[0], with_encoder[1], "--golden", golden.to_str().unwrap()];
    let all = found(&with_golden, 0);
    assert_eq!(all["ok"], true);
    let checks = all["checks"].as_array().unwrap();
    let of = |between: &str| -> Vec<&str> {
        let of = checks.iter().filter(|check| check["between"].as_str().unwrap().contains(between));
        of.map(|check| check["what"].as_str().unwrap()).collect()
    };
    assert_eq!(of("golden file"), ["adamw", "gradients", "loss", "muon", "scores", "texts", "vectors"]);
    assert_eq!(of("bf16"), ["gradients", "loss", "scores", "vectors"]);
    // bf16 is not f32: something must have been computed otherwise
    assert!(
        checks
            .iter()
            .any(|check| check["found"].as_f64().unwrap() != 0.0 && check["measure"] == "lowest_cosine")
    );
    // a golden file of a machine without the encoder
    parity(&with_golden[2..]).assert().success();
    parity(&[]).arg("--write").arg(&golden).assert().success();
    parity(&with_golden).assert().code(1).stderr(contains("another encoder"));
}

#[test]
fn what_differs_is_told_and_the_status_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let (golden, wrong) = (folder.path().join("golden.safetensors"), folder.path().join("wrong.safetensors"));
    parity(&["--write", golden.to_str().unwrap()]).assert().success();
    for what in ["scores", "loss", "gradients", "texts", "muon"] {
        altered(&golden, &wrong, what, if what == "texts" { usize::MAX } else { 1 });
        let all = found(&["--golden", wrong.to_str().unwrap()], 1);
        let bad: Vec<&Value> =
            all["checks"].as_array().unwrap().iter().filter(|check| check["ok"] == false).collect();
        assert_eq!((all["ok"].as_bool(), bad.len()), (Some(false), 1), "{what}");
        assert_eq!(bad[0]["what"], what);
    }
    let muon = folder.path().join("muon.safetensors");
    fs_err::rename(&wrong, &muon).unwrap();
    // one text may part from the other's where two tokens are equally likely
    altered(&golden, &wrong, "texts", 3);
    assert_eq!(found(&["--golden", wrong.to_str().unwrap()], 0)["ok"], true);
    fs_err::rename(&muon, &wrong).unwrap();
    parity(&["--golden", wrong.to_str().unwrap()])
        .assert()
        .code(1)
        .stdout(contains("WRONG"))
        .stderr(contains("farther off than they may be").and(contains("hint: ")));
    fs_err::write(&wrong, "no tensors").unwrap();
    parity(&["--golden", wrong.to_str().unwrap()]).assert().code(1).stderr(contains("wrong.safetensors"));
}
