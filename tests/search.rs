//! A decoder that refines, and search with it, as a user runs them with the real encoder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use support::small::{Small, encode};
use support::{inverse_stella, minilm, sentences, write_lines};

/// Trains a decoder in seconds, and exports it.
fn trained(small: &Small, refines: bool) -> std::path::PathBuf {
    let sets: Vec<String> = [
        &format!("run.dir={}", small.path(&format!("run-{refines}")).display()),
        &format!("refinement.share={}", if refines { 0.5 } else { 0.0 }),
        "refinement.begin=0.3",
        "refinement.refresh_every=4",
        "refinement.set_texts=40",
    ]
    .map(str::to_owned)
    .to_vec();
    small.done(&["pairs", "build"], &[]);
    let told = small.done(&["train"], &sets);
    assert!(told.contains("all steps are done"), "{told}");
    small.path(&format!("run-{refines}"))
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

#[test]
fn a_search_is_counted_bounded_and_never_worse() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let run = trained(&small, true);
    let record = fs_err::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(record.contains("\"refinement_loss\":") && record.contains("\"refined\":{"), "{record}");
    let export = small.path("export");
    inverse_stella().arg("export").arg(&run).arg(&export).assert().success();

    let texts = small.path("held-out.txt");
    write_lines(&texts, &sentences(630)[610..]);
    let eval = |flags: &[&str]| {
        let mut command = inverse_stella();
        command.arg("eval").arg(&export).arg("--texts").arg(&texts).arg("--encoder").arg(&encoder);
        json(command.args(["--bootstrap", "0", "--json"]).args(flags))
    };
    let cosine = |result: &Value| result["cosine"].as_f64().unwrap();
    let greedy = eval(&[]);
    assert!(greedy["settings"]["search"].is_null());
    assert_eq!(greedy["settings"]["encodings"], 0.0);
    let budget = eval(&["--budget", "8", "--prior", "0"]);
    let encodings = budget["settings"]["encodings"].as_f64().unwrap();
    assert!(encodings > 1.0 && encodings <= 8.0, "{encodings}");
    assert!(cosine(&budget) > cosine(&greedy), "{} {}", cosine(&budget), cosine(&greedy));
    let course: Vec<f64> = serde_json::from_value(budget["settings"]["course"].clone()).unwrap();
    assert!(course.len() > 1 && course.is_sorted());
    assert!((course.last().unwrap() - cosine(&budget)).abs() < 1e-4, "{course:?}");
    // of the nearest the likelier one, at no encoding more
    let likelier = eval(&["--budget", "8"]);
    assert!(likelier["settings"]["strategy"].as_str().unwrap().contains("likelihood"));
    assert_eq!(likelier["settings"]["encodings"], budget["settings"]["encodings"]);
    assert!(cosine(&likelier) <= cosine(&budget) + 1e-9);
    let reranked = eval(&["--samples", "4", "--beam", "2", "--rerank"]);
    assert!(reranked["settings"]["strategy"].as_str().unwrap().contains("2 beams and 4 samples"));
    // the largest budget is one that a search can have
    let most = eval(&["--budget", "4000", "--limit", "1"]);
    assert!(most["settings"]["encodings"].as_f64().unwrap() > 8.0);
    let refined = eval(&["--refine", "2", "--parents", "1", "--prior", "0"]);
    assert!(cosine(&refined) >= cosine(&greedy));

    // the same through invert, from the vectors
    let vectors = small.path("v.npy");
    encode(&encoder, &texts, &vectors, &[]);
    let mut invert = inverse_stella();
    invert.arg("invert").arg(&export).arg("--vectors").arg(&vectors).arg("--encoder").arg(&encoder);
    let output = invert
        .args(["--budget", "8", "--prior", "0", "--json"])
        .assert()
        .success()
        .get_output()
        .stdout
        .clone();
    let lines: Vec<Value> =
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    assert!(lines.iter().all(|line| (1..=8).contains(&line["encodings"].as_u64().unwrap())));
    let mean = lines.iter().map(|line| line["cosine"].as_f64().unwrap()).sum::<f64>() / 20.0;
    assert!((mean - cosine(&budget)).abs() < 1e-4, "{mean} {}", cosine(&budget));
}

#[test]
fn a_search_that_cannot_be_is_refused_with_a_hint() {
    let Some(encoder) = minilm() else { return };
    let small = Small::new(&encoder);
    let run = trained(&small, false);
    let roundtrip = |flags: &[&str]| {
        let mut command = inverse_stella();
        command.args(["roundtrip", "A man sleeps.", "--decoder"]).arg(&run).arg("--encoder").arg(&encoder);
        command.args(flags).assert()
    };
    roundtrip(&["--refine", "2"]).code(2).stderr(
        contains("--refine: this decoder has learnt first guesses alone")
            .and(contains("hint:"))
            .and(contains("[refinement]")),
    );
    roundtrip(&["--beam", "2", "--samples", "2"]).code(2).stderr(contains("hint: --rerank"));
    roundtrip(&["--budget", "0"]).code(2);
    roundtrip(&["--rerank", "--epsilon=-1"]).code(2).stderr(contains("--epsilon -1: must be at least 0"));
    // candidates can be ranked by any decoder
    roundtrip(&["--budget", "6"]).success().stdout(contains("cosine"));
}
