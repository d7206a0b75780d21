//! What must hold of every metric, whatever the texts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::slice::from_ref;

use eval::metrics::sentences::sentences;
use eval::metrics::treebank::{tokenize, word_tokenize};
use eval::metrics::whitespace::words;
use eval::metrics::{Metric, Statistics};
use eval::{Bootstrap, score};
use proptest::collection::vec;
use proptest::prelude::*;

const QUICK: Bootstrap = Bootstrap { resamples: 20, confidence: 0.95, seed: 7 };

/// Words that meet again, punctuation of all kinds, and anything else.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => prop::sample::select(vec!["the", "cat", "can't", "Dr.", "end.", "3.5", "(x)", "\"q\"", "'s", "--", "é", "猫"]),
        1 => prop::sample::select(vec!["...", "!?", "'", "``", "''", "&amp;", "-\n", "\n\n", ":", ". . ."]),
    ]
    .prop_map(str::to_owned);
    prop_oneof![
        3 => (vec(word, 0..12), prop::sample::select(vec![" ", "", "  "])).prop_map(|(words, by)| words.join(by)),
        1 => any::<String>(),
    ]
}

fn range(metric: Metric) -> (f64, f64) {
    match metric {
        Metric::Bleu | Metric::SentenceBleu | Metric::Chrf => (0.0, 100.0),
        Metric::LengthRatio | Metric::Cer => (0.0, f64::MAX),
        Metric::Cosine => (-1.0, 1.0),
        _ => (0.0, 1.0),
    }
}

/// Whether a text may have none of what a metric counts.
fn may_be_undefined(metric: Metric) -> bool {
    matches!(metric, Metric::NumberRecall | Metric::NameRecall | Metric::NegationRecall)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scores_and_intervals_stay_in_range(pairs in vec((text(), text()), 1..6)) {
        let (references, hypotheses): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let cosines = vec![0.25; references.len()];
        let scores = score(&references, &hypotheses, Some(&cosines), &QUICK).unwrap();
        for metric in Metric::ALL {
            let (low, high) = range(metric);
            let (value, interval) = (scores.get(metric), scores.interval(metric));
            prop_assert!(value.is_some() || may_be_undefined(metric));
            let (Some(value), Some([from, to])) = (value, interval) else { continue };
            for value in [value, from, to] {
                prop_assert!(value >= low && value <= high + 1e-9, "{metric} {value}");
            }
            prop_assert!(from <= to);
        }
    }

    #[test]
    fn identical_texts_are_perfect(texts in vec("[a-z]{1,4}( [a-z]{1,4}){3,9}", 1..6)) {
        let scores = score(&texts, &texts, None, &QUICK).unwrap();
        let defined = |metric: &Metric| *metric != Metric::Cosine && !may_be_undefined(*metric);
        for metric in Metric::ALL.into_iter().filter(defined) {
            let best = match metric {
                Metric::Cer => 0.0,
                _ if range(metric).1 == 100.0 => 100.0,
                _ => 1.0,
            };
            prop_assert!((scores.get(metric).unwrap() - best).abs() < 1e-9, "{metric}");
            let interval = scores.interval(metric);
            if matches!(metric, Metric::ExactMatch | Metric::ExactMatchNormalized) {
                // all of a few is not all there are
                let [low, high] = interval.unwrap();
                prop_assert!(low > 0.0 && low < 1.0 && (high - 1.0).abs() < 1e-9, "{metric} {low} {high}");
                continue;
            }
            // of a single text there is none
            prop_assert_eq!(interval.is_some(), texts.len() > 1);
            prop_assert!(interval.into_iter().flatten().all(|end| (end - best).abs() < 1e-9));
        }
        prop_assert_eq!(scores.get(Metric::Cosine), None);
    }

    #[test]
    fn order_of_rows_does_not_count(pairs in vec((text(), text()), 2..6), at in any::<prop::sample::Index>()) {
        let scores = |pairs: &[(String, String)]| {
            let (references, hypotheses): (Vec<_>, Vec<_>) = pairs.iter().cloned().unzip();
            Statistics::of(&references, &hypotheses, None).scores()
        };
        let mut turned = pairs.clone();
        turned.rotate_left(at.index(pairs.len()));
        for (a, b) in scores(&pairs).into_iter().zip(scores(&turned)) {
            prop_assert!((a - b).abs() < 1e-9 || (a.is_nan() && b.is_nan()));
        }
    }

    #[test]
    fn overlap_metrics_are_symmetric(a in text(), b in text()) {
        let scores = |a: &String, b: &String| Statistics::of(from_ref(a), from_ref(b), None).scores();
        let (there, back) = (scores(&a, &b), scores(&b, &a));
        for metric in [Metric::TokenF1, Metric::TokenSetF1, Metric::RougeL, Metric::ExactMatch] {
            prop_assert!((there[metric as usize] - back[metric as usize]).abs() < 1e-12, "{metric}");
        }
    }

    #[test]
    fn sentences_keep_every_word(text in text()) {
        let joined = sentences(&text).join(" ");
        // the apostrophes of the text, its quotes and its white space can move; nothing else may get lost
        let kept = |text: &str| words(text).flat_map(str::chars).collect::<String>();
        prop_assert_eq!(kept(&joined), kept(&text));
        prop_assert!(word_tokenize(&text).iter().all(|token| !token.is_empty()));
        prop_assert!(tokenize(&text).iter().all(|token| words(token).count() == 1));
    }
}

/// Texts of which some came back and others did in part.
fn mixed(n: usize) -> (Vec<String>, Vec<String>) {
    let references: Vec<String> =
        (0..n).map(|i| format!("the man {} sees a dog number {i} run home", i % 7)).collect();
    let hypotheses = references
        .iter()
        .enumerate()
        .map(|(i, text)| if i % 3 == 0 { text.replace("dog", "big cat") } else { text.clone() })
        .collect();
    (references, hypotheses)
}

#[test]
fn intervals_hold_the_score_and_narrow_with_n() {
    let width = |n: usize| {
        let (references, hypotheses) = mixed(n);
        let scores = score(&references, &hypotheses, None, &Bootstrap::default()).unwrap();
        // these texts have numbers, and neither names nor negations
        let none = [Metric::Cosine, Metric::NameRecall, Metric::NegationRecall];
        for metric in Metric::ALL.into_iter().filter(|metric| !none.contains(metric)) {
            let (value, [low, high]) = (scores.get(metric).unwrap(), scores.interval(metric).unwrap());
            assert!(low <= value && value <= high, "{metric}: {low} {value} {high}");
        }
        let [low, high] = scores.interval(Metric::ExactMatch).unwrap();
        high - low
    };
    let (few, many) = (width(90), width(900));
    // the standard error of a share p is sqrt(p (1 - p) / n); the interval is about 3.92 of them wide
    let expected = |n: f64| 3.92 * (2.0 / 9.0 / n).sqrt();
    assert!((few / expected(90.0) - 1.0).abs() < 0.15, "{few}");
    assert!((many / expected(900.0) - 1.0).abs() < 0.15, "{many}");
}

#[test]
fn intervals_do_not_depend_on_threads() {
    let (references, hypotheses) = mixed(50);
    let intervals = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| score(&references, &hypotheses, None, &Bootstrap::default()).unwrap())
    };
    assert_eq!(intervals(1), intervals(3));
    let other = Bootstrap { seed: 1, ..Bootstrap::default() };
    assert_ne!(intervals(1).intervals, score(&references, &hypotheses, None, &other).unwrap().intervals);
    let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
    assert!(score(&references, &hypotheses, None, &none).unwrap().intervals.is_empty());
}
