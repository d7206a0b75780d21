//! Correlations and rankings against scipy and trec_eval (golden/make_rankings.py).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use eval::correlation::{pearson, spearman};
use eval::ranking::{Grades, ndcg, rank, recall, reciprocal_rank};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/rankings.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn correlations_are_scipys() {
    for row in golden()["correlations"].as_array().unwrap() {
        let (x, y) = (numbers(&row["x"]), numbers(&row["y"]));
        for (ours, theirs) in [(pearson(&x, &y), &row["pearson"]), (spearman(&x, &y), &row["spearman"])] {
            let (ours, theirs) = (ours.unwrap(), theirs.as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-12, "{ours} {theirs} of {} pairs", x.len());
        }
    }
}

#[test]
fn rankings_are_trec_evals() {
    let golden = golden();
    let names: Vec<String> = serde_json::from_value(golden["rankings"]["names"].clone()).unwrap();
    for (number, query) in golden["rankings"]["queries"].as_array().unwrap().iter().enumerate() {
        let scores: Vec<f32> = numbers(&query["scores"]).into_iter().map(|score| score as f32).collect();
        let grades: Grades = query["grades"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(document, grade)| (document.parse().unwrap(), grade.as_i64().unwrap() as i32))
            .collect();
        let ranked = rank(&scores, &names, 100);
        for (name, ours) in [
            ("ndcg_cut_5", ndcg(&ranked, &grades, 5)),
            ("ndcg_cut_10", ndcg(&ranked, &grades, 10)),
            ("recall_100", recall(&ranked, &grades, 100)),
            ("recip_rank_10", reciprocal_rank(&ranked, &grades, 10)),
        ] {
            let theirs = query[name].as_f64().unwrap();
            assert!((ours - theirs).abs() < 1e-9, "{name} of query {number}: {ours} {theirs}");
        }
    }
}
