//! Real files, where the project's data folder lies beside it: counts that are known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::path::PathBuf;

use data::corpus::{Column, Format, IrOptions, read_ir, read_sts};
use data::{CorpusConfig, Document, RowReport, open_corpus, read_lines};

/// A file of the data folder; says so and gives nothing where it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return None;
    }
    Some(path)
}

fn read(config: &CorpusConfig) -> (Vec<Document>, RowReport) {
    let mut corpus = open_corpus(config).unwrap();
    let documents = corpus.by_ref().map(Result::unwrap).collect();
    (documents, corpus.report().clone())
}

#[test]
fn captions_and_their_held_out_part() {
    let (Some(train), Some(dev)) = (shared("text/captions.tsv.xz"), shared("dev/captions.txt")) else {
        return;
    };
    let mut config = CorpusConfig::new("captions", train, Format::Tsv);
    config.columns = vec![Column::Number(1)];
    let (documents, report) = read(&config);
    assert_eq!((documents.len(), report.malformed), (140_579, 0));
    assert_eq!(read_lines(&dev).unwrap().len(), 5070);
}

#[test]
fn sts_pairs() {
    for (path, pairs) in [
        ("sts/stsbenchmark/stsb-en-train.csv", 5749),
        ("sts/stsbenchmark/stsb-en-dev.csv", 1500),
        ("sts/sick/SICK_train.txt", 4500),
        ("sts/sick/SICK_trial.txt", 500),
        ("sts/sts12/MSRpar.test.tsv", 750),
        ("sts/sts13/headlines.test.tsv", 750),
    ] {
        let Some(path) = shared(path) else { return };
        let read = read_sts(&path).unwrap();
        assert_eq!(read.len(), pairs, "{}", path.display());
        assert!(read.iter().all(|pair| pair.score.is_some()), "{}", path.display());
    }
    let Some(folder) = shared("sts/sick") else { return };
    let (documents, report) = read(&CorpusConfig::new("sick", folder, Format::Sts));
    assert_eq!((documents.len(), report.files, report.malformed), (10_000, 2, 0));
}

#[test]
fn retrieval_collections() {
    for (folder, format, documents, queries, judged, by_position) in [
        ("ir/cranfield", Format::Trec, 1400, 225, 225, true),
        ("ir/cisi", Format::Smart, 1460, 112, 76, false),
        ("ir/med", Format::Smart, 1033, 30, 30, false),
    ] {
        let Some(path) = shared(folder) else { return };
        let set = read_ir(&path, format, &IrOptions::default()).unwrap();
        assert_eq!(
            (set.documents.len(), set.queries.len(), set.judged_queries()),
            (documents, queries, judged),
            "{folder}"
        );
        assert_eq!(set.queries_by_position, by_position, "{folder}");
        let known = |id: &String| set.queries.iter().any(|query| query.id == *id);
        assert!(set.qrels.keys().all(known), "{folder}");
        let empty: Vec<&str> =
            set.documents.iter().filter(|d| d.full_text().is_empty()).map(|d| d.id.as_str()).collect();
        assert_eq!(empty, if by_position { vec!["471", "995"] } else { vec![] }, "{folder}");
    }
}

#[test]
fn long_passages_and_snippets() {
    let Some(path) = shared("long/cs.IR.tsv.xz") else { return };
    let (documents, report) = read(&CorpusConfig::new("arxiv", path, Format::Arxiv));
    assert_eq!((report.rows, report.malformed, documents.len()), (6767, 0, 2 * 6767));
    assert_eq!(documents[0].group, documents[1].group);
    let Some(path) = shared("code/conala-train.json") else { return };
    let mut config = CorpusConfig::new("conala", path, Format::Json);
    config.columns = ["intent", "snippet"].map(|name| Column::Name(name.into())).into();
    let (documents, report) = read(&config);
    assert_eq!((report.rows, report.malformed), (2378, 0));
    assert_eq!(documents.len(), 2 * 2378);
}
