//! The round trip with an encoder and a decoder that are no networks: what is measured, refused and written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::result_large_err, non_snake_case)]

use std::collections::BTreeSet;

use eval::result::{DecoderRecord, SCHEMA};
use eval::{Error, Invert, RoundTrip, RoundTripOptions, round_trip, round_trip_vectors, table};
use models::generate::GenerateOptions;
use models::inverter::Inverted;
use models::{Embed, Pooling, Prompt, Space};
use serde_json::Value;
use tch::Tensor;
use tokenizers::Tokenizer;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;

const DIM: usize = 16;

fn space(digest: &str) -> Space {
    Space {
        encoder: "letters".to_owned(),
        revision: None,
        weights_digest: format!("blake3:{digest}"),
        prompt: Prompt { name: "none".to_owned(), text: String::new() },
        other_prompts: vec![],
        special_tokens: None,
        attention: models::space::Attention::Bidirectional,
        pooling: Pooling::Mean,
        dense: None,
        dim: DIM,
        normalize: false,
        max_tokens: 10,
    }
}

/// Counts letters: the vector of a text says how often each letter stands in it.
struct Letters {
    space: Space,
    tokenizer: Tokenizer,
}

impl Letters {
    fn new() -> Letters {
        let vocabulary = [("[UNK]".to_owned(), 0)];
        let words =
            WordLevel::builder().vocab(vocabulary.into()).unk_token("[UNK]".to_owned()).build().unwrap();
        let mut tokenizer = Tokenizer::new(words);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        Letters { space: space("letters"), tokenizer }
    }

    fn under(name: &str) -> Letters {
        let prompt = Prompt { name: name.to_owned(), text: format!("{name} zzzz: ") };
        Letters { space: Space { prompt, max_tokens: 64, ..space("letters") }, ..Letters::new() }
    }
}

impl Embed for Letters {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn count_tokens(&self, text: &str) -> models::Result<usize> {
        Ok(self.tokenizer.encode_fast(text, true).unwrap().len() + 2)
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        let mut numbers = vec![0.0f32; texts.len() * DIM];
        for (text, row) in texts.iter().zip(numbers.chunks_exact_mut(DIM)) {
            row[0] = 1.0;
            self.space
                .prompt
                .text
                .bytes()
                .chain(text.bytes())
                .for_each(|byte| row[usize::from(byte) % DIM] += 1.0);
        }
        Ok(Tensor::from_slice(&numbers).view([texts.len() as i64, DIM as i64]))
    }
}

/// Knows some texts by heart, and answers with the one whose vector is nearest.
struct Memory {
    space: Space,
    texts: Vec<String>,
    vectors_ND: Tensor,
}

impl Memory {
    fn of(texts: &[&str]) -> Memory {
        let vectors_ND = Letters::new().embed(texts).unwrap();
        Memory {
            space: space("letters"),
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            vectors_ND,
        }
    }
}

impl Invert for Memory {
    fn space(&self) -> &Space {
        &self.space
    }

    fn invert(&self, v_ND: &Tensor, _: u64, _: &GenerateOptions) -> models::Result<Vec<Inverted>> {
        let nearest =
            (v_ND.unsqueeze(1) - self.vectors_ND.unsqueeze(0)).square().sum_dim_intlist(-1, false, None);
        let nearest = Vec::<i64>::try_from(&nearest.argmin(1, false)).unwrap();
        let inverted = |at: i64| Inverted {
            text: self.texts[at as usize].clone(),
            log_prob: Some(-1.5),
            tokens: 3,
            finished: at != 0,
            encodings: 0,
            course: Vec::new(),
        };
        Ok(nearest.into_iter().map(inverted).collect())
    }

    fn record(&self) -> DecoderRecord {
        DecoderRecord {
            kind: "export".to_owned(),
            path: "memory".into(),
            step: Some(7),
            device: "cpu".to_owned(),
            max_tokens: 64,
        }
    }

    fn dtype(&self) -> String {
        "f32".to_owned()
    }
}

const TEXTS: [&str; 4] = [
    "a man plays the guitar",
    "two dogs run",
    "stock prices fell sharply on monday after the bank of england spoke",
    "a cat",
];

fn texts() -> Vec<String> {
    TEXTS.map(str::to_owned).to_vec()
}

fn options() -> RoundTripOptions {
    RoundTripOptions { samples: 2, bootstrap: 50, ..RoundTripOptions::default() }
}

fn measure(memory: &Memory, options: &RoundTripOptions) -> RoundTrip {
    measure_texts(memory, &texts(), options)
}

fn measure_texts(memory: &Memory, texts: &[String], options: &RoundTripOptions) -> RoundTrip {
    let domains = ["x", "y", "x", "y"].map(str::to_owned);
    round_trip(memory, &Letters::new(), texts, Some(&domains), options, &mut |_, _, _| {}).unwrap()
}

#[test]
fn a_perfect_decoder_is_perfect() {
    let result = measure(&Memory::of(&TEXTS), &options());
    let scores = &result.summary;
    assert_eq!((scores.n, scores.exact_match, scores.length_ratio), (4, 1.0, 1.0));
    assert!((scores.bleu - 100.0).abs() < 1e-9 && (scores.cosine.unwrap() - 1.0).abs() < 1e-9);
    let counts =
        |list: &[eval::result::Bucket]| list.iter().map(|b| (b.name.clone(), b.scores.n)).collect::<Vec<_>>();
    assert_eq!(counts(&result.buckets.length), [("<=8".to_owned(), 3), ("<=16".to_owned(), 1)]);
    assert_eq!(counts(&result.buckets.domain), [("x".to_owned(), 2), ("y".to_owned(), 2)]);
    // the third text has 12 words and two special tokens, of which the encoder reads 10
    assert_eq!(
        result.rows.iter().map(|row| (row.tokens, row.truncated)).collect::<Vec<_>>(),
        [(5, false), (3, false), (12, true), (2, false)]
    );
    assert_eq!((result.settings.truncated, result.settings.unfinished, result.settings.trial), (1, 1, false));
    assert_eq!(result.samples.best[0].index, 2, "among equals the longest text comes first");
}

#[test]
fn a_forgetful_decoder_is_not() {
    let result = measure(&Memory::of(&TEXTS[..2]), &options());
    assert_eq!(result.summary.exact_match, 0.5);
    assert!(result.summary.cosine.unwrap() < 0.999);
    assert!(result.samples.worst.iter().all(|row| !row.exact_match));
    let worst = &result.samples.worst[0];
    let encoder = Letters::new();
    let vectors = encoder.embed(&[&worst.reference, &worst.hypothesis]).unwrap();
    let cosine = eval::cosines(&vectors.narrow(0, 0, 1), &vectors.narrow(0, 1, 1)).unwrap()[0];
    assert!((worst.cosine.unwrap() - cosine).abs() < 1e-9);
}

#[test]
fn the_batch_does_not_count() {
    let memory = Memory::of(&TEXTS[..3]);
    let with = |batch| {
        let generate = GenerateOptions { batch, ..GenerateOptions::default() };
        let result = measure(&memory, &RoundTripOptions { generate, ..options() });
        (result.summary, result.buckets, result.samples, result.rows)
    };
    assert_eq!(with(1), with(64));
}

#[test]
fn a_pair_set_is_measured_under_one_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let (who, what) = (["man", "girl", "dog", "cat"], ["house", "river", "garden", "station", "table"]);
    let texts: Vec<String> =
        (0..20).map(|i| format!("The {} is near the {}.", who[i % 4], what[i % 5])).collect();
    fs_err::write(folder.path().join("texts.txt"), texts.join("\n")).unwrap();
    let mut config: data::pairs::BuildConfig = serde_json::from_value(serde_json::json!({
        "corpora": [{"name": "a", "path": folder.path().join("texts.txt"), "format": "text"}],
        "split": {"dev": 0.0, "test": 0.5}
    }))
    .unwrap();
    config.dir = folder.path().join("pairs");
    let (s2p, s2s, web) = (Letters::under("s2p"), Letters::under("s2s"), Letters::under("web"));
    data::pairs::build(&config, &[&s2p, &s2s], &mut |_| {}).unwrap();
    let pairs = data::pairs::PairSet::open(&config.dir).unwrap();

    // a decoder that reads three prompts, and knows the texts by their vectors under one
    let space = Space::union(&[&s2s.space, &s2p.space, &web.space]).unwrap().unwrap();
    let all: Vec<&str> = texts.iter().map(String::as_str).collect();
    let memory = Memory { space, texts: texts.clone(), vectors_ND: s2s.embed(&all).unwrap() };
    let measure = |encoder: &Letters| {
        let split = data::Split::Test;
        eval::round_trip_pairs(&memory, encoder, &pairs, split, &options(), &mut |_, _, _| {})
    };
    let result = measure(&s2s).unwrap();
    let rows = pairs.indices(data::Split::Test).unwrap();
    assert_eq!((result.rows.len(), result.settings.available), (rows.len() / 2, rows.len() / 2));
    assert!(result.rows.iter().all(|row| pairs.prompt(row.index) == "s2s"));
    assert_eq!((result.settings.prompt.as_str(), result.summary.exact_match), ("s2s", 1.0));
    assert!(result.summary.cosine.unwrap() > 1.0 - 1e-6, "encoded again under the same prompt");
    assert!(table(&result).contains("prompt s2s"));
    let other = measure(&s2p).unwrap();
    assert_eq!((other.settings.prompt.as_str(), other.rows.len()), ("s2p", rows.len() / 2));
    assert!(other.rows.iter().all(|row| pairs.prompt(row.index) == "s2p"));

    let error = measure(&web).unwrap_err();
    assert!(error.to_string().contains("\"web\" (it has: s2p, s2s)") && error.hint().is_some(), "{error}");
    let error = measure(&Letters::under("none")).unwrap_err();
    assert!(matches!(error, Error::Models(models::Error::SpaceMismatch { .. })), "{error}");
}

#[test]
fn a_limit_makes_a_trial() {
    let result = measure(&Memory::of(&TEXTS), &RoundTripOptions { limit: Some(3), ..options() });
    assert_eq!((result.summary.n, result.settings.trial, result.settings.available), (3, true, 4));
    assert!(table(&result).contains("TRIAL"));
    let whole = measure(&Memory::of(&TEXTS), &RoundTripOptions { limit: Some(9), ..options() });
    assert!(!whole.settings.trial && !table(&whole).contains("TRIAL"));
}

#[test]
fn progress_reaches_the_end_of_every_stage() {
    let mut told = Vec::new();
    let generate = GenerateOptions { batch: 3, ..GenerateOptions::default() };
    let options = RoundTripOptions { generate, ..options() };
    let mut tell = |stage: &str, done: usize, _: usize| told.push((stage.to_owned(), done));
    round_trip(&Memory::of(&TEXTS), &Letters::new(), &texts(), None, &options, &mut tell).unwrap();
    for stage in ["encode", "invert", "reencode", "score"] {
        assert_eq!(told.iter().rfind(|(at, _)| at == stage).unwrap().1, 4);
    }
    assert!(told.contains(&("invert".to_owned(), 3)));
}

#[test]
fn what_does_not_fit_is_refused() {
    let (memory, encoder, options) = (Memory::of(&TEXTS), Letters::new(), options());
    let stranger = Letters { space: space("stranger"), ..Letters::new() };
    let error = round_trip(&memory, &stranger, &texts(), None, &options, &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::Models(models::Error::SpaceMismatch { .. })), "{error}");
    assert!(error.hint().is_some());

    let error = round_trip(&memory, &encoder, &[], None, &options, &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::NoTexts { .. }), "{error}");
    let one = ["x".to_owned()];
    let error = round_trip(&memory, &encoder, &texts(), Some(&one), &options, &mut |_, _, _| {}).unwrap_err();
    assert!(matches!(error, Error::Unequal { got: 1, want: 4, .. }), "{error}");

    let vectors = |v_ND: &Tensor| {
        round_trip_vectors(&memory, &encoder, v_ND, &texts(), None, &options, &mut |_, _, _| {})
    };
    let v_ND = encoder.embed(&TEXTS).unwrap();
    assert_eq!(vectors(&v_ND).unwrap().summary.exact_match, 1.0);
    assert!(matches!(vectors(&v_ND.narrow(0, 0, 3)), Err(Error::Shape { .. })));
    assert!(matches!(vectors(&v_ND.narrow(1, 0, 8)), Err(Error::Shape { .. })));
    let _ = v_ND.get(2).get(1).fill_(f64::NAN);
    assert!(matches!(vectors(&v_ND), Err(Error::NonFinite { row: 2, .. })));
}

/// The keys of a value, as `docs/eval-schema.md` writes them.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map)
            if !["space", "versions", "intervals", "facts"].iter().any(|end| path.ends_with(end)) =>
        {
            for (key, value) in map {
                keys(value, &format!("{path}.{key}"), found);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            found.insert(format!("{path}[]"));
            keys(&list[0], &format!("{path}[]"), found);
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

/// The keys in the first column of the table below a heading of the document.
fn documented(heading: &str) -> BTreeSet<String> {
    let document = include_str!("../../docs/eval-schema.md");
    let section = document.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    cells.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn the_schema_is_as_documented() {
    // each text has facts of every kind, so that no score is left undefined
    let facts = TEXTS.map(|text| format!("{text} and Anna is not 7"));
    let borrowed = facts.each_ref().map(String::as_str);
    let result = measure_texts(&Memory::of(&borrowed), &facts, &options());
    let json = serde_json::to_value(&result).unwrap();
    assert_eq!(json["schema"], SCHEMA);
    let (scores, rows) = (documented("Scores"), documented("Rows"));
    let mut expected = documented("The object");
    expected.extend(scores.iter().cloned());
    for bucket in ["length", "domain"] {
        expected.extend(scores.iter().map(|key| format!("buckets.{bucket}[].{key}")));
    }
    for kind in ["best", "worst", "random"] {
        expected.extend(rows.iter().map(|key| format!("samples.{kind}[].{key}")));
    }
    let mut found = BTreeSet::new();
    for (key, value) in json.as_object().unwrap() {
        keys(value, key, &mut found);
    }
    assert_eq!(found, expected);
    assert!(expected.len() > 100 && rows.len() == 19);
    for metric in eval::Metric::ALL {
        assert!(json[metric.name()].is_number(), "{metric}");
        assert_eq!(json["intervals"][metric.name()].as_array().unwrap().len(), 2);
    }
    // each text has one number and denies once, and has two capitals within
    let count = facts.len();
    assert_eq!(
        (&json["facts"]["number_recall"], &json["facts"]["negation_recall"]),
        (&count.into(), &count.into())
    );
    assert!(json["facts"]["name_recall"].as_u64().unwrap() >= count as u64);
    let golden: Value = serde_json::from_str(include_str!("golden/metrics.json")).unwrap();
    for program in ["sacrebleu", "rouge-score", "nltk", "jiwer"] {
        assert_eq!(json["settings"]["versions"][format!("metrics: {program}")], golden["versions"][program]);
    }

    let mut back: RoundTrip = serde_json::from_value(json).unwrap();
    assert!(back.rows.is_empty());
    back.rows.clone_from(&result.rows);
    assert_eq!(back, result);
}

#[test]
fn rows_are_written_whole_or_not_at_all() {
    let result = measure(&Memory::of(&TEXTS), &options());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    result.write_rows(&path).unwrap();
    let text = fs_err::read_to_string(&path).unwrap();
    let rows: Vec<eval::Row> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows, result.rows);
    let keys: BTreeSet<String> = serde_json::from_str::<serde_json::Map<_, _>>(text.lines().next().unwrap())
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(keys, documented("Rows"));
    assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1, "nothing temporary stays");

    let error = result.write_rows(&folder.path().join("missing/rows.jsonl")).unwrap_err();
    assert!(error.to_string().contains("missing/rows.jsonl") && error.hint().is_some());
}

#[test]
fn the_table_shows_what_matters() {
    let text = table(&measure(&Memory::of(&TEXTS[..2]), &options()));
    for part in [
        "memory (export, step 7)",
        "letters, prompt none",
        "greedy",
        "exact_match ↑",
        "0.5000",
        "length_ratio →1",
        "<=16",
        "worst",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end() == line) && text.ends_with('\n'));
}
