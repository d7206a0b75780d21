//! What a model card says of its evaluation.

use serde_json::{Value, json};

use crate::metrics::Metric;
use crate::result::Scores;
use crate::suites::Evaluation;

/// The `model-index` of a model card's front matter (huggingface/hub-docs, `modelcard.md`), as JSON, which is YAML too.
pub fn model_index(name: &str, evaluation: &Evaluation) -> Value {
    let result = |dataset: &str, task: &str, metrics: Vec<Value>| {
        json!({
            "task": { "type": task, "name": task },
            "dataset": { "name": dataset, "type": dataset },
            "metrics": metrics,
        })
    };
    let all = tasks(evaluation).into_iter().map(|task| {
        let metric = |(name, value): &(String, f64)| json!({ "type": name, "value": value, "name": name });
        result(&task.dataset, task.kind, task.metrics.iter().map(metric).collect())
    });
    let trial = if evaluation.trial { " (a trial: not all texts)" } else { "" };
    json!([{ "name": format!("{name}{trial}"), "results": all.collect::<Vec<_>>() }])
}

/// The entries of `.eval_results/*.yaml` (huggingface.co/docs/hub/eval-results): one main score a task. The hub knows a set
/// whose name in the configuration is its id there.
pub fn eval_results(evaluation: &Evaluation) -> Value {
    let entry = |task: Task| {
        let (name, value) = task.metrics.first()?.clone();
        Some(json!({
            "dataset": { "id": task.dataset, "task_id": task.kind },
            "value": value,
            "notes": format!("{name}, {} rows{}", task.n, if evaluation.trial { ", a trial" } else { "" }),
        }))
    };
    Value::Array(tasks(evaluation).into_iter().filter_map(entry).collect())
}

/// A task with its metrics, the main one first.
struct Task {
    kind: &'static str,
    dataset: String,
    n: usize,
    metrics: Vec<(String, f64)>,
}

fn tasks(evaluation: &Evaluation) -> Vec<Task> {
    let mut tasks = Vec::new();
    if let Some(result) = &evaluation.reconstruction {
        let (metrics, n) = (texts(&result.summary), result.summary.n);
        tasks.push(Task { kind: "reconstruction", dataset: "texts given".into(), n, metrics });
    }
    if let Some(found) = &evaluation.self_retrieval {
        let metrics = known(&[("top_1", found.top_1.value), ("mrr", found.mrr.value)]);
        tasks.push(Task { kind: "self-retrieval", dataset: "texts given".into(), n: found.n, metrics });
    }
    for set in &evaluation.sts {
        let scores = &set.scores;
        let metrics = [
            ("round_trip_spearman", scores.both.spearman.value),
            ("spearman", scores.originals.spearman.value),
            ("preservation", scores.preservation.value),
        ];
        tasks.push(Task { kind: "sts", dataset: set.name.clone(), n: set.n, metrics: known(&metrics) });
    }
    for set in &evaluation.retrieval {
        let metrics = [
            ("round_trip_query_ndcg_at_10", set.queries.scores.ndcg_at_10.value),
            ("round_trip_document_ndcg_at_10", set.documents_read_back.scores.ndcg_at_10.value),
            ("ndcg_at_10", set.originals.ndcg_at_10.value),
        ];
        tasks.push(Task { kind: "retrieval", dataset: set.name.clone(), n: set.n, metrics: known(&metrics) });
    }
    for domain in &evaluation.domains {
        let metrics = texts(&domain.scores);
        tasks.push(Task {
            kind: "reconstruction",
            dataset: domain.name.clone(),
            n: domain.scores.n,
            metrics,
        });
    }
    if let Some(found) = &evaluation.edge_cases {
        let metrics = known(&[("passed", found.passed.value)]);
        tasks.push(Task { kind: "edge-cases", dataset: "edge cases".into(), n: found.rows.len(), metrics });
    }
    tasks
}

/// Of texts that went there and back.
fn texts(scores: &Scores) -> Vec<(String, f64)> {
    let main =
        [Metric::Cosine, Metric::Bleu, Metric::TokenF1, Metric::ExactMatch, Metric::Chrf, Metric::RougeL];
    main.into_iter().filter_map(|metric| Some((metric.name().to_owned(), scores.get(metric)?))).collect()
}

fn known(metrics: &[(&str, Option<f64>)]) -> Vec<(String, f64)> {
    metrics.iter().filter_map(|&(name, value)| Some((name.to_owned(), value?))).collect()
}
