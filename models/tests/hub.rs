//! Files of a hub: fetched once, resumed, checked, refused; against a small hub on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

#[path = "common/hub.rs"]
mod loopback;

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use loopback::{Answer, COMMIT, Hub, sha256, storage};
use models::Error;
use models::error::HubFailure;
use models::hub::{FetchState, HubSettings, ProgressHandler, Repository};

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

#[test]
fn a_connection_that_breaks_is_gone_on_with() {
    let content = bytes(100_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    let mut gets = 0;
    hub.trouble(move |request, answer| {
        gets += usize::from(request.method == "GET");
        if request.method == "GET" && gets == 1 { Answer { cut: Some(30_000), ..answer } } else { answer }
    });
    assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), content);
    let ranges = hub.ranges();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert_eq!(ranges[0], "");
    // what the network had not delivered when it broke is asked for again, not more
    let from: usize = ranges[1].strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!((1..=30_000).contains(&from), "{ranges:?}");
    assert_eq!(blobs(cache.path()), [sha256(&content)]);
}

#[test]
fn a_connection_that_always_breaks_is_an_error_and_the_next_call_goes_on() {
    let content = bytes(100_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    hub.trouble(|request, answer| match request.method.as_str() {
        "GET" => Answer { cut: Some(10_000), ..answer },
        _ => answer,
    });
    let settings = hub.settings(cache.path());
    let start = Instant::now();
    let (kind, message) = failure(fetch(&settings));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(kind, HubFailure::Network, "{message}");
    assert!(message.contains("tried 3 times") && message.contains("what was fetched is kept"), "{message}");
    assert_eq!(blobs(cache.path()), [format!("{}.incomplete", sha256(&content))]);

    hub.no_trouble();
    let before = hub.ranges().len();
    assert_eq!(fetch(&settings).unwrap(), content);
    let after = hub.ranges().split_off(before);
    assert_eq!(after, ["bytes=30000-"], "the next call began anew");
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let content = bytes(50_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    let (whole, mut gets) = (content.clone(), 0);
    hub.trouble(move |request, answer| {
        gets += usize::from(request.method == "GET");
        let all = Answer::new("200 OK", whole.clone());
        match (request.method.as_str(), gets) {
            ("GET", 1) => Answer { cut: Some(20_000), ..all },
            ("GET", _) => all,
            _ => answer,
        }
    });
    assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), content);
}

#[test]
fn silence_is_not_waited_for_for_ever() {
    let content = bytes(50_000);
    for at in [None, Some(0), Some(5_000)] {
        let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
        hub.trouble(move |request, answer| match (at, request.method.as_str()) {
            // HEAD is not answered at all
            (None, "HEAD") => {
                std::thread::sleep(Duration::from_secs(2));
                answer
            }
            (Some(at), "GET") => Answer { stall: Some(at), ..answer },
            _ => answer,
        });
        let mut settings = hub.settings(cache.path());
        settings.timeout = Some(Duration::from_millis(200));
        let start = Instant::now();
        let (kind, message) = failure(fetch(&settings));
        assert_eq!(kind, HubFailure::Network, "{message}");
        assert!(message.contains("no byte came for 0.2 s"), "{message}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
}

#[test]
fn lengths_other_than_promised_are_refused() {
    let content = bytes(5_000);
    let lies: [(&str, fn(&str, Answer) -> Answer); 5] = [
        ("the hub promised 6000 bytes", |method, answer| match method {
            "HEAD" => Answer { length: Some(6_000), ..answer },
            _ => answer,
        }),
        ("the hub promised 4000 bytes", |method, answer| match method {
            "HEAD" => Answer { length: Some(4_000), ..answer },
            _ => answer,
        }),
        ("more came", |method, answer| match method {
            "GET" => Answer { body: bytes(7_000), length: None, ..answer },
            _ => answer,
        }),
        ("4000 came", |method, answer| match method {
            "GET" => {
                let mut chunk = b"fa0\r\n".to_vec();
                chunk.extend(bytes(4_000));
                chunk.extend(b"\r\n0\r\n\r\n");
                Answer { body: chunk, length: None, ..answer }.with("Transfer-Encoding", "chunked")
            }
            _ => answer,
        }),
        // as the storage behind the hub has it
        ("the hub promised 10 bytes", |_, answer| answer.with("X-Linked-Size", 10)),
    ];
    for (expected, lie) in lies {
        let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
        hub.trouble(move |request, answer| lie(&request.method, answer));
        let (kind, message) = failure(fetch(&hub.settings(cache.path())));
        assert_eq!(kind, HubFailure::Damaged, "{expected}: {message}");
        assert!(message.contains(expected), "{expected}: {message}");
        assert_eq!(blobs(cache.path()), [""; 0], "{expected}: something was left");
        assert_eq!(hub.fetched().len(), 1, "{expected}: a lie was asked for again");
    }
}

#[test]
fn a_connection_that_ends_too_early_without_a_word_is_tried_again() {
    let content = bytes(5_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    hub.trouble(|request, answer| match request.method.as_str() {
        "GET" if request.header("range").is_none() => Answer { cut: Some(4_000), length: None, ..answer },
        _ => answer,
    });
    assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), content);
    assert_eq!(hub.ranges(), ["", "bytes=4000-"]);
}

#[test]
fn other_bytes_than_promised_are_refused() {
    let content = bytes(5_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    hub.trouble(|request, mut answer| {
        if request.method == "GET" {
            answer.body[100] ^= 1;
        }
        answer
    });
    let settings = hub.settings(cache.path());
    let (kind, message) = failure(fetch(&settings));
    assert_eq!(kind, HubFailure::Damaged, "{message}");
    assert!(message.contains("digest") && message.contains(&sha256(&content)), "{message}");
    assert_eq!(blobs(cache.path()), [""; 0]);
    hub.no_trouble();
    assert_eq!(fetch(&settings).unwrap(), content);
}

#[test]
fn a_damaged_rest_of_an_earlier_call_is_begun_anew() {
    let content = bytes(5_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    let blobs = cache.path().join("models--org--tiny/blobs");
    for rest in [vec![7; 2_000], vec![7; 5_000], vec![7; 9_000]] {
        fs_err::create_dir_all(&blobs).unwrap();
        fs_err::write(blobs.join(format!("{}.incomplete", sha256(&content))), rest).unwrap();
        assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), content);
        fs_err::remove_dir_all(cache.path().join("models--org--tiny")).unwrap();
    }
}

#[test]
fn refusals_are_told_apart() {
    type Lie = fn(Answer) -> Answer;
    let status: [(Lie, HubFailure, &str); 7] = [
        (|_| Answer::new("401 Unauthorized", ""), HubFailure::Unauthorized, "HF_TOKEN"),
        (|_| Answer::new("403 Forbidden", ""), HubFailure::Forbidden, "ask for access"),
        (
            |_| Answer::new("403 Forbidden", "").with("X-Error-Code", "GatedRepo"),
            HubFailure::Forbidden,
            "access must be asked for",
        ),
        (
            |_| Answer::new("404 Not Found", "").with("X-Error-Code", "RepoNotFound"),
            HubFailure::NoRepository,
            "no such repository",
        ),
        (
            |_| Answer::new("404 Not Found", "").with("X-Error-Code", "RevisionNotFound"),
            HubFailure::NoRevision,
            "no such revision",
        ),
        (|_| Answer::new("404 Not Found", ""), HubFailure::NotFound, "no such file, revision or repository"),
        (|_| Answer::new("451 Unavailable", ""), HubFailure::Other, "451"),
    ];
    for (lie, expected, words) in status {
        let (hub, cache) = (Hub::of_file(b"x"), tempfile::tempdir().unwrap());
        hub.trouble(move |_, answer| lie(answer));
        let (kind, message) = failure(fetch(&hub.settings(cache.path())));
        assert!(kind == expected && message.contains(words), "{kind:?}: {message}");
        assert_eq!(hub.requests().len(), 1, "{message}: asked again");
    }
    // a file that the repository does not have
    let (hub, cache) = (Hub::of_file(b"x"), tempfile::tempdir().unwrap());
    let repository = open(&hub.settings(cache.path()));
    assert_eq!(repository.find("other.bin").unwrap(), None);
    let missing = repository.require("other.bin", "the test reads it").unwrap_err();
    assert!(matches!(&missing, Error::MissingFile { file, .. } if file == "other.bin"), "{missing}");
    // the hub said so once: it is not asked again, by another process neither
    let asked = hub.requests().len();
    let pinned = Repository::open_with(&format!("org/tiny@{COMMIT}"), &hub.settings(cache.path())).unwrap();
    assert_eq!((pinned.find("other.bin").unwrap(), hub.requests().len()), (None, asked));
    let (kind, message) = failure(pinned.find("../../x"));
    assert!(kind == HubFailure::NotFound && hub.requests().len() == asked, "{message}");
}

#[test]
fn a_hub_that_is_unwell_is_asked_again() {
    for status in ["500 Internal Server Error", "503 Service Unavailable", "429 Too Many Requests"] {
        for method in ["HEAD", "GET"] {
            let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
            let mut left = 2;
            hub.trouble(move |request, answer| {
                if request.method != method || left == 0 {
                    return answer;
                }
                left -= 1;
                Answer::new(status, "an error page, which is not the file")
            });
            assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), b"content", "{status} to {method}");
        }
        let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
        hub.trouble(move |_, _| Answer::new(status, ""));
        let (kind, message) = failure(fetch(&hub.settings(cache.path())));
        let expected = if status.starts_with("429") { HubFailure::RateLimited } else { HubFailure::Server };
        assert_eq!(kind, expected, "{message}");
        assert!(message.contains(&status[..3]) && message.contains("tried 3 times"), "{message}");
    }
}

#[test]
fn the_pause_that_a_hub_asks_for_is_made() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    let mut first = true;
    hub.trouble(move |_, answer| match std::mem::replace(&mut first, false) {
        true => Answer::new("429 Too Many Requests", "").with("Retry-After", 1),
        false => answer,
    });
    let start = Instant::now();
    assert_eq!(fetch(&hub.settings(cache.path())).unwrap(), b"content");
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());

    hub.trouble(|_, _| Answer::new("429 Too Many Requests", "").with("Retry-After", 7200));
    let (kind, message) = failure(open(&hub.settings(cache.path())).find("other"));
    assert!(kind == HubFailure::RateLimited && message.contains("7200 s"), "{message}");
}

#[test]
fn a_web_page_is_no_hub() {
    for status in ["200 OK", "404 Not Found"] {
        let (hub, cache) = (Hub::of_file(b"x"), tempfile::tempdir().unwrap());
        hub.trouble(move |_, _| {
            Answer::new(status, "<!doctype html><p>Welcome to the portal</p>")
                .with("Content-Type", "text/html; charset=utf-8")
                .with("ETag", "\"page\"")
        });
        let repository = open(&hub.settings(cache.path()));
        for (kind, message) in [failure(repository.find("file.bin")), failure(repository.list())] {
            assert_eq!(kind, HubFailure::NotAHub, "{message}");
            assert!(message.contains("HF_ENDPOINT"), "{message}");
        }
    }
}

#[test]
fn an_endpoint_that_is_no_address() {
    let cache = tempfile::tempdir().unwrap();
    let at = |endpoint: &str| HubSettings {
        endpoint: Some(endpoint.into()),
        cache: Some(cache.path().to_owned()),
        tries: Some(1),
        ..HubSettings::default()
    };
    for endpoint in ["hub.example", "mailto:hub@example", "ftp://hub.example"] {
        let (kind, message) = failure(fetch(&at(endpoint)));
        assert!(kind == HubFailure::NotAHub && message.contains("HF_ENDPOINT"), "{endpoint}: {message}");
    }
    // a port that was free a moment ago
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (kind, message) = failure(fetch(&at(&format!("http://127.0.0.1:{port}"))));
    assert!(kind == HubFailure::Network && message.contains("HF_ENDPOINT"), "{message}");
}

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
fn a_token_stays_with_the_hub() {
    let content = bytes(2_000);
    let (elsewhere, seen) = storage(content.clone());
    let files = [("file.bin".to_owned(), b"version https://git-lfs.github.com/spec/v1".to_vec())].into();
    let (hub, cache) = (Hub::with(&[("org/tiny", files)], Some("hf_right")), tempfile::tempdir().unwrap());
    let promised = (sha256(&content), content.len());
    hub.trouble(move |request, answer| {
        if answer.status != "200 OK" || !request.target.contains("/resolve/") {
            return answer;
        }
        Answer::new("302 Found", "")
            .with("X-Repo-Commit", COMMIT)
            .with("X-Linked-Etag", format!("\"{}\"", promised.0))
            .with("X-Linked-Size", promised.1)
            .with("ETag", "\"of-the-pointer\"")
            .with("Location", format!("{elsewhere}/bucket/file?signature=x"))
    });
    let settings = HubSettings { token: Some("hf_right".into()), ..hub.settings(cache.path()) };
    assert_eq!(fetch(&settings).unwrap(), content);
    assert!(hub.requests().iter().all(|request| request.header("authorization") == Some("Bearer hf_right")));
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].method.as_str(), seen[0].header("authorization")), ("GET", None), "{seen:?}");
    // the name of the content is that of the hub, not of the storage
    assert_eq!(blobs(cache.path()), [sha256(&content)]);
}

#[test]
fn a_renamed_repository_is_followed_on_the_hub() {
    let (hub, cache) = (Hub::of_file(b"content"), tempfile::tempdir().unwrap());
    hub.trouble(|request, answer| match request.target.strip_prefix("/old/name/") {
        Some(rest) => {
            Answer::new("307 Temporary Redirect", "moved").with("Location", format!("/org/tiny/{rest}"))
        }
        None => answer,
    });
    let repository = Repository::open_with("old/name", &hub.settings(cache.path())).unwrap();
    assert_eq!(fs_err::read(repository.find("file.bin").unwrap().unwrap()).unwrap(), b"content");
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

#[test]
fn progress_is_told_in_bytes_and_ends() {
    let content = bytes(300_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    let told: Arc<Mutex<Vec<(FetchState, u64, Option<u64>)>>> = Arc::default();
    let mut settings = hub.settings(cache.path());
    let hears = told.clone();
    settings.progress = Some(ProgressHandler::new(move |at| {
        assert_eq!((at.repository, at.file), ("org/tiny", "file.bin"));
        hears.lock().unwrap().push((at.state, at.done, at.total));
    }));
    fetch(&settings).unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.first(), Some(&(FetchState::Started, 0, Some(300_000))));
    assert_eq!(told.last(), Some(&(FetchState::Ended, 300_000, Some(300_000))));
    let between = &told[1..told.len() - 1];
    assert!(!between.is_empty() && between.iter().all(|(state, ..)| *state == FetchState::Advanced));
    assert!(between.is_sorted_by_key(|(_, done, _)| *done));
}

/// A disk of one megabyte, which takes root to make.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(done) if done.status.success() => Some(Self(folder)),
            other => {
                eprintln!("skipped: no small disk can be mounted here ({other:?})");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn a_full_disk_is_seen_before_and_during() {
    let Some(disk) = SmallDisk::mount() else { return };
    let content = bytes(3 << 20);
    let hub = Hub::of_file(&content);
    let settings = hub.settings(disk.0.path());
    let (kind, message) = failure(fetch(&settings));
    assert!(kind == HubFailure::NoSpace && message.contains("3145728 bytes"), "{message}");
    assert!(message.contains("HF_HOME"), "{message}");
    assert_eq!(hub.fetched().len(), 0, "it was fetched all the same");

    // a hub that names no length
    hub.trouble(|_, answer| Answer { length: None, ..answer });
    let (kind, message) = failure(fetch(&settings));
    assert!(kind == HubFailure::NoSpace && message.contains("HF_HOME"), "{message}");
    assert_eq!(hub.fetched().len(), 1, "{message}: tried again");
}
