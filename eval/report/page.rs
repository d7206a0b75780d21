//! A report as one HTML file.

use minijinja::value::Serde;
use minijinja::{Environment, Value, context};
use serde::Serialize;

use super::diff::{Piece, pieces};
use super::plots::{self, Figure};
use super::tables::tables;
use super::{Subject, caveat, headline};
use crate::result::Row;
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

impl From<minijinja::Error> for Error {
    fn from(error: minijinja::Error) -> Self {
        Error::Template { reason: error.to_string() }
    }
}

fn value(serializable: impl Serialize) -> Value {
    Value::from(Serde(serializable))
}
