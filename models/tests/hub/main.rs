//! Files of a hub: fetched once, resumed, checked, refused; against a small hub on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

mod cache;
mod fetch;
#[path = "../common/hub.rs"]
mod loopback;
mod refusals;

use std::path::Path;

use models::Error;
use models::error::HubFailure;
use models::hub::{HubSettings, Repository};

/// Bytes that differ from their neighbours, so that a shifted part is seen.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 251) as u8).collect()
}

fn open(settings: &HubSettings) -> Repository {
    Repository::open_with("org/tiny", settings).unwrap()
}

fn fetch(settings: &HubSettings) -> models::Result<Vec<u8>> {
    let path = open(settings).require("file.bin", "the test reads it")?;
    Ok(fs_err::read(path).unwrap())
}

fn failure<T>(result: models::Result<T>) -> (HubFailure, String) {
    match result.err().expect("it was had") {
        error @ Error::Hub { kind, .. } => {
            (kind, format!("{error} / hint: {}", error.hint().unwrap_or_default()))
        }
        error => panic!("another error: {error}"),
    }
}

fn blobs(cache: &Path) -> Vec<String> {
    let folder = cache.join("models--org--tiny/blobs");
    let entries = fs_err::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
