//! The tables of a report, for the page and for Markdown.

use serde::Serialize;

use super::{Subject, compared};
use crate::metrics::Metric;
use crate::result::{RoundTrip, Scores};
use crate::significance::Difference;
use crate::suites::{Evaluation, Scored};

/// A table: head, and rows of a name and cells.
#[derive(Debug, Serialize)]
pub(super) struct TableOf {
    pub(super) title: &'static str,
    pub(super) note: &'static str,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// All that some subject has results for.
pub(super) fn tables(subjects: &[Subject]) -> Vec<TableOf> {
    let all = [
        reconstruction(subjects),
        lengths(subjects),
        self_retrieval(subjects),
        sts(subjects),
        retrieval(subjects),
        domains(subjects),
        edge_cases(subjects),
        robustness(subjects),
        significance(subjects),
    ];
    all.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

fn reconstruction(subjects: &[Subject]) -> TableOf {
    let head = std::iter::once(String::new()).chain(subjects.iter().map(|subject| subject.name.clone()));
    let known = subjects.iter().any(|subject| subject.evaluation.reconstruction.is_some());
    let row = |metric: Metric| -> Vec<String> {
        let cells = subjects.iter().map(|subject| {
            let result = subject.evaluation.reconstruction.as_ref();
            result.map_or(String::new(), |result| metric_cell(&result.summary, metric))
        });
        std::iter::once(format!("{} {}", metric.name().replace('_', " "), metric.arrow()))
            .chain(cells)
            .collect()
    };
    let cost = |name: &str, of: fn(&Evaluation, &RoundTrip) -> Option<f64>| -> Vec<String> {
        let cells = subjects.iter().map(|subject| {
            let found = subject.evaluation.reconstruction.as_ref();
            found.and_then(|found| of(&subject.evaluation, found)).map_or(String::new(), whole_or_tenths)
        });
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let costs = [
        cost("re-encodings a text", |_, found| Some(found.settings.encodings)),
        cost("texts a second", |_, found| Some(found.settings.texts_per_s)),
        cost("most memory, GB", |all, _| {
            Some(all.cost.memory_bytes as f64 / 1e9).filter(|&memory| memory > 0.0)
        }),
        cost("texts", |_, found| Some(found.summary.n as f64)),
    ];
    // a plain round trip does not tell its memory
    let costs = costs.into_iter().filter(|row| row.iter().skip(1).any(|cell| !cell.is_empty()));
    TableOf {
        title: "Do the words come back?",
        note: "BLEU, sentence BLEU and chrF go to 100, the others to 1. An arrow says what is better: CER is an error, best at \
               0, and may exceed 1; the length ratio is best at 1. With 95 % intervals: Wilson's of exact matches and denials, else the bootstrap's. The recalls say \
               how many numbers, names and denials they are of.",
        head: head.collect(),
        rows: if known { Metric::ALL.into_iter().map(row).chain(costs).collect() } else { Vec::new() },
    }
}

fn self_retrieval(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().filter_map(|subject| {
        let found = subject.evaluation.self_retrieval.as_ref()?;
        Some(vec![subject.name.clone(), found.n.to_string(), scored(found.top_1), scored(found.mrr)])
    });
    TableOf {
        title: "Does a text find itself?",
        note: "What came back, encoded again, is searched for among the vectors of all texts: how often that of its own text \
               is the nearest, and the mean of 1 over its rank.",
        head: head(&["decoder", "texts", "own vector first", "reciprocal rank"]),
        rows: rows.collect(),
    }
}

fn whole_or_tenths(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn head(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|&column| column.to_owned()).collect()
}

fn sts(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        subject.evaluation.sts.iter().flat_map(move |set| {
            let space = subject.evaluation.judge.as_ref();
            let other = space.map_or("another encoder".to_owned(), |space| space.encoder.clone());
            let judged = set.judge.iter().map(move |scores| (other.clone(), scores));
            let own = std::iter::once(("its own encoder".to_owned(), &set.scores));
            own.chain(judged).map(move |(judge, scores)| {
                vec![
                    subject.name.clone(),
                    set.name.clone(),
                    judge,
                    set.n.to_string(),
                    plain(scores.originals.spearman),
                    scored(scores.both.spearman),
                    scored(scores.one_side.spearman),
                    scored(scores.preservation),
                    plain(scores.mean_change),
                ]
            })
        })
    });
    TableOf {
        title: "Are sentences as alike as before?",
        note: "Spearman's correlation of cosines with people's scores: of the originals, of both sentences read back from \
               their vectors, of the first one read back alone; preserved: read back over originals; and the mean change of \
               a pair's cosine.",
        head: head(&[
            "decoder",
            "set",
            "judged by",
            "pairs",
            "originals",
            "both read back",
            "one read back",
            "preserved",
            "mean change",
        ]),
        rows: rows.collect(),
    }
}

fn retrieval(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        subject.evaluation.retrieval.iter().map(move |set| {
            vec![
                subject.name.clone(),
                set.name.clone(),
                format!("{} / {}", set.n, set.documents),
                plain(set.originals.ndcg_at_10),
                scored(set.queries.scores.ndcg_at_10),
                scored(set.documents_read_back.scores.ndcg_at_10),
                scored(set.queries.preservation),
                plain(set.queries.overlap_at_10),
                plain(set.queries.scores.recall_at_100),
                plain(set.queries.scores.mrr_at_10),
            ]
        })
    });
    TableOf {
        title: "Are documents still found?",
        note: "nDCG@10 of the originals, with queries read back from their vectors, and among documents read back; preserved, \
               overlap, recall and reciprocal rank are those of queries read back.",
        head: head(&[
            "decoder",
            "collection",
            "queries / documents",
            "originals",
            "queries read back",
            "documents read back",
            "preserved",
            "overlap@10",
            "recall@100",
            "MRR@10",
        ]),
        rows: rows.collect(),
    }
}

/// Metrics of parts of the texts.
const OF_PARTS: [Metric; 4] = [Metric::Cosine, Metric::Bleu, Metric::TokenF1, Metric::ExactMatch];

fn of_part(subject: &Subject, name: &str, scores: &Scores) -> Vec<String> {
    let numbers = OF_PARTS.map(|metric| metric_cell(scores, metric));
    [subject.name.clone(), name.to_owned(), scores.n.to_string()].into_iter().chain(numbers).collect()
}

fn head_of_parts(part: &str) -> Vec<String> {
    head(&["decoder", part, "texts", "cosine", "BLEU", "token F1", "exact match"])
}

fn lengths(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        let buckets = subject.evaluation.reconstruction.iter().flat_map(|result| &result.buckets.length);
        buckets.map(move |bucket| of_part(subject, &bucket.name, &bucket.scores))
    });
    TableOf {
        title: "How long may a text be?",
        note: "By tokens of the text in the encoder's tokenizer. Longer texts hold more than one vector tells.",
        head: head_of_parts("tokens"),
        rows: rows.collect(),
    }
}

fn domains(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        subject.evaluation.domains.iter().map(move |domain| of_part(subject, &domain.name, &domain.scores))
    });
    TableOf {
        title: "Where is it weak?",
        note: "Texts of one kind each, the worst kind first.",
        head: head_of_parts("domain"),
        rows: rows.collect(),
    }
}

fn edge_cases(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        let categories = subject.evaluation.edge_cases.iter().flat_map(|found| &found.categories);
        categories.map(move |of| {
            vec![
                subject.name.clone(),
                of.category.clone(),
                of.n.to_string(),
                scored(of.passed),
                plain(of.cosine),
            ]
        })
    });
    TableOf {
        title: "What of numbers, names, formulas, negations?",
        note: "Short texts of one difficulty each: the share in which what counts came back (the same number, the same \
               formula), checked by program, with Wilson's intervals.",
        head: head(&["decoder", "category", "cases", "came back", "cosine"]),
        rows: rows.collect(),
    }
}

fn robustness(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        subject.evaluation.robustness.iter().map(move |found| {
            let numbers = [found.cosine, found.cosine_to_changed, found.bleu, found.token_f1].map(scored);
            [subject.name.clone(), found.perturbation.to_string(), format!("{:.3}", found.kept)]
                .into_iter()
                .chain(numbers)
                .collect()
        })
    });
    TableOf {
        title: "What of vectors that were changed?",
        note: "Noise, coarser storage, and steps towards another text; the cosine kept is that of the changed vector to the \
               text's own, to which, and to the changed one, what came back is compared.",
        head: head(&["decoder", "change", "cosine kept", "cosine", "to the changed", "BLEU", "token F1"]),
        rows: rows.collect(),
    }
}

fn significance(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().zip(compared(subjects)).flat_map(|(subject, differences)| {
        let row = move |of: Difference| {
            let [low, high] = of.interval;
            vec![
                subject.name.clone(),
                format!("{} {}", of.metric.replace('_', " "), if of.lower_is_better { "↓" } else { "↑" }),
                format!("{:+.3}", of.difference),
                format!("{low:+.3} to {high:+.3}"),
                format!("{:.3}", of.p),
            ]
        };
        differences.into_iter().map(row)
    });
    TableOf {
        title: "Is the difference more than chance?",
        note: "Against the first decoder on the same texts, by paired bootstrap resampling; p is two-sided. Below 0 is better \
               where the arrow points down.",
        head: head(&["decoder", "metric", "difference", "95 % interval", "p"]),
        rows: rows.collect(),
    }
}

/// A metric with its interval, and what a recall is of; empty where it was not measured.
fn metric_cell(scores: &Scores, metric: Metric) -> String {
    let Some(value) = scores.get(metric) else { return String::new() };
    let facts = scores.facts_of(metric).map(|count| format!(", of {count}")).unwrap_or_default();
    scored(Scored { value: Some(value), interval: scores.interval(metric) }) + &facts
}

fn plain(scored: Scored) -> String {
    scored.value.map_or(String::new(), number)
}

fn scored(scored: Scored) -> String {
    match (scored.value, scored.interval) {
        (Some(value), Some([low, high])) => {
            format!("{} ({} to {})", number(value), number(low), number(high))
        }
        _ => plain(scored),
    }
}

fn number(value: f64) -> String {
    if value.abs() >= 10.0 { format!("{value:.1}") } else { format!("{value:.3}") }
}
