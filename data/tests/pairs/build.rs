//! Building: the same bytes however often it was interrupted, and a clear word where it cannot go on.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use data::Error;
use data::curation::Filter;
use data::pairs::{BuildConfig, BuildReport, Outcome, PairSet, build, build_until};
use fs_err as fs;
use models::Embed;
use serde_json::json;
use torch_ext::World;

use crate::encoder::{Fault, HashEncoder};

pub const DIM: usize = 8;

/// A sentence that the quality rules let pass, different for every `i`.
pub fn sentence(i: usize) -> String {
    let words =
        ["river", "stone", "garden", "window", "morning", "teacher", "market", "violin", "harbour", "letter"];
    let word = |n: usize| words[n % words.len()];
    let (a, b, c, d) = (word(i), word(i / 10), word(i / 100), word(i / 1000));
    format!("The {a} beside the {b} was seen by every {c} near an old {d} today")
}

pub fn write_lines(path: &Path, lines: impl Iterator<Item = String>) {
    fs::write(path, lines.map(|line| line + "\n").collect::<String>()).unwrap();
}

/// `n` different sentences in a corpus file, and a build of them in `folder/NAME`.
pub fn config(folder: &Path, name: &str, n: usize) -> BuildConfig {
    let texts = folder.join(format!("texts-{n}.txt"));
    if !texts.exists() {
        write_lines(&texts, (0..n).map(sentence));
    }
    config_of(folder, name, &json!([{"name": "a", "path": texts, "format": "text", "domain": "general"}]))
}

pub fn config_of(folder: &Path, name: &str, corpora: &serde_json::Value) -> BuildConfig {
    let mut config: BuildConfig = serde_json::from_value(json!({
        "corpora": corpora,
        "split": {"dev": 0.1, "test": 0.2},
        "shard_rows": 100,
    }))
    .unwrap();
    config.dir = folder.join(name);
    config
}

pub fn run(config: &BuildConfig, encoder: &HashEncoder) -> data::Result<BuildReport> {
    build(config, &[encoder], &mut |_| {})
}

/// Every file that a build leaves, with its bytes.
pub fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // it holds the number of the process
        if name != ".build.lock" {
            files.insert(name, fs::read(&path).unwrap());
        }
    }
    files
}

#[test]
fn interrupted_anywhere_it_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 730);
    let report = run(&whole, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(
        (report.outcome, report.manifest.pairs, report.manifest.shards.len()),
        (Outcome::Built, 730, 8)
    );

    let broken = config(folder.path(), "broken", 730);
    // stopped in the first stage, before any shard
    let stop = std::sync::atomic::AtomicBool::new(true);
    let error =
        build_until(&broken, &[&HashEncoder::new(DIM)], &mut |_| {}, &stop, &World::alone()).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    // then each process gets two shards further
    for end in 0..3 {
        let error = run(&broken, &HashEncoder::with_fault(DIM, Fault::Fail(2))).unwrap_err();
        assert!(error.to_string().contains("the encoder broke"), "{error}");
        assert!(matches!(PairSet::open(&broken.dir), Err(Error::NotAPairSet { unfinished: true, .. })));
        // what a killed process leaves of the shard and the state it was writing
        fs::write(broken.dir.join(format!(".shard-{:05}.arrow.tmp", 2 * end + 2)), "half").unwrap();
        fs::write(broken.dir.join(".manifest.json.99999999.tmp"), "{").unwrap();
    }
    // a shard whose state was not yet written, cut short
    fs::write(broken.dir.join("shard-00006.arrow"), "ARROW1").unwrap();
    let encoder = HashEncoder::with_fault(DIM, Fault::Panic(1));
    assert!(catch_unwind(AssertUnwindSafe(|| run(&broken, &encoder))).is_err());
    let report = run(&broken, &HashEncoder::new(DIM)).unwrap();
    assert_eq!((report.outcome, report.resumed_shards), (Outcome::Resumed, 7));
    assert_eq!(contents(&broken.dir), contents(&whole.dir));
}

#[test]
fn a_shard_lost_in_mid_build_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 430);
    run(&whole, &HashEncoder::new(DIM)).unwrap();
    let broken = config(folder.path(), "broken", 430);
    run(&broken, &HashEncoder::with_fault(DIM, Fault::Fail(3))).unwrap_err();
    let shard = broken.dir.join("shard-00001.arrow");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    let report = run(&broken, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(report.resumed_shards, 2);
    assert_eq!(contents(&broken.dir), contents(&whole.dir));
}

#[test]
fn a_finished_build_is_left_alone_and_another_recipe_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "pairs", 130);
    let first = run(&config, &HashEncoder::new(DIM)).unwrap();
    let before = contents(&config.dir);
    let encoder = HashEncoder::new(DIM);
    let again = run(&config, &encoder).unwrap();
    assert_eq!((again.outcome, encoder.calls.get()), (Outcome::AlreadyBuilt, 0));
    assert_eq!(serde_json::to_value(again.manifest).unwrap(), serde_json::to_value(first.manifest).unwrap());

    config.shard_rows = 50;
    let error = run(&config, &HashEncoder::new(DIM)).unwrap_err();
    assert!(error.to_string().contains("shard_rows: 100 there, 50 wanted"), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(contents(&config.dir), before);
}

#[test]
fn files_that_have_changed_are_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (texts, evaluation) = (folder.path().join("texts-230.txt"), folder.path().join("evaluation"));
    fs::create_dir(&evaluation).unwrap();
    write_lines(&evaluation.join("a.txt"), (0..3).map(sentence));
    write_lines(&evaluation.join("b.txt"), (5..8).map(sentence));
    let with_exclusion = |name| {
        let mut config = config(folder.path(), name, 230);
        config.exclude = vec![evaluation.clone()];
        config
    };
    let (finished, unfinished) = (with_exclusion("finished"), with_exclusion("unfinished"));
    run(&finished, &HashEncoder::new(DIM)).unwrap();
    run(&unfinished, &HashEncoder::with_fault(DIM, Fault::Fail(1))).unwrap_err();
    let refused = |wanted: &str| {
        for config in [&finished, &unfinished] {
            let error = run(config, &HashEncoder::new(DIM)).unwrap_err();
            assert!(matches!(&error, Error::OtherPairSet { .. }), "{error}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    };
    let corpus = fs::read_to_string(&texts).unwrap();
    fs::write(&texts, format!("{corpus}{}\n", sentence(999))).unwrap();
    let size = |more: usize| format!("{} bytes in 1 files", corpus.len() + more);
    let grown = sentence(999).len() + 1;
    refused(&format!("the files of corpus \"a\": {} there, {} now", size(0), size(grown)));
    fs::write(&texts, &corpus).unwrap();

    // an evaluation file of the same length, and one more
    write_lines(&evaluation.join("b.txt"), [7, 6, 5].into_iter().map(sentence));
    refused("(b.txt) has other contents now");
    write_lines(&evaluation.join("b.txt"), (5..8).map(sentence));
    write_lines(&evaluation.join("c.txt"), (9..10).map(sentence));
    refused("(c.txt) is new");
    fs::remove_file(evaluation.join("c.txt")).unwrap();

    // files that are gone are no others, and what was made of them is whole
    fs::remove_file(&texts).unwrap();
    assert_eq!(run(&finished, &HashEncoder::new(DIM)).unwrap().outcome, Outcome::AlreadyBuilt);
    assert_eq!(run(&unfinished, &HashEncoder::new(DIM)).unwrap().outcome, Outcome::Resumed);
    assert_eq!(contents(&unfinished.dir), contents(&finished.dir));
}

#[test]
fn strict_is_no_part_of_what_a_pair_set_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut sound = config(folder.path(), "sound", 130);
    run(&sound, &HashEncoder::new(DIM)).unwrap();
    sound.strict();
    assert!(sound.corpora.iter().all(|corpus| corpus.strict));
    assert_eq!(run(&sound, &HashEncoder::new(DIM)).unwrap().outcome, Outcome::AlreadyBuilt);
    let lenient = contents(&sound.dir);
    sound.dir = folder.path().join("strict");
    run(&sound, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(contents(&sound.dir), lenient);

    let file = folder.path().join("bad.txt");
    fs::write(&file, [sentence(1).as_bytes(), b"\nb\xffd\n", sentence(2).as_bytes()].concat()).unwrap();
    let corpora = json!([{"name": "bad", "path": file, "format": "text"}]);
    let mut bad = config_of(folder.path(), "bad", &corpora);
    assert_eq!(run(&bad, &HashEncoder::new(DIM)).unwrap().manifest.pairs, 2);
    bad.strict();
    // a set that has left out rows is not what was asked for
    let error = run(&bad, &HashEncoder::new(DIM)).unwrap_err();
    assert!(matches!(error, Error::MalformedRows { malformed: 1, .. }), "{error}");
    assert!(error.to_string().contains("bad.txt, line 2"), "{error}");
    bad.dir = folder.path().join("bad-strict");
    let error = run(&bad, &HashEncoder::new(DIM)).unwrap_err();
    assert!(matches!(error, Error::Row { line: 2, .. }), "{error}");
}

#[test]
fn absurd_shards_are_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "pairs", 130);
    for (rows, wanted) in [(0, "pairs.shard_rows = 0"), ((1 << 20) + 1, "pairs.shard_rows = 1048577")] {
        config.shard_rows = rows;
        let error = run(&config, &HashEncoder::new(DIM)).unwrap_err();
        assert!(error.to_string().starts_with(wanted) && error.hint().is_some(), "{error}");
        assert!(!config.dir.exists());
    }
}

#[test]
fn another_space_is_refused_finished_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let finished = config(folder.path(), "finished", 130);
    run(&finished, &HashEncoder::new(DIM)).unwrap();
    let unfinished = config(folder.path(), "unfinished", 130);
    run(&unfinished, &HashEncoder::with_fault(DIM, Fault::Fail(1))).unwrap_err();
    for config in [finished, unfinished] {
        let error = run(&config, &HashEncoder::new(DIM + 1)).unwrap_err();
        assert!(matches!(error, Error::Models(models::Error::SpaceMismatch { .. })), "{error}");
    }
}

#[test]
fn a_build_goes_on_in_the_number_format_that_it_began_in() {
    let folder = tempfile::tempdir().unwrap();
    let broken = || HashEncoder::with_fault(DIM, Fault::Fail(1));
    let of = |dtype: Option<&str>, config: &BuildConfig| BuildConfig {
        encoder_dtype: dtype.map(str::to_owned),
        ..config.clone()
    };
    let pairs = config(folder.path(), "pairs", 230);
    run(&of(Some("bf16"), &pairs), &broken()).unwrap_err();
    let error = run(&of(Some("f32"), &pairs), &HashEncoder::new(DIM)).unwrap_err();
    assert!(matches!(error, Error::OtherPairSet { .. }), "{error}");
    assert!(error.to_string().contains("encoder.dtype: bf16 there, f32 wanted"), "{error}");
    let report = run(&of(Some("bf16"), &pairs), &HashEncoder::new(DIM)).unwrap();
    assert_eq!((report.outcome, report.manifest.encoder_dtype.as_deref()), (Outcome::Resumed, Some("bf16")));
    // what is finished is not encoded again, on whatever machine
    let again = run(&of(Some("f32"), &pairs), &HashEncoder::new(DIM)).unwrap();
    assert_eq!(again.outcome, Outcome::AlreadyBuilt);
    assert_eq!(again.manifest.encoder_dtype.as_deref(), Some("bf16"));

    // sets of before say nothing of it
    let older = config(folder.path(), "older", 230);
    run(&of(None, &older), &broken()).unwrap_err();
    let report = run(&of(Some("f32"), &older), &HashEncoder::new(DIM)).unwrap();
    assert_eq!((report.outcome, report.manifest.encoder_dtype), (Outcome::Resumed, None));
    let manifest = fs::read_to_string(older.dir.join("manifest.json")).unwrap();
    assert!(!manifest.contains("dtype"), "{manifest}");
}

#[test]
fn duplicates_are_kept_once_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.txt"), folder.path().join("b.txt"));
    write_lines(&a, (0..40).chain(0..10).map(sentence));
    // the same texts in another domain, with other white space
    write_lines(&b, (30..60).map(|i| sentence(i).replace(' ', "  ")));
    let corpora = json!([
        {"name": "a", "path": a, "format": "text", "domain": "general"},
        {"name": "b", "path": b, "format": "text", "domain": "science"},
    ]);
    let config = config_of(folder.path(), "pairs", &corpora);
    let report = run(&config, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(report.manifest.pairs, 60);
    assert_eq!(report.manifest.flow.read, 80);
    assert_eq!(report.manifest.flow.drops.get(Filter::Duplicate), 20);
    // the first corpus read has them
    assert_eq!(report.manifest.counts.source, BTreeMap::from([("a".into(), 40), ("b".into(), 20)]));
    let set = PairSet::open(&config.dir).unwrap();
    let texts: HashSet<&str> = (0..set.len()).map(|row| set.text(row)).collect();
    assert_eq!(texts.len(), 60);
}

#[test]
fn a_group_stays_in_one_split() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("captions.tsv");
    let rows = (0..600).map(|i| format!("picture{}\t{}", i / 5, sentence(i)));
    write_lines(&file, std::iter::once("picture\tcaption".to_owned()).chain(rows));
    let corpora = json!([{"name": "c", "path": file, "format": "tsv", "domain": "captions", "header": true,
        "columns": ["caption"], "group_by": {"column": "picture"}}]);
    let config = config_of(folder.path(), "pairs", &corpora);
    let report = run(&config, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(report.manifest.pairs, 600);
    assert!(report.manifest.counts.split.len() == 3, "{:?}", report.manifest.counts.split);
    let set = PairSet::open(&config.dir).unwrap();
    let picture: BTreeMap<String, usize> = (0..600).map(|i| (sentence(i), i / 5)).collect();
    let mut splits: BTreeMap<usize, HashSet<String>> = BTreeMap::new();
    for row in 0..set.len() {
        let split = format!("{:?}", set.split(row).unwrap());
        splits.entry(picture[set.text(row)]).or_default().insert(split);
    }
    assert_eq!(splits.len(), 120);
    assert!(splits.values().all(|seen| seen.len() == 1));
}

#[test]
fn a_bad_vector_is_refused_with_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "pairs", 130);
    let text = sentence(77);
    let unlucky: &'static str = Box::leak(text.clone().into_boxed_str());
    let error = run(&config, &HashEncoder::with_fault(DIM, Fault::NotANumber(unlucky))).unwrap_err();
    assert!(matches!(&error, Error::BadVector { position: 1, .. }), "{error}");
    assert!(error.to_string().contains(&text[..60]), "{error}");
    let error = run(&config, &HashEncoder::with_fault(DIM, Fault::Narrow)).unwrap_err();
    assert!(matches!(&error, Error::VectorShape { .. }), "{error}");
}

#[test]
fn nothing_to_encode_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("short.txt");
    write_lines(&file, ["1234 5678 90 12 34 56", "@@@@ #### $$$$ %%%% ^^^^"].map(str::to_owned).into_iter());
    let config = config_of(
        folder.path(),
        "pairs",
        &json!([{"name": "a", "path": file, "format": "text", "domain": "x"}]),
    );
    let error = run(&config, &HashEncoder::new(DIM)).unwrap_err();
    assert!(matches!(error, Error::NoPairs { read: 2, .. }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path(), "pairs", 130);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    config.dir = file.join("pairs");
    let error = run(&config, &HashEncoder::new(DIM)).unwrap_err();
    assert!(error.to_string().contains(&*config.dir.to_string_lossy()), "{error}");
}

#[test]
fn shards_of_unknown_origin_are_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "pairs", 130);
    fs::create_dir_all(&config.dir).unwrap();
    let foreign: PathBuf = config.dir.join("shard-00000.arrow");
    fs::write(&foreign, "precious").unwrap();
    let error = run(&config, &HashEncoder::new(DIM)).unwrap_err();
    assert!(matches!(error, Error::ForeignShard { .. }), "{error}");
    assert_eq!(fs::read(&foreign).unwrap(), b"precious");
}

#[test]
fn near_duplicates_are_dropped_across_the_whole_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("near.txt");
    let base =
        |i: usize| format!("{} and then {} while {}", sentence(i), sentence(i * 7 + 3), sentence(i * 13 + 5));
    write_lines(&file, (0..50).flat_map(|i| [base(i * 31), format!("{} again", base(i * 31))]));
    let corpora = json!([{"name": "a", "path": file, "format": "text", "domain": "general"}]);
    let exact = config_of(folder.path(), "exact", &corpora);
    let report = run(&exact, &HashEncoder::new(DIM)).unwrap();
    assert_eq!(report.manifest.pairs, 100);
    let mut near = config_of(folder.path(), "near", &corpora);
    near.curation = serde_json::from_value(json!({"near_duplicates": {"threshold": 0.8}})).unwrap();
    let report = run(&near, &HashEncoder::new(DIM)).unwrap();
    let dropped = report.manifest.flow.drops.get(Filter::NearDuplicate);
    assert_eq!(report.manifest.pairs + dropped, 100);
    assert!((40..60).contains(&dropped), "{dropped}");
}

#[test]
fn progress_counts_every_document() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "pairs", 230);
    let encoder = HashEncoder::new(DIM);
    let mut last = BTreeMap::new();
    build(&config, &[&encoder], &mut |p| {
        last.insert(p.stage.name(), (p.done, p.total));
    })
    .unwrap();
    assert_eq!(last["encoding"], (230, Some(230)));
    assert_eq!(last["curating"].0, 230);
    assert!(encoder.max_tokens() > 0);
}
