//! What is kept, shared with Python, and used instead of asking.

use std::path::Path;

use models::error::HubFailure;
use models::hub::{HubSettings, Repository};

use crate::loopback::{Answer, COMMIT, Hub, sha256};
use crate::{failure, fetch, open};

#[test]
fn a_branch_that_moves_is_followed_by_the_next_call_and_not_within_one() {
    const NEXT: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let (hub, cache) = (Hub::of_file(b"old"), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let repository = open(&settings);
    assert_eq!(fs_err::read(repository.find("file.bin").unwrap().unwrap()).unwrap(), b"old");
    assert_eq!(repository.revision(), Some(COMMIT));
    hub.change("org/tiny", |site| {
        site.branches.insert("main".into(), NEXT.into());
        site.files.insert("file.bin".into(), b"new".to_vec());
        site.files.insert("other.bin".into(), b"other".to_vec());
    });
    repository.find("other.bin").unwrap();
    assert_eq!(repository.revision(), Some(COMMIT));
    let asked: Vec<String> = hub.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(asked.iter().filter(|target| target.contains("/resolve/main/")).count(), 1, "{asked:?}");

    let later = open(&settings);
    assert_eq!(fs_err::read(later.find("file.bin").unwrap().unwrap()).unwrap(), b"new");
    assert_eq!(later.revision(), Some(NEXT));
    // and the old one is still there for who asks for it
    let pinned = Repository::open_with(&format!("org/tiny@{COMMIT}"), &settings).unwrap();
    assert_eq!(fs_err::read(pinned.find("file.bin").unwrap().unwrap()).unwrap(), b"old");
}

#[test]
fn offline_the_cache_is_all_there_is() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let offline = HubSettings { offline: true, ..settings.clone() };
    let (kind, message) = failure(fetch(&offline));
    assert!(kind == HubFailure::Offline && message.contains("HF_HUB_OFFLINE"), "{message}");
    let (kind, _) = failure(open(&offline).list());
    assert_eq!(kind, HubFailure::Offline);
    assert_eq!(hub.requests().len(), 0);

    fetch(&settings).unwrap();
    let asked = hub.requests().len();
    assert_eq!(fetch(&offline).unwrap(), b"content");
    let here = open(&offline);
    assert_eq!(here.list().unwrap(), ["file.bin"]);
    assert_eq!(here.resolve().unwrap(), Some(COMMIT));
    let (kind, message) = failure(here.require("other.bin", "the test reads it"));
    assert!(kind == HubFailure::Offline && message.contains("other.bin"), "{message}");
    assert_eq!(hub.requests().len(), asked, "the hub was asked although offline");
}

#[test]
fn a_hub_that_is_gone_is_replaced_by_the_cache() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    fetch(&settings).unwrap();
    hub.trouble(|_, _| Answer::new("503 Service Unavailable", ""));
    let repository = open(&settings);
    let path = repository.require("file.bin", "the test reads it").unwrap();
    assert_eq!(fs_err::read(path).unwrap(), b"content");
    // optional files are not asked for one by one
    let asked = hub.requests().len();
    assert_eq!(repository.find("other.bin").unwrap(), None);
    assert_eq!(hub.requests().len(), asked);
}

#[test]
fn a_cache_that_python_filled_is_used_without_a_request() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("models--org--tiny");
    for below in ["blobs", "refs", &format!("snapshots/{COMMIT}/1_Pooling")] {
        fs_err::create_dir_all(folder.join(below)).unwrap();
    }
    fs_err::write(folder.join("refs/main"), COMMIT).unwrap();
    fs_err::write(folder.join("blobs/abc"), "content").unwrap();
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs_err::os::unix::fs::symlink("../../../blobs/abc", snapshot.join("1_Pooling/config.json")).unwrap();
    fs_err::os::unix::fs::symlink("../../blobs/abc", snapshot.join("file.bin")).unwrap();

    let hub = Hub::of_file(b"other content");
    let settings = hub.settings(cache.path());
    let pinned = Repository::open_with(&format!("org/tiny@{COMMIT}"), &settings).unwrap();
    for file in ["file.bin", "1_Pooling/config.json"] {
        assert_eq!(fs_err::read(pinned.find(file).unwrap().unwrap()).unwrap(), b"content");
    }
    let offline = open(&HubSettings { offline: true, ..settings });
    assert_eq!(offline.list().unwrap(), ["1_Pooling/config.json", "file.bin"]);
    assert_eq!(hub.requests().len(), 0);
}

#[test]
fn a_commit_in_upper_case_is_the_same_commit() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let source = format!("org/tiny@{}", COMMIT.to_uppercase());
    let upper = Repository::open_with(&source, &settings).unwrap();
    assert_eq!(fs_err::read(upper.find("file.bin").unwrap().unwrap()).unwrap(), b"content");
    assert_eq!(upper.revision(), Some(COMMIT));
    // and what lies in the cache of the one is found for the other
    let asked = hub.requests().len();
    for source in [source, format!("org/tiny@{COMMIT}")] {
        Repository::open_with(&source, &settings).unwrap().find("file.bin").unwrap().unwrap();
    }
    assert_eq!(hub.requests().len(), asked);
}

#[test]
fn the_cache_that_is_left_is_pythons() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    hub.change("org/tiny", |site| {
        site.files.insert("a/b/c.json".into(), b"{}".to_vec());
        site.branches.insert("refs/pr/1".into(), COMMIT.into());
    });
    let repository = Repository::open_with("org/tiny@refs/pr/1", &hub.settings(cache.path())).unwrap();
    let path = repository.find("a/b/c.json").unwrap().unwrap();
    repository.find("nothing.json").unwrap();
    let folder = cache.path().join("models--org--tiny");
    assert_eq!(path, folder.join("snapshots").join(COMMIT).join("a/b/c.json"));
    assert_eq!(fs_err::read_link(&path).unwrap(), Path::new(&format!("../../../../blobs/{}", sha256(b"{}"))));
    assert_eq!(fs_err::read_to_string(folder.join("refs/refs/pr/1")).unwrap(), COMMIT);
    assert!(folder.join(".no_exist").join(COMMIT).join("nothing.json").is_file());
    assert!(cache.path().join(".locks/models--org--tiny").is_dir());
}

#[test]
fn a_data_set_lies_among_data_sets() {
    let files = [("data/a b.jsonl", "1"), ("data/c.jsonl", "22"), ("README.md", "333")]
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let (hub, cache) =
        (Hub::with(&[("datasets/org/texts", files.into())], None), tempfile::tempdir().unwrap());
    let settings = hub.settings(cache.path());
    let texts = Repository::dataset_with("org/texts@v1", &settings).unwrap();
    assert_eq!(texts.list().unwrap(), ["README.md", "data/a b.jsonl", "data/c.jsonl"]);
    assert_eq!(texts.files().unwrap()[2].bytes, 2);
    assert_eq!(texts.revision(), Some(COMMIT));
    let path = texts.require("data/a b.jsonl", "the test reads it").unwrap();
    let snapshot = cache.path().join("datasets--org--texts/snapshots").join(COMMIT);
    assert_eq!(path, snapshot.join("data/a b.jsonl"));
    assert!(
        hub.requests()
            .iter()
            .any(|r| r.target == format!("/datasets/org/texts/resolve/{COMMIT}/data/a%20b.jsonl"))
    );
    assert!(
        !hub.requests().iter().any(|r| r.target.contains("c.jsonl")),
        "a file was fetched that nobody wanted"
    );

    let (kind, message) = failure(Repository::open_with("org/texts", &settings).unwrap().list());
    assert!(kind == HubFailure::NoRepository, "as a model: {message}");
    let (kind, message) = failure(Repository::dataset_with("org/texts@nowhere", &settings).unwrap().list());
    assert!(kind == HubFailure::NoRevision && message.contains("org/texts@nowhere"), "{message}");

    let offline =
        Repository::dataset_with("org/texts@v1", &HubSettings { offline: true, ..settings }).unwrap();
    assert_eq!(offline.list().unwrap(), ["data/a b.jsonl"]);
}
