//! A recipe of two prompts, from texts to an export: each vector is read back and judged under its own prompt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use support::small::{Small, encode};
use support::{files, inverse_stella, minilm_with_prompts, sentences, write_lines};

fn two() -> String {
    "encoder.prompts=[\"passage\", \"query\"]".to_owned()
}

fn json_lines(text: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(text).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The JSON object that a verb of ours prints about `decoder`.
fn json(verb: &str, decoder: &Path, encoder: &Path, arguments: &[&str]) -> Value {
    let mut command = inverse_stella();
    command.arg(verb).arg(decoder).arg("--encoder").arg(encoder).args(arguments).arg("--json");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn two_prompts_from_texts_to_an_export() {
    let models = tempfile::tempdir().unwrap();
    let Some(encoder) = minilm_with_prompts(models.path()) else { return };
    let small = Small::new(&encoder);
    let (pairs, run) = (small.path("pairs"), small.path("run"));
    let built = small.done(&["pairs", "build"], &[two()]);
    for part in ["1200 pairs in 12 shards", "f16, which costs a cosine of", "passage 600 · query 600"] {
        assert!(built.contains(part), "{part} is not in\n{built}");
    }
    let inspect = || {
        let mut command = inverse_stella();
        command.args(["pairs", "inspect"]).arg(&pairs);
        command
    };
    inspect()
        .assert()
        .success()
        .stdout(contains("prompt query \"Instruct: find").and(contains("costs a cosine")));
    let seen: Value = serde_json::from_slice(&inspect().arg("--json").output().unwrap().stdout).unwrap();
    assert_eq!(seen["counts"]["prompt"], serde_json::json!({"passage": 600, "query": 600}));
    assert_eq!(seen["space"]["prompt"]["text"], "passage: ");
    assert!(["passage", "query"].contains(&seen["samples"][0]["prompt"].as_str().unwrap()));
    inverse_stella().args(["pairs", "verify"]).arg(&pairs).assert().success();

    small.done(&["train"], &[two(), "training.max_steps=3".to_owned()]);
    let dev = json_lines(&fs_err::read(run.join("metrics.jsonl")).unwrap());
    let dev = dev.iter().rfind(|line| line["kind"] == "dev").unwrap();
    let texts = seen["counts"]["split"]["dev"].as_u64().unwrap() / 2;
    assert_eq!((&dev["round_trip"]["n"], &dev["n"]), (&texts.into(), &8.into()), "texts once, rows of both");

    let of = |prompt: &[&str]| {
        let split = ["--pairs", pairs.to_str().unwrap(), "--split", "dev", "--bootstrap", "0"];
        json("eval", &run, &encoder, &[&split, prompt].concat())
    };
    let (first, query) = (of(&[]), of(&["--prompt", "query"]));
    assert_eq!(
        (&first["settings"]["prompt"], &query["settings"]["prompt"]),
        (&"passage".into(), &"query".into())
    );
    assert_eq!((&first["n"], &query["n"]), (&texts.into(), &texts.into()));
    assert_ne!(first["cosine"], query["cosine"]);
    inverse_stella()
        .arg("eval")
        .arg(&run)
        .args(["--prompt", "web", "--pairs"])
        .arg(&pairs)
        .assert()
        .code(2)
        .stderr(contains("passage, query").and(contains("hint:")));

    let export = small.path("export");
    inverse_stella().arg("export").arg(&run).arg(&export).assert().success();
    let space = models::Space::read(&export.join("space.json")).unwrap();
    assert_eq!(space.prompts().map(|prompt| prompt.name.as_str()).collect::<Vec<_>>(), ["passage", "query"]);
    let card = fs_err::read_to_string(export.join("README.md")).unwrap();
    assert!(
        card.contains("| prompt | passage: `\"passage: \"` |") && card.contains("| prompt | query: `"),
        "{card}"
    );
    assert!(export.join("golden.json").exists());
    vectors_are_judged_under_their_own_prompt(&small, &encoder, &export);
}

#[test]
fn guesses_are_encoded_under_the_prompt_of_their_pair() {
    let models = tempfile::tempdir().unwrap();
    let Some(encoder) = minilm_with_prompts(models.path()) else { return };
    let small = Small::new(&encoder);
    small.done(&["pairs", "build"], &[two()]);
    let refining = [
        "training.max_steps=6",
        "refinement.share=0.5",
        "refinement.begin=0.3",
        "refinement.set_texts=40",
        "refinement.borrowed=40",
    ];
    let sets: Vec<String> = refining.into_iter().map(str::to_owned).chain([two()]).collect();
    small.done(&["train"], &sets);

    let pairs = data::pairs::PairSet::open(&small.path("pairs")).unwrap();
    let latest = fs_err::read_to_string(small.path("run/checkpoints/latest")).unwrap();
    let state = small.path("run/checkpoints").join(latest.trim()).join("state.json");
    let state: Value = serde_json::from_slice(&fs_err::read(state).unwrap()).unwrap();
    let record = serde_json::from_value(state["refinement"]["sets"][0]["shard"].clone()).unwrap();
    let storage = data::pairs::Storage::F16;
    let set =
        data::pairs::ShardFile::open(&small.path("run/hypotheses"), &record, pairs.space(), storage).unwrap();
    let known: BTreeSet<&str> = (0..pairs.len()).map(|row| pairs.text(row)).collect();
    let mut borrowed = 0;
    for prompt in ["passage", "query"] {
        let is_line = |row: usize| set.text(row).unwrap().lines().count() == 1;
        let rows = (0..set.len()).filter(|&row| set.prompt(row).unwrap() == prompt && is_line(row));
        let rows: Vec<usize> = rows.collect();
        assert!(rows.len() > 5, "{} of {} under {prompt}", rows.len(), set.len());
        let options = models::EncoderOptions { prompt: Some(prompt.to_owned()), ..Default::default() };
        let opened = models::Encoder::open(encoder.to_str().unwrap(), &options).unwrap();
        let texts: Vec<&str> = rows.iter().map(|&row| set.text(row).unwrap()).collect();
        let again = models::Embed::embed(&opened, &texts).unwrap();
        for (number, &row) in rows.iter().enumerate() {
            let pair: usize = set.source(row).unwrap().parse().unwrap();
            assert_eq!(pairs.prompt(pair), prompt);
            let text = set.text(row).unwrap();
            borrowed += usize::from(known.contains(text) && text != pairs.text(pair));
            let mut vector = vec![0f32; pairs.dim()];
            set.vector_into(row, &mut vector);
            let again = Vec::<f32>::try_from(again.get(number as i64)).unwrap();
            let cosine: f32 = vector.iter().zip(&again).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.999, "{cosine} {prompt} {:?}", set.text(row));
        }
    }
    // those that were borrowed beside the 40 guesses: half of them under each prompt
    assert!(set.len() > 75 && borrowed >= 35, "{borrowed} of {}", set.len());
}

/// `invert` knows the prompt from the space beside the vectors, `roundtrip` from its flag: the cosines are the same.
fn vectors_are_judged_under_their_own_prompt(small: &Small, encoder: &Path, decoder: &Path) {
    let (texts, vectors) = (small.path("few.txt"), small.path("few.npy"));
    write_lines(&texts, &sentences(5));
    encode(encoder, &texts, &vectors, &["--prompt", "query"]);
    let invert = |arguments: &[&str]| {
        let mut command = inverse_stella();
        command.arg("invert").arg(decoder).arg("--vectors").arg(&vectors).arg("--encoder").arg(encoder);
        command.arg("--json").args(arguments);
        command
    };
    let roundtrip = |prompt: &str| {
        let mut command = inverse_stella();
        command.arg("roundtrip").args(sentences(5)).args(["--prompt", prompt, "--json", "--decoder"]);
        json_lines(&command.arg(decoder).arg("--encoder").arg(encoder).output().unwrap().stdout)
    };
    let cosines =
        |lines: &[Value]| lines.iter().map(|line| line["cosine"].as_f64().unwrap()).collect::<Vec<_>>();
    let inverted = cosines(&json_lines(&invert(&[]).output().unwrap().stdout));
    let (query, passage) = (cosines(&roundtrip("query")), cosines(&roundtrip("passage")));
    assert_eq!((inverted.len(), query.len()), (5, 5));
    assert!(inverted.iter().zip(&query).all(|(a, b)| (a - b).abs() < 1e-4), "{inverted:?} {query:?}");
    assert!(inverted.iter().zip(&passage).all(|(a, b)| (a - b).abs() > 1e-4), "{inverted:?} {passage:?}");
    invert(&["--prompt", "passage"]).assert().code(1).stderr(contains("(prompt)").and(contains("hint:")));

    encode(encoder, &texts, &vectors, &["--prompt", "none"]);
    invert(&[]).assert().code(1).stderr(contains("(prompt)").and(contains("prompt none")));
}

#[test]
fn a_killed_build_of_two_prompts_goes_on_to_the_same_bytes() {
    let models = tempfile::tempdir().unwrap();
    let Some(encoder) = minilm_with_prompts(models.path()) else { return };
    let small = Small::new(&encoder);
    let whole = small.path("whole");
    small.done(&["pairs", "build"], &[two(), format!("pairs.dir={}", whole.display())]);
    let killed = small.path("killed");
    let sets = [two(), format!("pairs.dir={}", killed.display())];
    small.killed(&["pairs", "build"], &sets, || killed.join("shard-00003.arrow").exists());
    assert!(!killed.join("manifest.json").exists(), "the build was over before it was killed");
    small.done(&["pairs", "build"], &sets);
    let (whole, killed) =
        (files(&whole, |name| name.ends_with(".lock")), files(&killed, |name| name.ends_with(".lock")));
    assert_eq!(whole.len(), killed.len());
    for ((a, of_whole), (b, of_killed)) in whole.iter().zip(&killed) {
        assert!(a == b && of_whole == of_killed, "{a} differs between the whole and the resumed build");
    }
}

#[test]
fn prompts_that_make_no_sense_are_refused() {
    let models = tempfile::tempdir().unwrap();
    let Some(encoder) = minilm_with_prompts(models.path()) else { return };
    let small = Small::new(&encoder);
    let refused = |sets: &[&str], code: i32| {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let output = small.start(&["pairs", "build"], &sets).output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refused(&["encoder.prompts=[\"query\"]", "encoder.prompt=passage"], 2);
    assert!(error.contains("`encoder.prompts` and `encoder.prompt` (\"passage\") are both said"), "{error}");
    let error = refused(&["encoder.prompts=[\"query\", \"web\"]"], 1);
    assert!(error.contains("no prompt named `web`") && error.contains("none, passage, query"), "{error}");
    let config = encoder.join("config_sentence_transformers.json");
    fs_err::write(&config, r#"{"prompts": {"q_long": "q: ", "other": "q: "}}"#).unwrap();
    for twice in ["[\"q\", \"q_long\"]", "[\"other\", \"none\", \"q\"]"] {
        let error = refused(&[&format!("encoder.prompts={twice}")], 1);
        assert!(error.contains("are the same prompt") && error.contains("hint:"), "{error}");
        assert!(!small.path("pairs").exists());
    }
}
