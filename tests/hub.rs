//! Encoders by hub names, on the command line: found, refused with a hint, and with a word on what is fetched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../models/tests/common/hub.rs"]
mod loopback;

use std::path::Path;

use assert_cmd::Command;
use loopback::{Answer, Hub};
use predicates::prelude::*;
use predicates::str::contains;

fn encode(hub: &Hub, cache: &Path, encoder: &str) -> Command {
    let texts = cache.join("texts.txt");
    fs_err::write(&texts, "red dog\nblue dog\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_inverse-stella"));
    command
        .args(["encode", "--encoder", encoder, "--input"])
        .arg(&texts)
        .arg("--output")
        .arg(cache.join("vectors.npy"))
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HOME", cache)
        .env("HF_HUB_DOWNLOAD_TIMEOUT", "2")
        .env_remove("HF_HUB_CACHE")
        .env_remove("HF_HUB_OFFLINE")
        .env_remove("HF_TOKEN")
        .env_remove("RUST_LOG");
    command
}

fn empty_hub() -> Hub {
    Hub::of_file(&vec![7; 2_000_000])
}

#[test]
fn what_is_wrong_has_a_hint_and_status_1() {
    let (hub, cache) = (empty_hub(), tempfile::tempdir().unwrap());
    let refused = |encoder: &str, what: &str, hint: &str| {
        encode(&hub, cache.path(), encoder)
            .assert()
            .code(1)
            .stderr(contains(what.to_owned()).and(contains("hint: ")).and(contains(hint.to_owned())));
    };
    refused("org/tiny@nowhere", "org/tiny@nowhere: `modules.json`: 404: no such revision", "after `@`");
    refused("org/other", "no such repository", "organisation/name");
    refused("org/tiny", "`modules.json` is missing", "sentence-transformers");
    hub.trouble(|_, _| Answer::new("200 OK", "<html></html>").with("Content-Type", "text/html"));
    refused("org/tiny", "an HTML page", "HF_ENDPOINT");
    hub.trouble(|_, _| Answer::new("401 Unauthorized", ""));
    refused("org/tiny", "401", "HF_TOKEN");
    encode(&hub, cache.path(), "org/tiny")
        .env("HF_HUB_OFFLINE", "1")
        .env("HF_HOME", cache.path().join("empty"))
        .assert()
        .code(1)
        .stderr(contains("HF_HUB_OFFLINE"));
}

#[test]
fn a_large_file_is_told_of_where_there_is_no_terminal() {
    let (hub, cache) = (empty_hub(), tempfile::tempdir().unwrap());
    // a file of two megabytes that is no list of modules
    hub.change("org/tiny", |site| {
        let bytes = site.files["file.bin"].clone();
        site.files.insert("modules.json".into(), bytes);
    });
    let told = contains("fetched org/tiny: modules.json (2.00 MB, ");
    encode(&hub, cache.path(), "org/tiny").assert().code(1).stderr(told);
    // it is here now
    let told = contains("fetched org/tiny").not();
    encode(&hub, cache.path(), "org/tiny").assert().code(1).stderr(told);
}
