//! The reader of Parquet on files that pyarrow wrote (golden/write_parquet.py), and on damaged ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use data::corpus::{Column, Format, GroupBy};
use data::{CorpusConfig, Document, Error, RowReport, open_corpus};
use proptest::prelude::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)
}

fn config(path: impl Into<PathBuf>, columns: &[&str]) -> CorpusConfig {
    let mut config = CorpusConfig::new("t", path.into(), Format::Parquet);
    config.columns = columns.iter().map(|&name| Column::Name(name.into())).collect();
    config
}

fn read(config: &CorpusConfig) -> (Vec<Document>, RowReport) {
    let mut corpus = open_corpus(config).unwrap();
    let documents = corpus.by_ref().map(Result::unwrap).collect();
    (documents, corpus.report().clone())
}

fn texts(config: &CorpusConfig) -> Vec<String> {
    read(config).0.into_iter().map(|document| document.text).collect()
}

/// The first error of a corpus, whenever it comes.
fn error(config: &CorpusConfig) -> Error {
    match open_corpus(config) {
        Err(error) => error,
        Ok(mut corpus) => corpus.find_map(Result::err).expect("it was read"),
    }
}

#[test]
fn pages_and_compressions_of_pyarrow() {
    for name in ["none", "snappy", "gzip", "zstd", "lz4"] {
        let (documents, report) = read(&config(golden(&format!("{name}.parquet")), &[]));
        assert_eq!(
            (report.rows, report.documents, report.empty, report.malformed),
            (700, 693, 7, 0),
            "{name}"
        );
        let expected = (0..700usize).filter(|i| i % 100 != 7).map(|i| {
            let place = if i % 3 == 0 { "Kyōto 京都" } else { "Zürich" };
            (i as u64 + 1, format!("Sentence number {i} of the file, in {place}."))
        });
        let found = documents.into_iter().map(|document| (document.origin.line, document.text));
        assert!(found.eq(expected), "{name}");
    }
}

#[test]
fn a_limit_and_a_group() {
    let mut config = config(golden("zstd.parquet"), &["text"]);
    config.group_by = Some(GroupBy::Column(Column::Name("id".into())));
    config.limit = Some(301);
    let (documents, report) = read(&config);
    assert_eq!((documents.len(), report.rows), (301, 304));
    assert_eq!(documents[300].group.as_deref(), Some("t=303"));
}

#[test]
fn lists_and_structs() {
    let of = |columns: &[&str]| texts(&config(golden("nested.parquet"), columns));
    assert_eq!(of(&["texts"]), ["one", "two", "three", "four"]);
    assert_eq!(of(&["meta.title"]), ["a", "d"]);
    assert_eq!(of(&["answers.text"]), ["yes", "no", "maybe"]);
    assert_eq!(of(&["large"]), ["w", "x", "y", "z"]);
    assert_eq!(of(&["large", "texts"]), ["w", "one", "two", "x", "y", "z", "three", "four"]);
    // several columns of one row belong together
    let (documents, _) = read(&config(golden("nested.parquet"), &["large", "meta.title"]));
    let groups: Vec<_> = documents.iter().map(|document| document.group.as_deref().unwrap()).collect();
    let groups_expected = [1, 1, 2, 3, 4, 4].map(|row| format!("t/nested.parquet:{row}"));
    assert_eq!(groups, groups_expected);
    let mut grouped = config(golden("nested.parquet"), &["large"]);
    grouped.group_by = Some(GroupBy::Column(Column::Name("kind".into())));
    let (documents, _) = read(&grouped);
    let groups: Vec<_> = documents.iter().map(|document| document.group.as_deref().unwrap()).collect();
    assert_eq!(groups, ["t=p", "t=q", "t=p", "t=q"]);
}

#[test]
fn malformed_rows_are_counted() {
    let (documents, report) = read(&config(golden("nested.parquet"), &["raw", "large"]));
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    assert_eq!(texts, ["good", "w", "fine", "y", "z"]);
    assert_eq!((report.rows, report.malformed), (4, 1));
    assert!(report.examples[0].contains("nested.parquet, line 2: invalid UTF-8 at byte 2"), "{report:?}");

    let mut short = config(golden("zstd.parquet"), &[]);
    short.max_line_bytes = 45;
    let (documents, report) = read(&short);
    assert_eq!(documents.len() as u64 + report.malformed + report.empty, 700);
    assert!(report.malformed > 0 && report.examples[0].contains("more than max_line_bytes = 45"));

    let mut grouped = config(golden("nested.parquet"), &["large"]);
    grouped.group_by = Some(GroupBy::Column(Column::Name("number".into())));
    assert_eq!(read(&grouped).1.malformed, 1);
    grouped.strict = true;
    let error = error(&grouped);
    assert!(matches!(error, Error::Row { line: 4, .. }), "{error}");
}

#[test]
fn a_column_that_is_not_there_or_no_text() {
    let there = error(&config(golden("nested.parquet"), &["body"])).to_string();
    for found in ["\"body\"", "\"texts\" (text)", "\"meta.title\" (text)", "\"answers.start\" (INT32)"] {
        assert!(there.contains(found), "{there}");
    }
    let number = error(&config(golden("zstd.parquet"), &["score"])).to_string();
    assert!(number.contains("\"score\" holds DOUBLE, not text"), "{number}");
    let group = error(&{
        let mut config = config(golden("zstd.parquet"), &[]);
        config.group_by = Some(GroupBy::Column(Column::Name("no".into())));
        config
    });
    assert!(matches!(&group, Error::NoColumn { found, .. } if found.contains("\"id\" (INT64)")), "{group}");
}

#[test]
fn files_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let whole = fs_err::read(golden("snappy.parquet")).unwrap();
    for (bytes, what) in [
        (&b""[..], "no Parquet"),
        (b"PAR1", "x.parquet"),
        (b"{\"text\": \"a text, but of another format\"}\n", "x.parquet"),
        (&whole[..whole.len() - 1], "x.parquet"),
        (&whole[..whole.len() / 2], "x.parquet"),
    ] {
        fs_err::write(&path, bytes).unwrap();
        let error = error(&config(&path, &[]));
        assert!(error.to_string().contains(what) && error.hint().is_some(), "{error}");
    }
    let error = error(&config(golden("no_rows.parquet"), &[]));
    assert!(matches!(error, Error::EmptyCorpus { rows: 0, .. }), "{error}");
}

#[test]
fn a_folder_gives_its_parquet_files() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["b.parquet", "a.parquet"] {
        fs_err::copy(golden("nested.parquet"), folder.path().join(name)).unwrap();
    }
    fs_err::write(folder.path().join("README.md"), "about").unwrap();
    let (documents, report) = read(&config(folder.path(), &["large"]));
    assert_eq!((documents.len(), report.files), (8, 2));
    assert!(documents[0].origin.file.ends_with("a.parquet"));

    // a folder does for a repository of the hub
    let mut as_hub = config("b.*", &["large"]);
    as_hub.hub = Some(folder.path().to_str().unwrap().to_owned());
    let (documents, report) = read(&as_hub);
    assert_eq!((documents.len(), report.files), (4, 1));
    as_hub.path = "nothing/**".into();
    let error = error(&as_hub);
    assert!(
        matches!(&error, Error::NoHubFiles { found, .. } if found == "README.md, a.parquet, b.parquet"),
        "{error}"
    );
}

#[test]
fn a_column_before_the_beginning_of_the_file() {
    // one byte of the footer makes an offset negative, for which the library has an assertion
    let mut bytes = fs_err::read(golden("gzip.parquet")).unwrap();
    let at = 949_973 % bytes.len();
    bytes[at] ^= 93;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    fs_err::write(&path, bytes).unwrap();
    let error = error(&config(path, &["text"]));
    assert!(error.to_string().contains("x.parquet") && error.hint().is_some(), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Damage is an error, a malformed row, or not seen; it is never a panic or an endless loop.
    #[test]
    fn damage_never_panics(
        file in 0usize..5,
        flips in prop::collection::vec((0usize..1 << 20, 1u8..), 1..6),
        cut in prop::option::of(0usize..1 << 20),
    ) {
        let name = ["none", "snappy", "gzip", "zstd", "nested"][file];
        let mut bytes = fs_err::read(golden(&format!("{name}.parquet"))).unwrap();
        for (at, flip) in flips {
            let at = at % bytes.len();
            bytes[at] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % (bytes.len() + 1));
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        fs_err::write(&path, bytes).unwrap();
        let columns = if name == "nested" { ["texts"] } else { ["text"] };
        if let Ok(corpus) = open_corpus(&config(path, &columns)) {
            prop_assert!(corpus.take(100_000).count() < 100_000);
        }
    }
}
