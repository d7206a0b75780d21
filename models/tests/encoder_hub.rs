//! Fetching an encoder from a hub, here a tiny one on loopback that speaks the few requests that are needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::TinyBert;
use models::error::HubFailure;
use models::hub::{HubSettings, Repository};
use models::{DeviceChoice, Dtype, Embed, Encoder, EncoderOptions, Error};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository, `org/tiny`, that keeps a list of the requests it got.
struct Hub {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    /// Serves the files of a folder; with a token, to its bearers alone.
    fn serve(folder: &Path, token: Option<&'static str>) -> Self {
        let files: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(files_of(folder));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(vec![]));
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, seen) = (files.clone(), seen.clone());
                std::thread::spawn(move || while answer(&stream, &files, token, &seen).is_some() {});
            }
        });
        Self { endpoint, requests }
    }

    fn settings(&self, cache: &Path) -> HubSettings {
        HubSettings {
            endpoint: Some(self.endpoint.clone()),
            cache: Some(cache.to_owned()),
            ..HubSettings::default()
        }
    }

    fn fetched(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter_map(|request| request.strip_prefix("GET ")).map(str::to_owned).collect()
    }
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs_err::read_dir(&next).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                files.insert(name, fs_err::read(&path).unwrap());
            }
        }
    }
    files
}

/// Answers one request; `None` when the client is gone.
fn answer(
    mut stream: &TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    token: Option<&str>,
    seen: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.take(1 << 16)).lines();
    let request = lines.next()?.ok()?;
    let headers: Vec<String> = lines.map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
    let (method, target) = request.split_once(' ')?;
    let target = target.split(' ').next()?;
    seen.lock().unwrap().push(format!("{method} {target}"));
    let bearer = format!("bearer {}", token.unwrap_or_default());
    let allowed = token.is_none() || headers.iter().any(|header| header.to_lowercase().ends_with(&bearer));
    let file = ["main", "v1", COMMIT]
        .iter()
        .find_map(|revision| target.strip_prefix(&format!("/org/tiny/resolve/{revision}/")))
        .and_then(|name| files.get(name));
    let (status, body) = match file {
        _ if !allowed => ("401 Unauthorized", &b"no"[..]),
        Some(body) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", &b"none"[..]),
    };
    let etag = blake3::hash(body).to_hex();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

fn options() -> EncoderOptions {
    EncoderOptions { device: DeviceChoice::Cpu, dtype: Dtype::F32, ..EncoderOptions::default() }
}

fn open(source: &str, settings: &HubSettings) -> models::Result<Encoder> {
    Encoder::from_repository(&Repository::open_with(source, settings)?, &options())
}

fn failure(result: models::Result<Encoder>) -> (HubFailure, String) {
    match result.err().expect("it was opened") {
        error @ Error::Hub { kind, .. } => (kind, format!("{error} / {}", error.hint().unwrap_or_default())),
        error => panic!("another error: {error}"),
    }
}

#[test]
fn only_the_needed_files_are_fetched_and_once() {
    let folder = TinyBert { dense: vec![3, 5], ..TinyBert::default() }.write();
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::serve(folder.path(), None);
    let settings = hub.settings(cache.path());
    let encoder = open("org/tiny@v1", &settings).unwrap();
    let space = encoder.space();
    assert_eq!((space.encoder.as_str(), space.revision.as_deref()), ("org/tiny", Some(COMMIT)));
    let here = Encoder::open(folder.path().to_str().unwrap(), &options()).unwrap();
    here.space().require_same(space, "the folder", "the hub").unwrap();
    assert!(here.embed(&["red dog"]).unwrap().equal(&encoder.embed(&["red dog"]).unwrap()));

    let fetched = hub.fetched();
    assert!(fetched.iter().any(|target| target.ends_with("2_Dense_3/model.safetensors")), "{fetched:?}");
    assert!(!fetched.iter().any(|target| target.contains("2_Dense_5")), "{fetched:?}");
    // the branch is asked once; what follows is of the commit that it named
    assert_eq!(fetched.iter().filter(|target| target.contains("/v1/")).count(), 1, "{fetched:?}");

    open("org/tiny@v1", &settings).unwrap();
    assert_eq!(hub.fetched().len(), fetched.len(), "files were fetched a second time");

    // all is in the cache now: no network is needed
    let asked = hub.requests.lock().unwrap().len();
    let offline = HubSettings { offline: true, ..settings };
    let again = open("org/tiny@v1", &offline).unwrap();
    assert_eq!(again.space(), encoder.space());
    assert_eq!(hub.requests.lock().unwrap().len(), asked, "the hub was asked although offline");
}

#[test]
fn offline_without_a_copy() {
    let cache = tempfile::tempdir().unwrap();
    let settings =
        HubSettings { cache: Some(cache.path().to_owned()), offline: true, ..HubSettings::default() };
    let (kind, message) = failure(open("org/tiny", &settings));
    assert_eq!(kind, HubFailure::Offline, "{message}");
    assert!(message.contains("org/tiny") && message.contains("modules.json"), "{message}");
    assert!(message.contains("HF_HUB_OFFLINE"), "{message}");
}

#[test]
fn refusals_are_told_apart() {
    let folder = TinyBert::default().write();
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::serve(folder.path(), Some("hf_right"));
    let settings = hub.settings(cache.path());
    let with = |token: &str| HubSettings { token: Some(token.into()), ..settings.clone() };
    let (kind, message) = failure(open("org/tiny", &with("hf_wrong")));
    assert!(kind == HubFailure::Unauthorized && message.contains("HF_TOKEN"), "{message}");
    let (kind, message) = failure(open("org/tiny@nowhere", &with("hf_right")));
    assert!(kind == HubFailure::NotFound && message.contains("org/tiny@nowhere"), "{message}");
    open("org/tiny", &with("hf_right")).unwrap();
}

#[test]
fn no_connection() {
    let cache = tempfile::tempdir().unwrap();
    // a port that was free a moment ago
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = HubSettings {
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        cache: Some(cache.path().to_owned()),
        ..HubSettings::default()
    };
    let (kind, message) = failure(open("org/tiny", &settings));
    assert!(kind == HubFailure::Network && message.contains("HF_ENDPOINT"), "{message}");
}
