//! Bytes on their way: broken off, silent, other than promised, too many for the disk.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use models::error::HubFailure;
use models::hub::{FetchState, ProgressHandler};

use crate::loopback::{Answer, Hub, sha256};
use crate::{blobs, bytes, failure, fetch};

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
    type Lie = fn(&str, Answer) -> Answer;
    let lies: [(&str, Lie); 5] = [
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
fn progress_is_told_in_bytes_and_ends() {
    let content = bytes(300_000);
    let (hub, cache) = (Hub::of_file(&content), tempfile::tempdir().unwrap());
    type Told = Vec<(FetchState, u64, Option<u64>)>;
    let told: Arc<Mutex<Told>> = Arc::default();
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
