//! Scored pairs of sentences in every layout, malformed ones among them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use data::corpus::{Format, is_sts, read_sts};
use data::{CorpusConfig, Document, Error, open_corpus};
use tempfile::TempDir;

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Fixture {
        Fixture(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs_err::write(&path, content).unwrap();
        path
    }
}

#[test]
fn sts_files_have_five_layouts() {
    let fixture = Fixture::new();
    let stsb = fixture.write("b.csv", "\"A plane, big\",A jet.,4.5\nOne.,Two.,0.0\n");
    let sick = fixture.write(
        "sick.txt",
        "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment\n7\tA dog\tA cat\t2.5\tNEUTRAL\n",
    );
    let semeval = fixture.write("s.tsv", "\t\"No\" score\tb\n3.2\tc\td\n");
    let pair = |path| read_sts(path).unwrap().into_iter().map(|p| (p.a, p.b, p.score)).collect::<Vec<_>>();
    let row = |a: &str, b: &str, score| (a.to_owned(), b.to_owned(), score);
    assert_eq!(pair(&stsb), [row("A plane, big", "A jet.", Some(4.5)), row("One.", "Two.", Some(0.0))]);
    assert_eq!(pair(&sick), [row("A dog", "A cat", Some(2.5))]);
    assert_eq!(pair(&semeval), [row("\"No\" score", "b", None), row("c", "d", Some(3.2))]);
    let corpus = open_corpus(&CorpusConfig::new("s", &stsb, Format::Sts)).unwrap();
    let documents: Vec<Document> = corpus.map(Result::unwrap).collect();
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    assert_eq!(texts, ["A plane, big", "A jet.", "One.", "Two."]);
    assert!(documents[0].group.is_some() && documents[0].group == documents[1].group);
    let bad = fixture.write("bad.tsv", "1.0\ta\tb\n9.5\tc\td\n");
    assert!(read_sts(&bad).unwrap_err().to_string().contains("line 2: \"9.5\" is no score"));
    let other = fixture.write("other.tsv", "just text\n");
    assert!(matches!(read_sts(&other), Err(Error::Layout { .. })));
    let json = fixture.write(
        "j.jsonl",
        "{\"score\":2.5,\"sentence1\":\"A \\\"b\\\".\",\"sentence2\":\"C.\",\"genre\":\"x\"}\n\n\
         {\"sentence1\":\"D\",\"sentence2\":\"E\",\"score\":null}\n",
    );
    assert_eq!(pair(&json), [row("A \"b\".", "C.", Some(2.5)), row("D", "E", None)]);
    let other = fixture.write("info.json", "{\"citation\": \"none\"}\n");
    assert!(!is_sts(&other).unwrap());
    let bad = fixture.write("renamed.jsonl", "{\"sentence1\":\"D\",\"sentence2\":\"E\",\"score\":1}\n{\"sentence1\":\"D\",\"sentence2\":\"E\",\"label\":1}\n");
    assert!(read_sts(&bad).unwrap_err().to_string().contains("line 2: missing field `score`"));
    let bad = fixture.write("bad.jsonl", "{\"sentence1\":\"D\",\"sentence2\":\" \",\"score\":1}\n");
    assert!(read_sts(&bad).unwrap_err().to_string().contains("line 1: a sentence is empty"));
}

#[test]
fn sts_sentences_and_scores_come_in_two_files() {
    let fixture = Fixture::new();
    let input = fixture.write("STS.input.news.txt", "A dog.\tA cat.\nOne.\tTwo.\tsource\n");
    let missing = read_sts(&input).unwrap_err().to_string();
    assert!(missing.contains("STS.gs.news.txt"), "{missing}");
    let scores = fixture.write("STS.gs.news.txt", "\n4.750\n");
    let pairs = read_sts(&input).unwrap();
    assert_eq!(pairs.iter().map(|pair| pair.score).collect::<Vec<_>>(), [None, Some(4.75)]);
    assert_eq!((pairs[1].a.as_str(), pairs[1].b.as_str()), ("One.", "Two."));
    // a folder's files of sentences are sets, those of scores are not
    assert!(is_sts(&input).unwrap() && !is_sts(&scores).unwrap());
    fixture.write("STS.gs.news.txt", "1.0\n");
    let short = read_sts(&input).unwrap_err().to_string();
    assert!(short.contains("2 lines") && short.contains("has 1"), "{short}");
    fixture.write("STS.gs.news.txt", "1.0\nseven\n");
    assert!(read_sts(&input).unwrap_err().to_string().contains("line 2: \"seven\" is no score"));
    let input = fixture.write("STS2016.input.news.txt", "A dog.\tA cat.\n");
    fixture.write("STS2016.gs.news.txt", "2\n");
    assert_eq!(read_sts(&input).unwrap()[0].score, Some(2.0));
}
