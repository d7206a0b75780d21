//! Corpora out of a hub's data sets, against a small hub on loopback. What reads them runs as a process of its own,
//! whose environment names the hub, as a user's does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use data::pairs::{BuildConfig, PairSet};
use data::{CorpusConfig, Document, Error, open_corpus};
use serde_json::{Value, json};

use crate::build::{DIM, config_of, run, sentence};
use crate::encoder::{Fault, HashEncoder};
use crate::loopback::{COMMIT, Hub};

const TASK: &str = "TEST_OF_HUB_CORPORA";

fn lines(numbers: std::ops::Range<usize>) -> Vec<u8> {
    numbers.map(|i| json!({"text": sentence(i)}).to_string() + "\n").collect::<String>().into_bytes()
}

fn hub() -> Hub {
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet/zstd.parquet");
    let files: BTreeMap<String, Vec<u8>> = [
        ("README.md", b"about".to_vec()),
        ("data/train-0.jsonl", lines(0..150)),
        ("data/train-1.jsonl", lines(150..300)),
        ("data/test-0.jsonl", lines(300..310)),
        ("more/a.parquet", fs_err::read(parquet).unwrap()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into();
    Hub::with(&[("datasets/org/texts", files)], None)
}

/// Runs `child` of this file in a process that knows this hub; what it printed behind `:: `.
fn in_child(task: &Value, hub: &Hub, cache: &Path, offline: bool) -> String {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["hub::child", "--exact", "--nocapture", "--ignored"])
        .env(TASK, task.to_string())
        .env("HF_ENDPOINT", &hub.endpoint)
        .env("HF_HUB_CACHE", cache)
        .env("HF_HUB_OFFLINE", if offline { "1" } else { "0" })
        .env_remove("HF_TOKEN")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    let said = out.lines().find_map(|line| line.split_once(":: ").map(|(_, said)| said.to_owned()));
    said.unwrap_or_else(|| panic!("{out}\n{err}"))
}

#[test]
#[ignore = "its parents run it, with a hub"]
#[allow(clippy::print_stdout)]
fn child() {
    let task: Value = serde_json::from_str(&std::env::var(TASK).unwrap()).unwrap();
    let said = if let Some(folder) = task["build"].as_str() {
        let config: BuildConfig = config_of(Path::new(folder), "set", &json!([task["corpus"]]));
        let fault = task["fail"].as_u64().map_or(Fault::None, |call| Fault::Fail(call as usize));
        match run(&config, &HashEncoder::with_fault(DIM, fault)) {
            Ok(report) => format!("{:?} {}", report.outcome, report.manifest.pairs),
            Err(error) => error.to_string(),
        }
    } else {
        let config: CorpusConfig = serde_json::from_value(task["corpus"].clone()).unwrap();
        match open_corpus(&config).and_then(|corpus| corpus.collect::<Result<Vec<Document>, Error>>()) {
            Ok(documents) => {
                let (first, last) = (&documents[0].text, &documents[documents.len() - 1].text);
                format!("{} | {first} | {last}", documents.len())
            }
            Err(error) => format!("{error} / {}", error.hint().unwrap_or_default()),
        }
    };
    println!(":: {}", said.replace('\n', " "));
}

fn corpus(path: &str, format: &str) -> Value {
    json!({"name": "texts", "hub": "org/texts", "path": path, "format": format})
}

fn read(hub: &Hub, cache: &Path, corpus: &Value) -> String {
    in_child(&json!({"corpus": corpus}), hub, cache, false)
}

#[test]
fn files_are_chosen_by_a_pattern_and_fetched_when_they_are_read() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let said = read(&hub, cache.path(), &corpus("data/train-*.jsonl", "jsonl"));
    assert_eq!(said, format!("300 | {} | {}", sentence(0), sentence(299)));
    let fetched = |hub: &Hub| -> Vec<String> {
        let all = hub.fetched().into_iter();
        all.filter_map(|target| target.split_once(&format!("/resolve/{COMMIT}/")).map(|(_, f)| f.to_owned()))
            .collect()
    };
    assert_eq!(fetched(&hub), ["data/train-0.jsonl", "data/train-1.jsonl"]);

    // a folder stands for its files of the format
    let said = read(&hub, cache.path(), &corpus("more", "parquet"));
    assert!(said.starts_with("693 | Sentence number 0 "), "{said}");

    // the limit is met by the first file: the second is not fetched
    let (hub, cache) = (self::hub(), tempfile::tempdir().unwrap());
    let mut few = corpus("data/train-*.jsonl", "jsonl");
    few["limit"] = json!(100);
    assert!(read(&hub, cache.path(), &few).starts_with("100 | "));
    assert_eq!(fetched(&hub), ["data/train-0.jsonl"]);
}

#[test]
fn what_is_not_there_is_named() {
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let said = read(&hub, cache.path(), &corpus("data/*.parquet", "parquet"));
    assert!(said.contains("corpus \"texts\": nothing in org/texts fits data/*.parquet"), "{said}");
    assert!(said.contains("data/train-0.jsonl") && said.contains("check `path`"), "{said}");
    let mut nowhere = corpus("data", "jsonl");
    nowhere["hub"] = json!("org/texts@nowhere");
    let said = read(&hub, cache.path(), &nowhere);
    assert!(said.contains("org/texts@nowhere") && said.contains("no such revision"), "{said}");
    let said = read(&hub, cache.path(), &corpus("../data", "jsonl"));
    assert!(said.contains("corpus.texts.path") && said.contains("within the repository"), "{said}");
    let said = in_child(&json!({"corpus": corpus("data", "jsonl")}), &hub, &cache.path().join("other"), true);
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
}

#[test]
fn a_resumed_build_goes_on_with_the_commit_it_began_with() {
    const NEXT: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let (hub, cache) = (hub(), tempfile::tempdir().unwrap());
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let task = |folder: &Path, fail: Option<u64>| json!({"build": folder, "corpus": corpus("data/train-*.jsonl", "jsonl"), "fail": fail});
    let whole = in_child(&task(folders[0].path(), None), &hub, cache.path(), false);
    assert!(whole.starts_with("Built "), "{whole}");

    let broken = in_child(&task(folders[1].path(), Some(1)), &hub, cache.path(), false);
    assert!(!broken.starts_with("Built"), "{broken}");
    hub.change("datasets/org/texts", |site| {
        site.branches.insert("main".into(), NEXT.into());
        site.files.insert("data/train-0.jsonl".into(), lines(1000..1100));
    });
    // the first stage again, from the start
    let set = folders[1].path().join("set");
    fs_err::remove_file(set.join(".build/curated.json")).unwrap();
    let resumed = in_child(&task(folders[1].path(), None), &hub, cache.path(), false);
    assert_eq!(resumed, whole.replace("Built", "Resumed"));
    let asked = hub.requests().len();
    let again = in_child(&task(folders[1].path(), None), &hub, cache.path(), false);
    assert!(again.starts_with("AlreadyBuilt"), "{again}");
    assert_eq!(hub.requests().len(), asked, "the hub was asked for a pair set that is there");

    let digests = |folder: &Path| -> Vec<String> {
        let set = PairSet::open(&folder.join("set")).unwrap();
        set.manifest().shards.iter().map(|shard| shard.digest.clone()).collect()
    };
    assert_eq!(digests(folders[0].path()), digests(folders[1].path()));
    let inputs: Value = serde_json::from_slice(&fs_err::read(set.join("inputs.json")).unwrap()).unwrap();
    assert_eq!(inputs["corpora"][0], json!({"corpus": "texts", "hub": "org/texts", "commit": COMMIT}));
    // and a new build reads the new commit
    let fresh = tempfile::tempdir().unwrap();
    in_child(&task(fresh.path(), None), &hub, cache.path(), false);
    let inputs: PathBuf = fresh.path().join("set/inputs.json");
    assert!(fs_err::read_to_string(inputs).unwrap().contains(NEXT));
}
