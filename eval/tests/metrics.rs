//! The metrics against the field's own programs: `golden/metrics.json`, made by `golden/make_metrics.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use eval::metrics::sentences::sentences;
use eval::metrics::treebank::{tokenize, word_tokenize};
use eval::metrics::{Metric, Statistics};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    rows: Vec<Row>,
    corpus: Corpus,
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Row {
    reference: String,
    hypothesis: String,
    sentences: Vec<String>,
    treebank: Vec<String>,
    words: Vec<String>,
    hypothesis_treebank: Vec<String>,
    bleu_without_effective_order: f64,
    sentence_bleu: f64,
    chrf: f64,
    token_f1: f64,
    token_set_f1: f64,
    rouge_l: f64,
    cer: Option<f64>,
}

#[derive(Deserialize)]
struct Corpus {
    bleu: f64,
    chrf: f64,
}

#[derive(Deserialize)]
struct Range {
    from: usize,
    to: usize,
    #[serde(flatten)]
    corpus: Corpus,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/metrics.json")).unwrap()
}

fn statistics(rows: &[Row]) -> Statistics {
    let references: Vec<_> = rows.iter().map(|row| row.reference.clone()).collect();
    let hypotheses: Vec<_> = rows.iter().map(|row| row.hypothesis.clone()).collect();
    Statistics::of(&references, &hypotheses, None)
}

fn near(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() < 1e-9, "{what}: {got}, not {want}");
}

#[test]
fn words_are_those_of_nltk() {
    for row in golden().rows {
        assert_eq!(tokenize(&row.reference), row.treebank, "{:?}", row.reference);
        assert_eq!(tokenize(&row.hypothesis), row.hypothesis_treebank, "{:?}", row.hypothesis);
        assert_eq!(sentences(&row.reference), row.sentences, "{:?}", row.reference);
        assert_eq!(word_tokenize(&row.reference), row.words, "{:?}", row.reference);
    }
}

#[test]
fn rows_score_as_the_reference_programs_say() {
    let rows = golden().rows;
    let statistics = statistics(&rows);
    for (index, row) in rows.iter().enumerate() {
        let sums = statistics.row(index);
        for (metric, want) in [
            (Metric::Bleu, row.bleu_without_effective_order),
            (Metric::SentenceBleu, row.sentence_bleu),
            (Metric::Chrf, row.chrf),
            (Metric::TokenF1, row.token_f1),
            (Metric::TokenSetF1, row.token_set_f1),
            (Metric::RougeL, row.rouge_l),
        ] {
            near(metric.value(sums, 1), want, &format!("{metric} of row {index} {:?}", row.reference));
        }
        if let Some(cer) = row.cer {
            near(Metric::Cer.value(sums, 1), cer, &format!("cer of row {index} {:?}", row.reference));
        }
    }
}

#[test]
fn corpora_score_as_sacrebleu_says() {
    let golden = golden();
    let statistics = statistics(&golden.rows);
    let all = Range { from: 0, to: golden.rows.len(), corpus: golden.corpus };
    for range in golden.ranges.iter().chain([&all]) {
        let sums = statistics.sums(range.from..range.to);
        let rows = range.to - range.from;
        near(
            Metric::Bleu.value(&sums, rows),
            range.corpus.bleu,
            &format!("bleu of {}..{}", range.from, range.to),
        );
        near(
            Metric::Chrf.value(&sums, rows),
            range.corpus.chrf,
            &format!("chrf of {}..{}", range.from, range.to),
        );
    }
}

#[test]
fn means_are_means_of_rows() {
    let golden = golden();
    let scores = statistics(&golden.rows).scores();
    let mean = |value: fn(&Row) -> f64| golden.rows.iter().map(value).sum::<f64>() / golden.rows.len() as f64;
    near(scores[Metric::SentenceBleu as usize], mean(|row| row.sentence_bleu), "sentence_bleu");
    near(scores[Metric::TokenF1 as usize], mean(|row| row.token_f1), "token_f1");
    near(scores[Metric::TokenSetF1 as usize], mean(|row| row.token_set_f1), "token_set_f1");
    near(scores[Metric::RougeL as usize], mean(|row| row.rouge_l), "rouge_l");
}
