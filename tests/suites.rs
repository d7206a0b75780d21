//! Suites and reports, as a user runs them with the real encoder.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;
use support::small::Small;
use support::{inverse_stella, minilm, sentences, write_lines};

/// A decoder of a few steps, and sets for every suite.
struct Sets {
    small: Small,
    encoder: PathBuf,
    export: PathBuf,
}

impl Sets {
    fn new() -> Option<Self> {
        let encoder = minilm()?;
        let small = Small::new(&encoder);
        small.done(&["pairs", "build"], &[]);
        small.done(&["train"], &[]);
        let export = small.path("export");
        inverse_stella().arg("export").arg(small.path("run")).arg(&export).assert().success();
        write_lines(&small.path("held-out.txt"), &sentences(640)[610..]);
        let texts = sentences(660);
        let sts: Vec<String> = (0..12)
            .map(|at| {
                format!(
                    "{}\t{}\t{}",
                    f64::from(at) / 2.5,
                    texts[600 + at as usize],
                    texts[620 + (at * at) as usize % 30]
                )
            })
            .collect();
        fs_err::create_dir(small.path("sts")).unwrap();
        write_lines(&small.path("sts/some.tsv"), &sts);
        write_lines(
            &small.path("sts/unscored.tsv"),
            &["2.5\tA dog runs.\tA cat runs.".into(), "\tA.\tB.".into()],
        );
        let beir = small.path("beir");
        fs_err::create_dir_all(beir.join("qrels")).unwrap();
        let record = |id: String, text: &str| format!("{{\"_id\": \"{id}\", \"text\": \"{text}\"}}");
        let documents: Vec<String> = (0..20).map(|at| record(format!("d{at}"), &texts[at])).collect();
        write_lines(&beir.join("corpus.jsonl"), &documents);
        let queries: Vec<String> = (0..5).map(|at| record(format!("q{at}"), &texts[at * 2])).collect();
        write_lines(&beir.join("queries.jsonl"), &queries);
        let mut judged = vec!["query-id\tcorpus-id\tscore".to_owned()];
        judged.extend((0..4).map(|at| format!("q{at}\td{}\t1", at * 2)));
        write_lines(&beir.join("qrels/test.tsv"), &judged);
        let config = format!(
            "domain_texts = 10\n[robustness]\ntexts = 8\nperturbations = [\"none\", {{ noise = 0.02 }}, \"int8\", {{ towards = 0.5 }}]\n\
             [[sts]]\nname = \"some\"\npath = \"{sts}\"\n[[retrieval]]\nname = \"tiny\"\npath = \"{beir}\"\nformat = \"beir\"\n\
             [[domain]]\nname = \"made up\"\npath = \"{texts}\"\nformat = \"text\"\n",
            sts = small.path("sts").display(),
            beir = beir.display(),
            texts = small.path("held-out.txt").display(),
        );
        fs_err::write(small.path("eval.toml"), config).unwrap();
        Some(Self { small, encoder, export })
    }

    fn command(&self, flags: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("inverse-stella"));
        command.arg("eval").arg(&self.export).arg("--encoder").arg(&self.encoder).arg("--texts");
        command.arg(self.small.path("held-out.txt")).args(["--bootstrap", "50", "--config"]);
        command.arg(self.small.path("eval.toml")).args(flags);
        command
    }

    fn evaluated(&self, flags: &[&str]) -> Value {
        let output = self.command(flags).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn without_log_probs(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("log_prob");
            object.values_mut().for_each(without_log_probs);
        }
        Value::Array(list) => list.iter_mut().for_each(without_log_probs),
        _ => {}
    }
}

/// What does not depend on how long it took, and how many vectors went together.
fn scores(mut evaluation: Value) -> Value {
    let reconstruction = evaluation["reconstruction"]["settings"].as_object_mut().unwrap();
    for key in ["seconds", "texts_per_s", "generate"] {
        reconstruction.remove(key);
    }
    for key in ["cost", "date", "generate"] {
        evaluation.as_object_mut().unwrap().remove(key);
    }
    for task in evaluation["tasks"].as_array_mut().unwrap() {
        assert!(task.as_object_mut().unwrap().remove("evaluation_time").unwrap().as_f64().unwrap() > 0.0);
    }
    // equal to rounding alone
    without_log_probs(&mut evaluation);
    for list in ["sts", "retrieval"] {
        evaluation[list]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .for_each(|set| drop(set.as_object_mut().unwrap().remove("seconds")));
    }
    evaluation
}

#[test]
fn every_suite_says_the_same_again_and_for_any_batch() {
    let Some(sets) = Sets::new() else { return };
    let all = sets.evaluated(&["--suite", "all", "--judge", sets.encoder.to_str().unwrap()]);
    assert_eq!(all["schema"], "inverse-stella/evaluation/1");
    let schema = inverse_stella().args(["schema", "evaluation"]).output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let faults: Vec<String> =
        schema.iter_errors(&all).map(|fault| format!("{fault} at {}", fault.instance_path())).collect();
    assert!(faults.is_empty(), "{faults:?}");
    let mut wrong = all.clone();
    wrong["tasks"][0]["n"] = "many".into();
    assert!(!schema.is_valid(&wrong));
    assert_eq!((&all["trial"], &all["reconstruction"]["n"]), (&false.into(), &30.into()));
    assert_eq!((&all["rows"].as_array().unwrap().len(), &all["self_retrieval"]["n"]), (&30, &30.into()));
    let tasks: Vec<(&str, &str)> = all["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| (task["suite"].as_str().unwrap(), task["task"].as_str().unwrap()))
        .collect();
    assert_eq!(
        tasks[..3],
        [("reconstruction", "reconstruction"), ("self-retrieval", "self-retrieval"), ("sts", "some")]
    );
    assert_eq!(tasks[3..6], [("retrieval", "tiny"), ("domains", "made up"), ("edge-cases", "edge-cases")]);
    assert_eq!(
        tasks[6..].iter().map(|task| task.1).collect::<Vec<_>>(),
        ["none", "noise 0.02", "int8", "0.5 towards the next"]
    );
    let main = |at: usize| &all["tasks"][at]["main_score"]["value"];
    assert_eq!(main(0), &all["reconstruction"]["cosine"]);
    assert_eq!(main(2), &all["sts"][0]["scores"]["both"]["spearman"]["value"]);
    assert_eq!(main(3), &all["retrieval"][0]["queries"]["scores"]["ndcg_at_10"]["value"]);
    assert_eq!(main(4), &all["domains"][0]["cosine"]);
    assert_eq!(main(6), &all["robustness"][0]["cosine"]["value"]);
    // the same texts have the same digest, whatever suite reads them
    let digest = |at: usize| all["tasks"][at]["dataset_digest"].as_str().unwrap();
    assert!(digest(0).starts_with("blake3:") && digest(0) == digest(1) && digest(0) != digest(4));
    let sts = &all["sts"][0];
    assert_eq!((&sts["n"], &sts["unscored"]), (&13.into(), &1.into()));
    // the judge is the encoder itself here: it must say the same
    let spearman = |of: &Value| of["originals"]["spearman"]["value"].as_f64().unwrap();
    assert!((spearman(&sts["scores"]) - spearman(&sts["judge"])).abs() < 1e-6);
    let change = |of: &Value| of["mean_change"]["value"].as_f64().unwrap();
    assert!((change(&sts["scores"]) - change(&sts["judge"])).abs() < 1e-6 && change(&sts["judge"]) > 0.0);
    let tiny = &all["retrieval"][0];
    assert_eq!((&tiny["n"], &tiny["documents"]), (&4.into(), &20.into()));
    assert_eq!(tiny["originals"]["ndcg_at_10"]["value"], 1.0, "a query that is its document finds it");
    assert!(tiny["queries"]["preservation"]["value"].as_f64().unwrap() <= 1.0);
    assert_eq!(all["domains"][0]["n"], 10);
    assert!(all["edge_cases"]["rows"].as_array().unwrap().len() >= 300);
    assert_eq!(all["robustness"].as_array().unwrap().len(), 4);
    assert!(all["robustness"][1]["kept"].as_f64().unwrap() < 0.99);

    let again =
        sets.evaluated(&["--suite", "all", "--judge", sets.encoder.to_str().unwrap(), "--batch", "1"]);
    assert_eq!(scores(again), scores(all));
    let trial = sets.evaluated(&["--suite", "sts,reconstruction", "--limit", "5"]);
    assert_eq!((&trial["trial"], &trial["sts"][0]["n"]), (&true.into(), &5.into()));
    assert!(trial.get("edge_cases").is_none());
    for suite in ["domains", "self-retrieval", "robustness"] {
        assert_eq!(sets.evaluated(&["--suite", suite, "--limit", "5"])["trial"], true, "{suite}");
    }
}

#[test]
fn an_evaluation_that_was_killed_goes_on() {
    let Some(sets) = Sets::new() else { return };
    let out = sets.small.path("result.json");
    let flags = ["--suite", "all", "--out", out.to_str().unwrap()];
    let kept = sets.small.path("result.kept.json");
    let mut child = sets
        .command(&flags)
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !kept.exists() {
        assert!(started.elapsed() < Duration::from_secs(120) && child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists());
    // what was done of other sets stays done when one is added
    let (config, more) = (sets.small.path("eval.toml"), sets.small.path("sts/some.tsv"));
    let more = format!("[[sts]]\nname = \"more\"\npath = \"{}\"\n", more.display());
    fs_err::write(&config, fs_err::read_to_string(&config).unwrap() + &more).unwrap();
    let output = sets.command(&flags).arg("--json").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("of its tasks behind it"), "{told}");
    assert!(!kept.exists() && out.exists());
    let whole = sets.evaluated(&["--suite", "all"]);
    assert_eq!(scores(serde_json::from_slice(&output.stdout).unwrap()), scores(whole));
}

#[test]
fn a_report_is_one_page_and_runs_nothing_that_was_decoded() {
    let Some(sets) = Sets::new() else { return };
    let result = sets.small.path("run/evaluation.json");
    let mut evaluation = sets.evaluated(&["--suite", "all"]);
    evaluation["rows"][0]["reference"] = "<script>alert('in')</script> & more".into();
    evaluation["rows"][1]["hypothesis"] = "<img src=x onerror=alert(1)>".into();
    evaluation["domains"][0]["name"] = "<b>bold</b>".into();
    fs_err::write(&result, serde_json::to_vec(&evaluation).unwrap()).unwrap();
    let other = sets.small.path("other.json");
    fs_err::write(&other, serde_json::to_vec(&evaluation).unwrap()).unwrap();

    let out = sets.small.path("reports");
    let report = |arguments: &[&Path]| {
        let mut command = inverse_stella();
        command.arg("report").args(arguments).arg("--out").arg(&out);
        command
    };
    report(&[&sets.small.path("run"), &other]).assert().success().stdout(contains("report.html"));
    let page = fs_err::read_to_string(out.join("report.html")).unwrap();
    assert!(!page.contains("<script>alert") && !page.contains("<img src=x") && !page.contains("<b>bold"));
    assert!(page.contains("&lt;script&gt;alert("), "the text itself is shown");
    for outside in ["http://", "https://", "src=\"", "<link", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.matches("<svg class=\"plot\"").count() >= 6, "{}", page.matches("<svg").count());
    let markdown = fs_err::read_to_string(out.join("report.md")).unwrap();
    for part in ["Do the words come back?", "What of vectors that were changed?", "more than chance"] {
        assert!(markdown.contains(part), "{markdown}");
    }
    // what was decoded is no HTML there either
    assert!(!markdown.contains("<b>bold"), "{markdown}");
    assert!(!out.join("model-index.json").exists(), "two decoders have no card together");
    report(&[&sets.small.path("run")]).assert().success();
    let card: Value = serde_json::from_slice(&fs_err::read(out.join("model-index.json")).unwrap()).unwrap();
    assert_eq!(card[0]["results"][0]["metrics"][0]["type"], "cosine");

    // a round trip by itself has a report too
    let alone = sets.small.path("alone.json");
    let mut eval = inverse_stella();
    eval.arg("eval").arg(&sets.export).arg("--encoder").arg(&sets.encoder).arg("--texts");
    eval.arg(sets.small.path("held-out.txt")).args(["--limit", "9", "--bootstrap", "9", "--out"]).arg(&alone);
    eval.assert().success();
    report(&[&alone]).assert().success();
    assert!(fs_err::read_to_string(out.join("report.md")).unwrap().contains("a trial"));
    report(&[&sets.export]).assert().code(1).stderr(contains("evaluation.json").and(contains("hint:")));
    fs_err::write(&other, "{\"schema\": \"tea\"}").unwrap();
    report(&[&other]).assert().code(1).stderr(contains("\"tea\"").and(contains("hint:")));
}

#[test]
fn what_cannot_be_evaluated_is_said() {
    let Some(sets) = Sets::new() else { return };
    let refused = |flags: &[&str], code: i32, words: &str| {
        let output = sets.command(flags).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(words) && (code == 2 || told.contains("hint:")), "{told}");
    };
    refused(&["--suite", "tea"], 2, "possible values");
    fs_err::write(sets.small.path("eval.toml"), "[[sts]]\nname = \"x\"\npaht = \"y\"\n").unwrap();
    refused(&["--suite", "sts"], 1, "paht");
    fs_err::write(sets.small.path("eval.toml"), "").unwrap();
    refused(&["--suite", "sts"], 1, "the suite sts");
    refused(&["--suite", "reconstruction", "--judge", "x"], 2, "--judge");
    for flags in [["--patience", "3"], ["--seed", "3"], ["--noise", "0.1"], ["--prompt", "tea"]] {
        let words = flags[0].trim_start_matches("--");
        refused(&[&["--suite", "edge-cases"], &flags[..]].concat(), 2, words);
    }
    // before anything is judged
    let missing = "[[domain]]\nname = \"x\"\npath = \"no-such-texts\"\nformat = \"text\"\n";
    fs_err::write(sets.small.path("eval.toml"), missing).unwrap();
    let out = sets.small.path("result.json");
    refused(&["--suite", "reconstruction,domains", "--out", out.to_str().unwrap()], 1, "no-such-texts");
    assert!(!sets.small.path("result.kept.json").exists(), "nothing was done");
    let empty = sets.small.path("empty.txt");
    fs_err::write(&empty, "").unwrap();
    let mut eval = inverse_stella();
    eval.arg("eval").arg(&sets.export).arg("--encoder").arg(&sets.encoder).arg("--texts").arg(&empty);
    eval.assert().code(1).stderr(contains("empty.txt").and(contains("hint:")));
}
