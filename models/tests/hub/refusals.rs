//! What a hub answers when it does not give a file, and where it sends who asks.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use models::Error;
use models::error::HubFailure;
use models::hub::{HubSettings, Repository};

use crate::loopback::{Answer, COMMIT, Hub, sha256, storage};
use crate::{blobs, bytes, failure, fetch, open};

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
