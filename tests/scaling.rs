//! docs/scaling.md says what docs/scaling.py reckons, and that reckons with the recipe as it is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn reckon(flag: &str) -> std::process::Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = root.join(".venv/bin/python");
    let python = if own.exists() { own } else { "python3".into() };
    Command::new(python).arg(root.join("docs/scaling.py")).arg(flag).output().unwrap()
}

#[test]
fn the_page_has_the_tables_of_its_program() {
    let checked = reckon("--check");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_recipe_is_the_one_that_is_reckoned_with() {
    let assumed: Value = serde_json::from_slice(&reckon("--recipe").stdout).unwrap();
    let plan = support::inverse_stella()
        .args([
            "train",
            "--recipe",
            "configs/1b.toml",
            "--dry-run",
            "--on-paper",
            "--gpu",
            "h100",
            "--processes",
            "8",
            "--json",
        ])
        .output()
        .unwrap();
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(assumed["parameters"], plan["parameters"]["total"]);
    assert_eq!(assumed["flops_per_token"], plan["cost"]["flops_per_token"]["training"]);
    assert_eq!(assumed["batch_tokens"], plan["batch_tokens"]);
    assert_eq!(assumed["accumulate"], plan["accumulate"]);
    assert_eq!(plan["cost"]["tokens_per_text"], 64.0);
    let fits = plan["fits"].as_array().unwrap();
    assert!(fits.iter().all(|fit| fit["fits"] == true), "{fits:?}");
}
