//! Every format's reader on small files, malformed ones among them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};

use data::corpus::{Column, Format, GroupBy, IrOptions, Paths, read_ir};
use data::{CorpusConfig, Document, Error, RowReport, open_corpus};
use proptest::prelude::*;
use tempfile::TempDir;

struct Fixture(TempDir);

impl Fixture {
    fn new() -> Fixture {
        Fixture(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, content).unwrap();
        path
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn read(config: &CorpusConfig) -> (Vec<Document>, RowReport) {
    let mut corpus = open_corpus(config).unwrap();
    let documents = corpus.by_ref().map(Result::unwrap).collect();
    (documents, corpus.report().clone())
}

fn texts(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|document| document.text.as_str()).collect()
}

fn column(name: &str) -> Column {
    Column::Name(name.into())
}

#[test]
fn text_is_a_line_or_a_paragraph() {
    let fixture = Fixture::new();
    let path = fixture.write("a.txt", "one\ntwo\r\n\n\nthree\n");
    let mut config = CorpusConfig::new("t", &path, Format::Text);
    let (documents, report) = read(&config);
    assert_eq!(texts(&documents), ["one", "two", "three"]);
    assert_eq!((documents[2].origin.line, &*documents[2].origin.file), (5, path.as_path()));
    assert_eq!((report.rows, report.empty, report.documents), (5, 2, 3));
    config.paragraphs = true;
    assert_eq!(texts(&read(&config).0), ["one\ntwo", "three"]);
    config.limit = Some(1);
    assert_eq!(texts(&read(&config).0), ["one\ntwo"]);
}

#[test]
fn a_share_is_spread_over_the_files_and_their_names_are_domains() {
    let fixture = Fixture::new();
    for domain in ["birds", "bees"] {
        let lines: String = (0..2000).map(|line| format!("{domain} {line}\n")).collect();
        fixture.write(&format!("{domain}.of.a.kind.txt"), lines);
    }
    let mut config = CorpusConfig::new("t", fixture.path().join("*.txt"), Format::Text);
    config.file_domains = true;
    assert_eq!(read(&config).0.len(), 4000);
    config.share = Some(0.1);
    let (tenth, report) = read(&config);
    for domain in ["birds", "bees"] {
        let found = tenth.iter().filter(|document| document.domain == domain).count();
        assert!((140..260).contains(&found), "{found} of 2000 {domain}");
    }
    assert_eq!(report.rows, tenth.len() as u64);
    // what a smaller share has, a larger one has too
    config.share = Some(0.2);
    let (fifth, _) = read(&config);
    assert!(tenth.iter().all(|document| fifth.contains(document)) && fifth.len() > tenth.len());
    let array: Vec<String> = (0..1000).map(|number| format!("{{\"text\": \"text {number}\"}}")).collect();
    let one_line = fixture.write("a.json", format!("[{}]", array.join(",")));
    let json = CorpusConfig { share: Some(0.1), ..CorpusConfig::new("t", &one_line, Format::Json) };
    let found = read(&json).0.len();
    assert!((60..140).contains(&found), "{found} of 1000 on one line");
    for share in [0.0, 1.1, f64::NAN] {
        config.share = Some(share);
        let error = open_corpus(&config).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("corpus.t.share"), "{error}");
    }
}

#[test]
fn malformed_rows_are_named_and_counted_or_fatal() {
    let fixture = Fixture::new();
    let mut content = b"s\tgood one\nno tab\ns\tbad \xff\ns\t".to_vec();
    content.extend([b'x'; 300]);
    content.extend(b"\ns\tgood two\n");
    let path = fixture.write("a.tsv", content);
    let mut config = CorpusConfig::new("t", &path, Format::Tsv);
    config.columns = vec![Column::Number(1)];
    config.max_line_bytes = 100;
    let (documents, report) = read(&config);
    assert_eq!(texts(&documents), ["good one", "good two"]);
    assert_eq!((report.rows, report.malformed), (5, 3));
    for (example, line, reason) in [
        (0, 2, "1 columns"),
        (1, 3, "invalid UTF-8 at byte 7"),
        (2, 4, "302 bytes, more than max_line_bytes = 100"),
    ] {
        let message = &report.examples[example];
        assert!(message.contains(&format!("a.tsv, line {line}: ")) && message.contains(reason), "{message}");
    }
    config.strict = true;
    let error = open_corpus(&config).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(&error, Error::Row { line: 2, path: named, .. } if *named == path), "{error}");
    assert!(error.hint().unwrap().contains("strict"));
}

#[test]
fn a_line_of_100_megabytes_is_passed_over() {
    let fixture = Fixture::new();
    let path = fixture.path().join("long.txt.gz");
    let mut gz =
        flate2::write::GzEncoder::new(fs_err::File::create(&path).unwrap(), flate2::Compression::fast());
    gz.write_all(b"before\n").unwrap();
    for _ in 0..100 {
        gz.write_all(&vec![b'x'; 1 << 20]).unwrap();
    }
    gz.write_all(b"\nafter\n").unwrap();
    gz.finish().unwrap();
    let (documents, report) = read(&CorpusConfig::new("t", &path, Format::Text));
    assert_eq!(texts(&documents), ["before", "after"]);
    assert!(report.examples[0].contains("104857600 bytes"), "{:?}", report.examples);
}

#[test]
fn columns_are_found_by_name_and_grouped() {
    let fixture = Fixture::new();
    let path = fixture.write(
        "a.csv",
        "id,first,second\n1,\"a, \"\"quoted\"\"\nfield\",b\n2,c,d\n1,e,\n3,too,many,fields\n",
    );
    let mut config = CorpusConfig::new("t", &path, Format::Csv);
    config.columns = vec![column("first"), column("second")];
    let (documents, report) = read(&config);
    assert_eq!(texts(&documents), ["a, \"quoted\"\nfield", "b", "c", "d", "e"]);
    assert_eq!(report.malformed, 1);
    assert_eq!(documents[0].group, documents[1].group, "texts of a row belong together");
    assert_ne!(documents[0].group, documents[2].group);
    assert_eq!(documents[2].origin.line, 4);
    config.group_by = Some(GroupBy::Column(column("id")));
    let (documents, _) = read(&config);
    assert_eq!(documents[0].group, documents[4].group);
    config.group_by = Some(GroupBy::None);
    assert_eq!(read(&config).0[0].group, None);
    config.columns = vec![column("third")];
    let error = open_corpus(&config).unwrap().next().unwrap().unwrap_err();
    assert!(error.to_string().contains("\"third\"; its columns are 0 \"id\", 1 \"first\""), "{error}");
}

#[test]
fn a_stray_quote_costs_its_own_row_only() {
    let fixture = Fixture::new();
    let mut content = "abstract\ttitle\n\"never closed\tone\n".to_owned();
    for i in 0..300 {
        content += &format!("abstract {i}\ttitle {i}\n");
    }
    let (documents, report) = read(&CorpusConfig::new("a", fixture.write("a.tsv", content), Format::Arxiv));
    assert_eq!((documents.len(), report.malformed), (600, 1));
    assert!(report.examples[0].contains("line 2: a quoted field begins here"), "{:?}", report.examples);
    let path = fixture.write("b.tsv", "\"It's huge,\" he said.\tx\n");
    let mut config = CorpusConfig::new("t", path, Format::Tsv);
    config.columns = vec![Column::Number(0)];
    assert_eq!(texts(&read(&config).0), ["\"It's huge,\" he said."]);
}

#[test]
fn lines_can_be_grouped_by_their_number() {
    let fixture = Fixture::new();
    let content: String = (0..10).map(|i| format!("caption {i}\n")).collect();
    let mut config = CorpusConfig::new("c", fixture.write("a.txt", content), Format::Text);
    config.group_by = Some(GroupBy::Lines(5));
    let (documents, _) = read(&config);
    let groups: Vec<_> = documents.iter().map(|document| document.group.clone().unwrap()).collect();
    assert!(groups[..5].iter().all(|group| *group == groups[0]));
    assert!(groups[5..].iter().all(|group| *group == groups[5] && *group != groups[0]));
}

#[test]
fn json_lines_and_arrays_give_the_same_rows() {
    let fixture = Fixture::new();
    let rows = [
        r#"{"q": "one ] \" [", "n": {"a": "two"}, "id": 1}"#,
        r#"{"q": null, "n": {"a": ["three", "four"]}, "id": 2}"#,
    ];
    let lines =
        fixture.write("a.jsonl", rows.join("\n\n") + "\n{broken\n{\"q\": 5, \"n\": {\"a\": \"x\"}}\n");
    let array =
        fixture.write("a.json", format!("[{},\n {},\n {{broken}}, {{\"q\": 5}}]\n", rows[0], rows[1]));
    for (path, format) in [(lines, Format::Jsonl), (array, Format::Json)] {
        let mut config = CorpusConfig::new("j", path, format);
        config.columns = vec![column("q"), column("n.a")];
        let (documents, report) = read(&config);
        assert_eq!(texts(&documents), ["one ] \" [", "two", "three", "four"]);
        assert_eq!((report.rows, report.malformed), (4, 2), "{format}");
    }
    let cut = fixture.write("cut.json", "[{\"text\": \"a\"}, {\"text\": ");
    let error =
        open_corpus(&CorpusConfig::new("j", cut, Format::Json)).unwrap().find_map(Result::err).unwrap();
    assert!(error.to_string().contains("ends within the element of line 1"), "{error}");
}

#[test]
fn beir_folders_are_read_as_sets_and_as_corpora() {
    let fixture = Fixture::new();
    let corpus = "{\"_id\": \"d1\", \"title\": \"T\", \"text\": \"some  text\"}\n{\"_id\": \"d2\", \"text\": \"more\"}\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(corpus.as_bytes()).unwrap();
    fixture.write("corpus.jsonl.gz", gz.finish().unwrap());
    fixture.write("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"what?\"}\n");
    fixture.write("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td1\t0\n");
    fixture.write("qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\n");
    let set = read_ir(fixture.path(), Format::Beir, &IrOptions::default()).unwrap();
    assert_eq!((set.documents.len(), set.queries.len(), set.judged_queries()), (2, 1, 1));
    assert_eq!(set.documents[0].full_text(), "T some text");
    assert_eq!((set.qrels["q1"]["d2"], set.qrels["q1"]["d1"]), (1, 0));
    let train = IrOptions { qrels: "train".into(), ..IrOptions::default() };
    let error = read_ir(fixture.path(), Format::Beir, &train).unwrap_err();
    assert!(error.to_string().contains("there are [dev, test]"), "{error}");
    let mut config = CorpusConfig::new("b", fixture.path(), Format::Beir);
    assert_eq!(texts(&read(&config).0), ["T", "some text", "more", "what?"]);
    config.columns = vec![column("text")];
    assert_eq!(texts(&read(&config).0), ["some text", "more"]);
}

#[test]
fn trec_queries_may_be_counted_by_position() {
    let fixture = Fixture::new();
    fixture.write(
        "docs.xml",
        "<doc>\n<docno>1</docno><title>a wing .</title>\n<text>a wing .\n a &lt; b & c < d</text>\n</doc><doc>\n\
         <docno>2</docno>\n<title></title><text></text></doc>",
    );
    fixture.write("qry.xml", "<xml>\r\n<top><num> 4</num><title>\r\nfirst</title></top><TOP>\n<num> Number: 9\n<title> second\n<desc> d\n</TOP>");
    fixture.write("qrels.txt", "1 0 2 1\r\n2 0 1  -1\r\n");
    let set = read_ir(fixture.path(), Format::Trec, &IrOptions::default()).unwrap();
    assert_eq!(set.documents[0].text, "a wing . a < b & c < d".replace("&lt;", "<"));
    assert_eq!((set.documents[1].id.as_str(), set.documents[1].full_text().as_str()), ("2", ""));
    assert!(set.queries_by_position);
    let queries: Vec<_> = set.queries.iter().map(|query| (query.id.as_str(), query.text.as_str())).collect();
    assert_eq!(queries, [("1", "first"), ("2", "second")]);
    assert_eq!(set.judged_queries(), 1);
}

#[test]
fn unclosed_trec_records_are_named() {
    let fixture = Fixture::new();
    let path = fixture
        .write("d.xml", "<doc>\n<docno>1</docno>\n<doc><docno>2</docno><text>x y</text></doc>\n<doc>\n");
    let (documents, report) = read(&CorpusConfig::new("t", path, Format::Trec));
    assert_eq!(texts(&documents), ["x y"]);
    assert!(report.examples[0].contains("line 1: the record is not closed"), "{:?}", report.examples);
    assert!(report.examples[1].contains("line 4: the file ends within"), "{:?}", report.examples);
}

#[test]
fn smart_files_are_read_by_field() {
    let fixture = Fixture::new();
    fixture.write(
        "X.ALL",
        ".I 1\n.T \nA title\n.A\nBy, No\n.W\nLine one\n line two\n.X\n1\t5\t1\n.I 2\n.W\nonly text\n",
    );
    fixture.write("X.QRY", ".I 1\n.W\n what is asked\n.I 2\n.W\nother\n");
    fixture.write("X.REL", "     1     2\t0\t0.000000\n");
    let set = read_ir(fixture.path(), Format::Smart, &IrOptions::default()).unwrap();
    assert_eq!(
        (set.documents[0].title.as_str(), set.documents[0].text.as_str()),
        ("A title", "Line one line two")
    );
    assert_eq!((set.queries[0].text.as_str(), set.queries.len()), ("what is asked", 2));
    assert_eq!(set.qrels["1"]["2"], 1);
    let (documents, _) = read(&CorpusConfig::new("s", fixture.path(), Format::Smart));
    assert_eq!(texts(&documents), ["A title", "Line one line two", "only text", "what is asked", "other"]);
}

#[test]
fn rust_documentation_is_read_in_a_fixed_order_and_tests_are_not() {
    let fixture = Fixture::new();
    fixture.write("b/src/lib.rs", "//! The second crate. It has two sentences.\n");
    fixture.write("a/src/lib.rs", "/// Returns the `len` of it.\nfn len() {}\n");
    fixture.write("a/tests/t.rs", "//! A test.\n");
    fixture.write("a/src/large.rs", format!("//! Large.\n{}", " ".repeat(3000)));
    let mut config = CorpusConfig::new("docs", fixture.path().join("*"), Format::Rustdoc);
    config.max_file_bytes = 2000;
    let (documents, _) = read(&config);
    assert_eq!(texts(&documents), ["Returns the len of it.", "The second crate.", "It has two sentences."]);
    assert_eq!(documents[0].domain, "documentation");
}

#[test]
fn what_is_not_there_is_said_with_a_hint() {
    let fixture = Fixture::new();
    let open = |path: &Path, format| open_corpus(&CorpusConfig::new("x", path, format)).err().unwrap();
    let error = open(&fixture.path().join("none.txt"), Format::Text);
    assert!(error.to_string().starts_with("corpus \"x\": there is no "), "{error}");
    let error = open(fixture.path(), Format::Jsonl);
    assert!(error.hint().unwrap().contains("rustdoc") && error.to_string().contains("*.jsonl"), "{error}");
    let empty = fixture.write("empty.txt", "\n\n");
    let error =
        open_corpus(&CorpusConfig::new("x", &empty, Format::Text)).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(error, Error::EmptyCorpus { rows: 2, empty: 2, .. }), "{error}");
    let error = open(&empty, Format::Tsv);
    assert!(error.to_string().starts_with("corpus.x.columns = []"), "{error}");
}

#[test]
fn a_list_of_paths_is_read_in_its_order_and_each_file_once() {
    let fixture = Fixture::new();
    let (a, b) = (fixture.write("a.txt", "a\n"), fixture.write("b.txt", "b\n"));
    let paths = Paths::Many(vec![b, fixture.path().join("*.txt"), a]);
    let config = CorpusConfig { path: paths, ..CorpusConfig::new("t", "", Format::Text) };
    assert_eq!(texts(&read(&config).0), ["b", "a"]);
}

#[test]
fn unknown_keys_are_refused() {
    let json =
        r#"{"name": "a", "path": "b", "format": "tsv", "columns": [0, "x"], "group_by": {"lines": 5}}"#;
    let config: CorpusConfig = serde_json::from_str(json).unwrap();
    assert_eq!(config.columns, [Column::Number(0), column("x")]);
    assert_eq!(config.group_by, Some(GroupBy::Lines(5)));
    let again: CorpusConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(serde_json::from_str::<CorpusConfig>(&json.replace("columns", "colums")).is_err());
}

const FORMATS: [Format; 11] = [
    Format::Text,
    Format::Tsv,
    Format::Csv,
    Format::Jsonl,
    Format::Json,
    Format::Sts,
    Format::Beir,
    Format::Trec,
    Format::Smart,
    Format::Arxiv,
    Format::Rustdoc,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes: no reader panics, loops for ever, or gives a document without text.
    #[test]
    fn readers_survive_any_bytes(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..12),
            prop::sample::select(vec![
                "\n", "\t", "\"", ",", "[", "]", "{\"text\": \"", "\"}", "<doc>", "</doc>", "<top>", "<docno>1</docno>",
                "<text>", ".I 1\n", ".W\n", "/// ", "/**", "*/", "5.0\ta\tb\n", "abstract\ttitle\n", "é", "```", "\r",
            ]).prop_map(|piece| piece.as_bytes().to_vec()),
        ], 0..40),
    ) {
        let fixture = Fixture::new();
        let bytes = pieces.concat();
        let path = fixture.write("any", &bytes);
        for format in FORMATS {
            for paragraphs in [false, true] {
                let mut config = CorpusConfig::new("any", &path, format);
                config.paragraphs = paragraphs && format == Format::Text;
                config.max_line_bytes = 64;
                if matches!(format, Format::Tsv | Format::Csv) {
                    config.columns = vec![Column::Number(0)];
                }
                let documents: Vec<_> = open_corpus(&config).unwrap().take(10 * bytes.len() + 10).collect();
                prop_assert!(documents.len() < 10 * bytes.len() + 10);
                for document in documents.into_iter().flatten() {
                    prop_assert!(!document.text.trim().is_empty());
                    prop_assert!(document.origin.line >= 1);
                }
            }
        }
    }
}
