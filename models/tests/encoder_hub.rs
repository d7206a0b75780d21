//! An encoder out of a hub, here a tiny one on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/hub.rs"]
mod loopback;

use std::net::TcpListener;

use common::TinyBert;
use loopback::{COMMIT, Hub};
use models::error::HubFailure;
use models::hub::{HubSettings, Repository};
use models::{DeviceChoice, Dtype, Embed, Encoder, EncoderOptions, Error};

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
    let asked = hub.requests();
    assert_eq!(asked.iter().filter(|request| request.target.contains("/v1/")).count(), 1, "{asked:?}");

    open("org/tiny@v1", &settings).unwrap();
    assert_eq!(hub.fetched().len(), fetched.len(), "files were fetched a second time");

    // all is in the cache now: no network is needed
    let asked = hub.requests().len();
    let offline = HubSettings { offline: true, ..settings };
    let again = open("org/tiny@v1", &offline).unwrap();
    assert_eq!(again.space(), encoder.space());
    assert_eq!(hub.requests().len(), asked, "the hub was asked although offline");
}

#[test]
fn what_cannot_be_is_refused_before_weights_are_fetched() {
    let folder = TinyBert { dense: vec![3, 5], ..TinyBert::default() }.write();
    let refused = |change: &dyn Fn(&mut EncoderOptions)| {
        let (hub, cache) = (Hub::serve(folder.path(), None), tempfile::tempdir().unwrap());
        let repository = Repository::open_with("org/tiny", &hub.settings(cache.path())).unwrap();
        let mut options = options();
        change(&mut options);
        let message = Encoder::from_repository(&repository, &options).err().expect("opened").to_string();
        let fetched = hub.fetched();
        assert!(!fetched.iter().any(|target| target.ends_with(".safetensors")), "{message}: {fetched:?}");
        message
    };
    let message = refused(&|options| options.dim = Some(4));
    assert!(message.contains("no head for 4 (it has heads for 3, 5)"), "{message}");
    let message = refused(&|options| options.prompt = Some("s2p".into()));
    assert!(message.contains("no prompt named `s2p`"), "{message}");
    let config = folder.path().join("config.json");
    let other = fs_err::read_to_string(&config).unwrap().replace("\"bert\"", "\"mpnet\"");
    fs_err::write(config, other).unwrap();
    assert!(refused(&|_| ()).contains(
        "`mpnet` is not supported (supported: bert, roberta, xlm-roberta, new (gte), qwen2, qwen3)"
    ));
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
    assert!(kind == HubFailure::NoRevision && message.contains("org/tiny@nowhere"), "{message}");
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
