//! Which rows of a corpus are taken, and which belong together.

use super::*;

/// A corpus of the files that are given as (name, content).
fn corpus(format: Format, files: &[(&str, String)]) -> (tempfile::TempDir, CorpusConfig) {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs_err::write(folder.path().join(name), content).unwrap();
    }
    let config = CorpusConfig::new("c", folder.path(), format);
    (folder, config)
}

fn read(config: &CorpusConfig) -> Vec<Document> {
    open_corpus(config).unwrap().map(Result::unwrap).collect()
}

/// `count` elements of a JSON array, the one of number `broken` (from 0) being none.
fn elements(what: &str, count: usize, broken: Option<usize>) -> Vec<String> {
    let element = |number| match broken == Some(number) {
        true => "{broken}".to_owned(),
        false => format!("{{\"text\": \"{what} {number}\", \"title\": \"of {what} {number}\"}}"),
    };
    (0..count).map(element).collect()
}

/// All of them on one line.
fn array(what: &str, count: usize, broken: Option<usize>) -> String {
    format!("[{}]\n", elements(what, count, broken).join(", "))
}

#[test]
fn elements_of_an_array_are_rows_by_themselves_though_they_stand_in_one_line() {
    let lines = format!("[\n{}\n]\n", elements("b", 3, None).join(",\n"));
    let files = [("a.json", array("a", 4, None)), ("b.json", lines)];
    let (_folder, mut config) = corpus(Format::Json, &files);
    config.columns = ["text", "title"].map(|name| Column::Name(name.into())).into();
    let documents = read(&config);
    let groups: Vec<String> = documents.iter().filter_map(|document| document.group.clone()).collect();
    assert_eq!((documents.len(), groups.len()), (14, 14));
    // text and title of an element go together, and nothing else does
    assert!(groups.chunks(2).all(|pair| pair[0] == pair[1]));
    let names: Vec<&str> = groups.iter().step_by(2).map(String::as_str).collect();
    // where an element has a line of its own, the name is that of older versions: the split stays
    let wanted = ["a.json:1", "a.json:1.2", "a.json:1.3", "a.json:1.4", "b.json:2", "b.json:3", "b.json:4"];
    assert_eq!(names, wanted.map(|name| format!("c/{name}")));

    config.group_by = Some(GroupBy::Lines(2));
    let documents = read(&config);
    let groups: Vec<_> = documents.iter().step_by(2).map(|document| document.group.as_deref()).collect();
    let wanted = ["a.json/0", "a.json/0", "a.json/1", "a.json/1", "b.json/0", "b.json/0", "b.json/1"];
    let wanted = wanted.map(|name| format!("c/{name}"));
    assert_eq!(groups, wanted.each_ref().map(|name| Some(name.as_str())));
}

#[test]
fn what_a_share_takes_of_a_file_depends_on_no_other_file_and_no_damage() {
    let texts = |documents: &[Document], what: &str| -> Vec<String> {
        let texts = documents.iter().map(|document| document.text.clone());
        texts.filter(|text| text.starts_with(what)).collect()
    };
    let taken = |files: &[(&str, String)], what: &str| {
        let (_folder, config) = corpus(Format::Json, files);
        texts(&read(&CorpusConfig { share: Some(0.3), ..config }), what)
    };
    let second = ("b.json", array("b", 200, None));
    let alone = taken(std::slice::from_ref(&second), "b");
    assert!((30..90).contains(&alone.len()), "{}", alone.len());
    let behind = |count, broken| taken(&[("a.json", array("a", count, broken)), second.clone()], "b");
    assert_eq!(behind(7, None), alone);
    assert_eq!(behind(7, Some(3)), alone);

    let damaged = taken(&[("b.json", array("b", 200, Some(5)))], "b");
    let sound: Vec<String> = alone.into_iter().filter(|text| text != "b 5").collect();
    assert_eq!(damaged, sound);
}

#[test]
fn a_share_that_takes_nothing_is_to_blame() {
    let lines: String = (0..12).map(|number| format!("line {number}\n")).collect();
    let (_folder, config) = corpus(Format::Text, &[("a.txt", lines)]);
    let config = CorpusConfig { share: Some(1e-9), ..config };
    let error = open_corpus(&config).unwrap().find_map(Result::err).unwrap();
    assert!(matches!(error, Error::EmptyCorpus { met: 12, rows: 0, .. }), "{error}");
    assert!(error.to_string().contains("0 rows read of 12, by share = 0.000000001"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("`share`")), "{error}");
    let whole = CorpusConfig { share: None, ..config };
    assert_eq!(read(&whole).len(), 12);
}
