//! The report's page in a browser: headless Chromium, where there is one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use support::inverse_stella;

/// A browser, or a printed reason for its absence.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&path)
        .flat_map(|folder| names.map(|name| folder.join(name)))
        .find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: no chromium on the PATH");
    }
    found
}

/// Scores as a round trip has them.
fn scores(n: usize, cosine: f64) -> Value {
    json!({"n": n, "bleu": 40.0, "sentence_bleu": 41.0, "chrf": 55.0, "token_f1": 0.7, "token_set_f1": 0.71,
        "exact_match": 0.1, "exact_match_normalized": 0.12, "rouge_l": 0.66, "length_ratio": 0.97, "cosine": cosine,
        "intervals": {"cosine": [cosine - 0.02, cosine + 0.02], "bleu": [38.0, 42.0]}})
}

fn merged(mut scores: Value, more: Value) -> Value {
    scores.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    scores
}

/// An evaluation with something in every part.
fn evaluation() -> Value {
    let row = |at: usize| {
        let same = at.is_multiple_of(7);
        json!({"index": at, "reference": format!("Man number {at} walks a dog."),
            "hypothesis": if same { format!("Man number {at} walks a dog.") } else { format!("A woman walks {at} dogs.") },
            "tokens": 8, "truncated": false, "log_prob": -3.5, "finished": true, "encodings": 0, "sentence_bleu": 30.0,
            "chrf": 50.0, "token_f1": 0.6, "token_set_f1": 0.6, "exact_match": same, "exact_match_normalized": same,
            "rouge_l": 0.6, "length_ratio": 1.0, "cosine": if same { 1.0 } else { 0.5 + (at % 40) as f64 / 100.0 }})
    };
    let rows: Vec<Value> = (0..200).map(row).collect();
    let space = json!({"encoder": "all-MiniLM-L6-v2", "weights_digest": "blake3:00", "prompt": {"name": "none", "text": ""},
        "pooling": "mean", "attention": "bidirectional", "dim": 384, "normalize": true, "max_tokens": 256});
    let decoder =
        json!({"kind": "run", "path": "runs/captions", "step": 1200, "device": "cpu", "max_tokens": 64});
    let of = |value: f64| json!({"value": value, "interval": [value - 0.03, value + 0.03]});
    let correlations = |value: f64| json!({"spearman": of(value), "pearson": of(value)});
    let retrieval =
        |value: f64| json!({"ndcg_at_10": of(value), "recall_at_100": of(value), "mrr_at_10": of(value)});
    let after = |value: f64| json!({"scores": retrieval(value), "preservation": of(value), "overlap_at_10": of(value)});
    let pairs: Vec<Value> =
        (0..100).map(|at| json!([at as f64 / 20.0, at as f64 / 100.0, at as f64 / 120.0])).collect();
    let settings = json!({"trial": false, "limit": null, "available": 200, "truncated": 0, "unfinished": 0,
        "strategy": "greedy", "dtype": "f32", "generate": {"strategy": "greedy", "max_tokens": 64, "batch": 64}, "bootstrap": {"resamples": 100, "confidence": 0.95, "seed": 0},
        "decoder": decoder, "space": space, "prompt": "none", "versions": {}, "texts_per_s": 300.0,
        "seconds": {"encode": 1.0, "invert": 1.0, "reencode": 1.0, "score": 1.0, "total": 4.0}});
    let length = |name: &str, cosine: f64| merged(scores(50, cosine), json!({"name": name}));
    let robust = |level: f64| {
        json!({"perturbation": {"noise": level}, "kept": 0.9, "bleu": of(30.0), "token_f1": of(0.6),
        "exact_match": of(0.1), "cosine": of(0.9 - 8.0 * level), "cosine_to_changed": of(0.8)})
    };
    let robustness = [0.001, 0.01, 0.05].map(robust);
    let no_samples = json!({"best": [], "worst": [], "random": []});
    json!({"schema": "inverse-stella/evaluation/1", "trial": false, "limit": null, "decoder": decoder, "space": space,
        "strategy": "greedy", "dtype": "f32", "bootstrap": {"resamples": 100, "confidence": 0.95, "seed": 0},
        "reconstruction": merged(scores(200, 0.81), json!({"schema": "inverse-stella/round-trip/1", "settings": settings,
            "samples": no_samples, "buckets": {"length": [length("<=8", 0.9), length("<=16", 0.8), length(">512", 0.3)], "domain": []}})),
        "rows": rows, "self_retrieval": {"n": 200, "top_1": of(0.9), "mrr": of(0.93)},
        "sts": [{"name": "STS12", "n": 100, "unscored": 3, "pairs": pairs, "encodings": 0.0, "seconds": 1.0,
            "scores": {"originals": correlations(0.8), "both": correlations(0.7), "one_side": correlations(0.75),
                "delta": of(-0.1), "preservation": of(0.875), "mean_change": of(0.08)}}],
        "retrieval": [{"name": "Cranfield", "n": 225, "documents": 1400, "originals": retrieval(0.4), "queries": after(0.35),
            "documents_read_back": after(0.2), "encodings": [0.0, 0.0], "seconds": [1.0, 2.0]}],
        "domains": [merged(scores(50, 0.4), json!({"name": "code", "samples": no_samples})),
            merged(scores(50, 0.8), json!({"name": "captions & more", "samples": no_samples}))],
        "edge_cases": {"passed": of(0.4), "rows": [], "categories": [
            {"category": "formula", "n": 28, "passed": of(0.1), "cosine": of(0.5)},
            {"category": "negation", "n": 27, "passed": of(0.8), "cosine": of(0.7)}]},
        "robustness": robustness,
        "cost": {"texts_per_s": 300.0, "encodings": 0.0, "seconds": 60.0, "memory_bytes": 1_000_000}, "versions": {"libtorch": "2.11.0"}})
}

/// What the page's own elements say of themselves, put into the title of a copy of the page.
const ASK: &str = r#"<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("load", () => {
  const shown = () => [...document.querySelectorAll(".sample")].filter((sample) => !sample.hidden).length;
  const set = (id, change) => { const control = document.getElementById(id); change(control); control.dispatchEvent(new Event("input")); };
  const plots = [...document.querySelectorAll("svg.plot")].map((plot) => plot.getBoundingClientRect());
  const found = { all: shown() };
  set("kind", (control) => { control.value = "worst"; }); found.worst = shown();
  set("kind", (control) => { control.value = ""; });
  set("wrong", (control) => { control.checked = true; }); found.wrong = shown();
  set("wrong", (control) => { control.checked = false; });
  set("find", (control) => { control.value = "number 7 "; }); found.find = shown();
  // words of one text on both sides of a mark
  set("find", (control) => { control.value = "MAN  number 8 walks a"; }); found.across = shown();
  set("find", (control) => { control.value = ""; });
  document.title = "ASKED " + JSON.stringify({ ...found, errors, width: innerWidth,
    plots: plots.length, narrow: plots.filter((plot) => plot.width < 200 || plot.height < 80).length,
    beyond: document.documentElement.scrollWidth - innerWidth,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name) }) + " END";
});
</script></head>"#;

fn asked(chromium: &Path, page: &Path, width: usize) -> Value {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--dump-dom",
            "--hide-scrollbars",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},2000"))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap();
    let page = String::from_utf8_lossy(&output.stdout).replace("&quot;", "\"");
    let (_, found) = page.split_once("ASKED ").unwrap_or_else(|| panic!("{page:.2000}"));
    serde_json::from_str(found.split_once(" END").unwrap().0).unwrap()
}

#[test]
fn the_page_stands_in_a_browser_on_a_phone_and_on_a_desk() {
    let Some(chromium) = chromium() else { return };
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("captions.json");
    fs_err::write(&result, serde_json::to_vec(&evaluation()).unwrap()).unwrap();
    inverse_stella().arg("report").arg(&result).arg("--out").arg(folder.path()).assert().success();
    let page = folder.path().join("report.html");
    if let Some(keep) = std::env::var_os("KEEP_REPORT") {
        fs_err::copy(&page, keep).unwrap();
    }
    let copy = folder.path().join("asked.html");
    let text = fs_err::read_to_string(&page).unwrap();
    fs_err::write(&copy, text.replacen("</head>", ASK, 1)).unwrap();
    // a window of Chromium has no less than 500 pixels without a frame: what is said is what it had
    for width in [400, 1400] {
        let found = asked(&chromium, &copy, width);
        assert_eq!(found["errors"], json!([]), "{found}");
        assert_eq!(found["requests"], json!([]), "{found}");
        assert!(found["plots"].as_u64().unwrap() >= 6 && found["narrow"] == 0, "{found}");
        assert!(found["beyond"].as_i64().unwrap() <= 0, "{found}");
        let shown = |what: &str| found[what].as_u64().unwrap();
        assert!(shown("all") > 150 && shown("worst") == 60 && shown("find") == 1, "{found}");
        assert_eq!(shown("across"), 1, "{found}");
        assert!(shown("wrong") < shown("all") && shown("wrong") > 100, "{found}");
    }
}

#[test]
fn results_are_compared_by_their_rows_and_cosines_within_a_space_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = evaluation();
    let mut better = first.clone();
    for row in better["rows"].as_array_mut().unwrap() {
        row["hypothesis"] = row["reference"].clone();
        row["cosine"] = 1.0.into();
    }
    let mut elsewhere = better.clone();
    elsewhere["space"]["weights_digest"] = "blake3:01".into();
    let mut bare = first.clone();
    bare["rows"] = json!([]);
    let report = |results: &[(&str, &Value)]| {
        let mut command = inverse_stella();
        command.arg("report").arg("--out").arg(folder.path());
        for (name, value) in results {
            let file = folder.path().join(format!("{name}.json"));
            fs_err::write(&file, serde_json::to_vec(value).unwrap()).unwrap();
            command.arg(file).args(["--name", name]);
        }
        command.assert().success();
        fs_err::read_to_string(folder.path().join("report.md")).unwrap()
    };
    let text = report(&[("first", &first), ("better", &better), ("elsewhere", &elsewhere)]);
    let section = |name: &str| -> String {
        let (_, table) = text.split_once("## Is the difference more than chance?").unwrap();
        let rows = table.lines().filter(|line| line.starts_with(&format!("| {name} |")));
        rows.map(|row| format!("{}\n", row.replacen(&format!("| {name} "), "", 1))).collect()
    };
    // 29 of the 200 were right before; what is better points up or down as its arrow does
    assert!(section("better").contains("| exact match ↑ | +0.855 |"), "{text}");
    assert!(
        section("better").contains("| cosine ↑ | +") && section("better").contains("| cer ↓ | -"),
        "{text}"
    );
    assert!(section("better").contains("| length ratio from 1 ↓ | -"), "{text}");
    assert!(section("elsewhere").contains("| exact match ↑ |"), "{text}");
    assert!(!section("elsewhere").contains("cosine"), "{text}");
    assert!(text.contains("of different spaces or prompts"), "{text}");
    let text = report(&[("first", &first), ("bare", &bare)]);
    assert!(text.contains("holds no rows") && !text.contains("different spaces"), "{text}");
    // one of the same name is told apart
    let twice = report(&[("same", &first), ("same", &better)]);
    assert!(twice.contains("| same (2) |") && twice.contains("| same |"), "{twice}");
}
