//! Curation from documents to verdicts, and the properties that pairs rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use data::corpus::Format;
use data::curation::{
    Exclusion, Filter, NearDuplicatesConfig, TooLong, Whitespace, fingerprint, normal_form, normalize,
    split_key,
};
use data::{
    CorpusConfig, Curated, CurationConfig, Curator, Document, Drops, Origin, Split, SplitConfig, Verdict,
    open_corpus, split_of,
};
use proptest::prelude::*;

fn document(text: &str) -> Document {
    let origin = Origin { file: Path::new("f").into(), line: 1 };
    Document { text: text.into(), source: "s".into(), domain: "d".into(), group: None, origin }
}

/// A token a word and two special ones.
fn count(text: &str) -> data::Result<usize> {
    Ok(text.split_whitespace().count() + 2)
}

fn curator(config: &CurationConfig, max_tokens: usize, exclusion: Exclusion) -> Curator<'static> {
    Curator::new(config, max_tokens, exclusion, Box::new(count)).unwrap()
}

fn keep(verdict: Verdict) -> Curated {
    match verdict {
        Verdict::Keep(curated) => curated,
        Verdict::Drop(filter) => panic!("dropped by {}", filter.name()),
    }
}

#[test]
fn each_filter_drops_what_it_says() {
    let config = CurationConfig { max_words: Some(20), min_tokens: 6, ..CurationConfig::default() };
    let mut exclusion = Exclusion::default();
    exclusion.add("This stands in a test set.");
    let curator = curator(&config, 12, exclusion);
    for (text, filter) in [
        (" \n\u{feff}", Filter::Empty),
        ("one two", Filter::MinWords),
        (&"many words ".repeat(11), Filter::MaxWords),
        ("( 1 + 2 ) * 3 = 9", Filter::Letters),
        ("THIS stands, in a test set!", Filter::Excluded),
        ("only three words", Filter::MinTokens),
        ("this text has eleven words and so is one too long", Filter::MaxTokens),
    ] {
        assert_eq!(curator.examine(&document(text)).unwrap(), Verdict::Drop(filter), "{text}");
    }
    let kept = keep(curator.examine(&document("  A text\twith  five words ")).unwrap());
    assert_eq!((kept.document.text.as_str(), kept.tokens, kept.cut), ("A text with five words", 7, false));
    assert_eq!(kept.key, fingerprint("a text, with FIVE words"));
    assert!(kept.bands.is_empty());
}

#[test]
fn a_curator_is_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&curator(&CurationConfig::default(), 10, Exclusion::default()));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let fails = |config: CurationConfig| {
        Curator::new(&config, 10, Exclusion::default(), Box::new(count)).err().unwrap().to_string()
    };
    let default = CurationConfig::default;
    assert!(
        fails(CurationConfig { min_letters: 1.5, ..default() }).starts_with("curation.min_letters = 1.5")
    );
    assert!(fails(CurationConfig { max_words: Some(1), ..default() }).starts_with("curation.max_words = 1"));
    let near = NearDuplicatesConfig { threshold: 1.0, ..NearDuplicatesConfig::default() };
    let message = fails(CurationConfig { near_duplicates: Some(near), ..default() });
    assert!(message.starts_with("curation.near_duplicates.threshold = 1"), "{message}");
    assert!(serde_json::from_str::<CurationConfig>(r#"{"min_word": 3}"#).is_err());
}

#[test]
fn evaluation_files_are_excluded_whatever_their_format() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("b.csv", "\"A plane, a big one\",A jet is here.,4.5\n"),
        ("lines.txt.tsv", "source\tA field of a table\n"),
        ("a.jsonl", "{\"x\": {\"y\": [\"A string within lists\"]}}\n"),
        ("d.xml", "<doc><docno>1</docno><title>A title</title><text>and\na text</text></doc>"),
        ("x.ALL", ".I 1\n.W\nA smart\ntext\n"),
        ("empty.txt", ""),
    ] {
        fs_err::write(folder.path().join(name), content).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    fs_err::write(elsewhere.path().join("l.txt"), "A line behind a link\n").unwrap();
    std::os::unix::fs::symlink(elsewhere.path().join("l.txt"), folder.path().join("link.txt")).unwrap();
    let exclusion = Exclusion::read(&[folder.path().to_owned()]).unwrap();
    for text in [
        "a line behind a link",
        "a plane a big one",
        "A jet is here",
        "a field of a table",
        "a string within lists",
        "and a text",
        "A title and a text",
        "a smart text",
    ] {
        assert!(exclusion.contains(fingerprint(text)), "{text}");
    }
    assert!(!exclusion.contains(fingerprint("a text of nobody")));
    assert!(Exclusion::read(&[folder.path().join("none")]).is_err());
    let error = Exclusion::read(&[folder.path().join("empty.txt")]).unwrap_err();
    assert!(error.to_string().contains("no text to exclude"), "{error}");
}

#[test]
fn what_is_excluded_is_written_as_what_is_examined() {
    let mut exclusion = Exclusion::default();
    exclusion.add("The co\u{ad}operative met at the sta\u{200b}tion.");
    exclusion.add("\u{ad}\u{200b} ");
    assert_eq!(exclusion.len(), 1);
    let curator = curator(&CurationConfig::default(), 20, exclusion);
    for text in ["The co\u{ad}operative met at the sta\u{200b}tion.", "The cooperative met at the station!"] {
        assert_eq!(curator.examine(&document(text)).unwrap(), Verdict::Drop(Filter::Excluded), "{text}");
    }
}

#[test]
fn a_list_that_begins_like_something_else_is_a_list() {
    let excludes = |name: &str, content: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join(name), content).unwrap();
        Exclusion::read(&[folder.path().to_owned()])
    };
    for (first, second) in [
        // a tag of no collection; what looks like a row of STS-B, of SemEval; the beginnings of JSON
        ("<unk> stands for a word.", "Another line of the list."),
        ("He bought apples, pears, and, as always, 3", "Another line of the list."),
        ("3\tpears\tfor me", "Another line of the list."),
        ("[Music] plays in the hall.", "Another line of the list."),
        ("[1] A first footnote.", "[2] A second one."),
        ("{He} is a pronoun.", "Another line of the list."),
        ("<a href> is a tag, and this line is alone.", ""),
        ("He bought apples, pears, 3", ""),
    ] {
        let exclusion = excludes("list.txt", &format!("{first}\n{second}\n")).unwrap();
        for text in [first, second].into_iter().filter(|text| !text.is_empty()) {
            assert!(exclusion.contains(fingerprint(text)), "{text:?} behind {first:?}");
        }
    }
    // JSON over lines as it likes
    let exclusion = excludes("a.json", "{\n  \"text\": \"A text within.\",\n  \"n\": 1\n}\n").unwrap();
    assert!(exclusion.contains(fingerprint("a text within")) && exclusion.len() == 1);
    assert!(excludes("a.json", "{\"n\": [1, 2]}\n").is_err(), "there is no text in it");
}

#[test]
fn a_file_that_is_mostly_sound_is_refused_with_what_it_was_taken_for() {
    for (name, content, wanted) in [
        ("a.tsv", "1.0\tA b\tC d\n2.0\tE f\tG h\n9.5\tI j\tK l\n", ["line 3", "scored sentence pairs"]),
        ("a.jsonl", "{\"a\": \"b\"}\n{\"a\": \"c\"}\n{\"a\": \n", ["line 3", "JSON"]),
        ("cut.json", "[\"one text\", \"another\", \"and", ["line 1", "JSON"]),
        (
            "a.xml",
            "<doc><docno>1</docno><text>x y</text></doc>\n<doc><docno>2</docno><text>z</text></doc>\n<doc>\n",
            ["line 3", "TREC"],
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs_err::write(&path, content).unwrap();
        let error = Exclusion::read(&[path]).unwrap_err().to_string();
        assert!(wanted.iter().all(|wanted| error.contains(wanted)) && error.contains(name), "{error}");
    }
}

#[test]
fn near_duplicates_share_a_band() {
    let config = CurationConfig {
        near_duplicates: Some(NearDuplicatesConfig::default()),
        ..CurationConfig::default()
    };
    let curator = curator(&config, 100, Exclusion::default());
    let bands = |text: &str| keep(curator.examine(&document(text)).unwrap()).bands;
    let text = "A group of people stand in the back of a truck filled with cotton on a long and dusty road in summer";
    let (one, near, far) =
        (bands(text), bands(&format!("{text}s.")), bands("A boy hits a tennis ball with his racquet."));
    assert!(one.iter().any(|band| near.contains(band)));
    assert!(!one.iter().any(|band| far.contains(band)));
}

#[test]
fn splits_have_their_shares_and_keep_groups() {
    let config = SplitConfig { dev: 0.1, test: 0.2, seed: 7 };
    let mut counts = [0usize; 3];
    for i in 0..20_000 {
        counts[split_of(&format!("text {i}"), &config) as usize] += 1;
    }
    // four standard deviations
    for (count, share) in counts.iter().zip([0.7, 0.1, 0.2]) {
        let deviation = (20_000.0 * share * (1.0f64 - share)).sqrt();
        assert!((*count as f64 - 20_000.0 * share).abs() < 4.0 * deviation, "{counts:?}");
    }
    let other = SplitConfig { seed: 8, ..config };
    assert!((0..100).any(|i| split_of(&i.to_string(), &config) != split_of(&i.to_string(), &other)));
    assert_eq!(split_of("x", &SplitConfig { dev: 1.0, test: 0.0, seed: 0 }), Split::Dev);
    let (a, b) = (document("A man."), document("a MAN"));
    assert_eq!(split_key(&a), split_key(&b));
    let of_group = |text| Document { group: Some("g".into()), ..document(text) };
    assert_eq!(split_key(&of_group("x")), split_key(&of_group("y")));
    assert!(SplitConfig { dev: 0.6, test: 0.6, seed: 0 }.validate().is_err());
    assert_eq!("dev".parse::<Split>().unwrap(), Split::Dev);
}

/// The split of a text must never change between versions: dev texts would be trained on.
#[test]
fn the_split_is_the_same_for_ever() {
    let config = SplitConfig { dev: 0.25, test: 0.25, seed: 1 };
    let expected = |key: &str| {
        let hash = blake3::hash(&[&1u64.to_le_bytes(), key.as_bytes()].concat());
        let at = u64::from_be_bytes(hash.as_bytes()[..8].try_into().unwrap()) as f64 / 2f64.powi(64);
        if at < 0.25 {
            Split::Dev
        } else if at < 0.5 {
            Split::Test
        } else {
            Split::Train
        }
    };
    for i in 0..50 {
        let key = format!("text:{i}");
        assert_eq!(split_of(&key, &config), expected(&key));
    }
}

#[test]
fn a_corpus_is_curated_with_every_drop_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    fs_err::write(
        &path,
        "A man plays the flute.\nA man plays the flute\nno\nAll rights reserved by him.\nA dog runs home.\n",
    )
    .unwrap();
    let config = CurationConfig::default();
    let curator = curator(&config, 20, Exclusion::default());
    let mut drops = Drops::new(&config);
    let (mut seen, mut kept) = (std::collections::HashSet::new(), Vec::new());
    for document in open_corpus(&CorpusConfig::new("a", path, Format::Text)).unwrap() {
        let document = document.unwrap();
        match curator.examine(&document).unwrap() {
            Verdict::Drop(filter) => drops.add(filter, &document.text),
            Verdict::Keep(curated) if !seen.insert(curated.key) => {
                drops.add(Filter::Duplicate, &document.text)
            }
            Verdict::Keep(curated) => kept.push(curated.document.text),
        }
    }
    assert_eq!(kept, ["A man plays the flute.", "A dog runs home."]);
    assert_eq!(drops.to_string(), "min_words 1, boilerplate 1, duplicate 1");
    assert_eq!(drops.examples(Filter::Boilerplate), ["All rights reserved by him."]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn normalising_twice_is_normalising_once(text in "[\\PC\\s\u{300}-\u{36f}\u{1100}-\u{11ff}\u{200b}]{0,40}") {
        for whitespace in [Whitespace::Collapse, Whitespace::KeepLines] {
            let once = normalize(&text, whitespace);
            prop_assert!(unicode_normalization::is_nfc(&once));
            prop_assert_eq!(normalize(&once, whitespace), once.clone());
            prop_assert_eq!(fingerprint(&once), fingerprint(&once.to_ascii_uppercase()));
        }
    }

    #[test]
    fn the_normal_form_is_its_own(text in "\\PC{0,40}") {
        let form = normal_form(&text);
        prop_assert_eq!(normal_form(&form), form);
    }

    /// What is cut fits, ends at a word's end, and is a beginning of the text.
    #[test]
    fn cut_texts_fit(words in prop::collection::vec("[a-zé]{1,9}", 3..60), max in 5usize..30) {
        let config = CurationConfig {
            too_long: TooLong::Cut,
            max_repeated_words: 1.0,
            max_repeated_characters: 99,
            ..CurationConfig::default()
        };
        // a token for every four bytes of a word: cutting has to count
        let count = |text: &str| Ok(text.split_whitespace().map(|word| word.len().div_ceil(4)).sum::<usize>() + 2);
        let curator = Curator::new(&config, max, Exclusion::default(), Box::new(count)).unwrap();
        let text = words.join(" ");
        match curator.examine(&document(&text)).unwrap() {
            Verdict::Drop(filter) => prop_assert_eq!(filter, Filter::MaxTokens),
            Verdict::Keep(kept) => {
                let left = kept.document.text;
                prop_assert!(kept.tokens <= max && count(&left).unwrap() == kept.tokens);
                prop_assert_eq!(kept.cut, left.len() < text.len());
                let beginning = text == left || text.starts_with(&(left.clone() + " "));
                prop_assert!(beginning);
                if kept.cut {
                    let next = left.split_whitespace().count() + 1;
                    prop_assert!(count(&words[..next].join(" ")).unwrap() > max, "one word more would fit");
                }
                prop_assert_eq!(kept.key, fingerprint(&left));
            }
        }
    }
}
