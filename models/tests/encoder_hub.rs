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
fn pickled_weights_are_refused_without_being_fetched() {
    let folder = TinyBert::default().write();
    fs_err::rename(folder.path().join("model.safetensors"), folder.path().join("pytorch_model.bin")).unwrap();
    let (hub, cache) = (Hub::serve(folder.path(), None), tempfile::tempdir().unwrap());
    let error = open("org/tiny", &hub.settings(cache.path())).err().expect("opened");
    assert!(matches!(error, Error::PickledWeights { .. }), "{error}");
    let fetched = hub.fetched();
    assert!(!fetched.iter().any(|target| target.ends_with(".bin")), "{fetched:?}");
}

#[test]
fn weights_that_were_not_fetched_in_time_are_not_called_missing() {
    let folder = TinyBert { dense: vec![3, 5], ..TinyBert::default() }.write();
    let (hub, cache) = (Hub::serve(folder.path(), None), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let repository = Repository::open_with("org/tiny", &settings).unwrap();
    let small =
        ["modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json", "2_Dense_3/config.json"];
    for file in small {
        repository.require(file, "the test wants it").unwrap();
    }
    let offline = HubSettings { offline: true, ..settings };
    let (kind, message) = failure(open("org/tiny", &offline));
    assert!(kind == HubFailure::Offline && message.contains("model.safetensors"), "{message}");
    let other_head = EncoderOptions { dim: Some(5), ..options() };
    let repository = Repository::open_with("org/tiny", &offline).unwrap();
    let (kind, message) = failure(Encoder::from_repository(&repository, &other_head));
    assert!(kind == HubFailure::Offline && message.contains("2_Dense_5/config.json"), "{message}");
}

#[test]
fn two_at_once_fetch_a_file_once() {
    let folder = TinyBert::default().write();
    let (hub, cache) = (Hub::serve(folder.path(), None), tempfile::tempdir().unwrap());
    hub.trouble(|_, answer| {
        std::thread::sleep(std::time::Duration::from_millis(150));
        answer
    });
    let settings = hub.settings(cache.path());
    let paths: Vec<_> = std::thread::scope(|scope| {
        let fetch = || {
            Repository::open_with("org/tiny", &settings).unwrap().require("model.safetensors", "x").unwrap()
        };
        let both = [scope.spawn(fetch), scope.spawn(fetch)];
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(paths[0], paths[1]);
    assert_eq!(
        fs_err::read(&paths[0]).unwrap(),
        fs_err::read(folder.path().join("model.safetensors")).unwrap()
    );
    assert_eq!(hub.fetched().len(), 1, "{:?}", hub.fetched());
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
