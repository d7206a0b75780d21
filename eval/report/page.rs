//! A report as one HTML file.

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::diff::{Piece, pieces};
use super::markdown::{plain, scored};
use super::plots::{self, Figure};
use super::{Subject, caveat, compared, headline};
use crate::metrics::Metric;
use crate::result::{RoundTrip, Row};
use crate::suites::Scored;
use crate::{Error, Result};

/// Samples of each kind in the gallery.
const SHOWN: usize = 60;

/// A sample with its differences marked.
#[derive(Debug, Serialize)]
struct Sample {
    kind: &'static str,
    subject: String,
    domain: String,
    cosine: String,
    exact: bool,
    pieces: Vec<Piece>,
}

/// A table: head, and rows of a name and cells.
#[derive(Debug, Serialize)]
struct TableOf {
    title: &'static str,
    note: &'static str,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One self-contained page about one or several evaluations: no network, no file beside it.
///
/// # Errors
/// [`Error::Template`], which the tests have not met.
pub fn html(title: &str, subjects: &[Subject]) -> Result<String> {
    let mut environment = Environment::new();
    // the name ends in .html: everything that is put in is escaped unless it is marked safe
    environment.add_template("report.html", include_str!("report.html"))?;
    let figures: Vec<Figure> = [
        plots::training(subjects),
        plots::progress(subjects),
        plots::lengths(subjects),
        plots::cosines(subjects),
        plots::budgets(subjects),
        plots::domains(subjects),
        plots::edge_cases(subjects),
        plots::noise(subjects),
    ]
    .into_iter()
    .flatten()
    .chain(plots::sts(subjects))
    .collect();
    let heads: Vec<_> = subjects
        .iter()
        .map(|subject| {
            let evaluation = &subject.evaluation;
            let space = &evaluation.space;
            context! {
                name => subject.name.clone(),
                sentences => headline(evaluation),
                trial => evaluation.trial,
                decoder => value(&evaluation.decoder),
                space => context! { encoder => space.encoder.clone(), id => space.id(), dim => space.dim },
                strategy => evaluation.strategy.clone(),
                dtype => evaluation.dtype.clone(),
                training => value(&subject.training),
                commands => subject.commands.clone(),
                versions => evaluation.versions.clone(),
                seed => evaluation.bootstrap.seed,
                resamples => evaluation.bootstrap.resamples,
                cost => value(evaluation.cost),
            }
        })
        .collect();
    let samples: Vec<Sample> = subjects.iter().flat_map(samples).collect();
    let page = environment.get_template("report.html")?.render(context! {
        title,
        subjects => heads,
        tables => value(tables(subjects)),
        figures => value(figures),
        samples => value(samples),
        several => subjects.len() > 1,
        caveat => caveat(subjects),
    })?;
    Ok(page)
}

/// The best, the worst and, between them, evenly chosen typical ones; where not all rows are known, those of the result.
fn samples(subject: &Subject) -> Vec<Sample> {
    let sample = |kind: &'static str, row: &Row| Sample {
        kind,
        subject: subject.name.clone(),
        domain: row.domain.clone().unwrap_or_default(),
        cosine: row.cosine.map_or(String::new(), |cosine| format!("{cosine:.3}")),
        exact: row.exact_match,
        pieces: pieces(&row.reference, &row.hypothesis),
    };
    let mut rows: Vec<&Row> = subject.evaluation.rows.iter().collect();
    if rows.is_empty() {
        let Some(result) = &subject.evaluation.reconstruction else { return Vec::new() };
        let kinds = [
            ("best", &result.samples.best),
            ("typical", &result.samples.random),
            ("worst", &result.samples.worst),
        ];
        return kinds
            .into_iter()
            .flat_map(|(kind, rows)| rows.iter().map(move |row| (kind, row)))
            .map(|(kind, row)| sample(kind, row))
            .collect();
    }
    rows.sort_by(|a, b| {
        b.cosine.unwrap_or(0.0).total_cmp(&a.cosine.unwrap_or(0.0)).then(a.index.cmp(&b.index))
    });
    let count = rows.len();
    let ends = SHOWN.min(count / 3);
    let every = (count - 2 * ends).div_ceil(SHOWN).max(1);
    let kind = |place: usize| match place {
        _ if place < ends => Some("best"),
        _ if place >= count - ends => Some("worst"),
        _ if (place - ends).is_multiple_of(every) => Some("typical"),
        _ => None,
    };
    rows.iter().enumerate().filter_map(|(place, row)| Some(sample(kind(place)?, row))).collect()
}

fn tables(subjects: &[Subject]) -> Vec<TableOf> {
    let all = [
        reconstruction(subjects),
        sts(subjects),
        retrieval(subjects),
        domains(subjects),
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
            let found = result.map(|result| (result.summary.get(metric), result.summary.interval(metric)));
            found.map_or(String::new(), |(value, interval)| scored(Scored { value, interval }))
        });
        std::iter::once(format!("{} {}", metric.name().replace('_', " "), metric.arrow()))
            .chain(cells)
            .collect()
    };
    let cost = |name: &str, of: fn(&RoundTrip) -> f64| -> Vec<String> {
        let cells = subjects.iter().map(|subject| {
            subject
                .evaluation
                .reconstruction
                .as_ref()
                .map_or(String::new(), |found| whole_or_tenths(of(found)))
        });
        std::iter::once(name.to_owned()).chain(cells).collect()
    };
    let costs = [
        cost("re-encodings a text", |found| found.settings.encodings),
        cost("texts a second", |found| found.settings.texts_per_s),
        cost("texts", |found| found.summary.n as f64),
    ];
    TableOf {
        title: "Do the words come back?",
        note: "BLEU, sentence BLEU and chrF go to 100, the others to 1. An arrow says what is better: CER is an error, best at \
               0, and may exceed 1; the length ratio is best at 1. With 95 % bootstrap intervals. Recalls of facts are of \
               the texts that have such facts, which may be few.",
        head: head.collect(),
        rows: if known { Metric::ALL.into_iter().map(row).chain(costs).collect() } else { Vec::new() },
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

fn domains(subjects: &[Subject]) -> TableOf {
    let rows = subjects.iter().flat_map(|subject| {
        subject.evaluation.domains.iter().map(move |domain| {
            let scores = &domain.scores;
            let of = |metric: Metric| {
                scored(Scored { value: scores.get(metric), interval: scores.interval(metric) })
            };
            let numbers = [Metric::Cosine, Metric::Bleu, Metric::TokenF1, Metric::ExactMatch].map(of);
            [subject.name.clone(), domain.name.clone(), scores.n.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        })
    });
    TableOf {
        title: "Where is it weak?",
        note: "Texts of one kind each, the worst kind first.",
        head: head(&["decoder", "domain", "texts", "cosine", "BLEU", "token F1", "exact match"]),
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
        let row = move |of: crate::significance::Difference| {
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

impl From<minijinja::Error> for Error {
    fn from(error: minijinja::Error) -> Self {
        Error::Template { reason: error.to_string() }
    }
}

fn value(serializable: impl Serialize) -> Value {
    Value::from(Serde(serializable))
}
