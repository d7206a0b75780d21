//! Reports that people decide from: one HTML file with plots and samples, a Markdown summary, and what a model card says
//! of its evaluation. All are made of [`Evaluation`]s, several side by side.

mod axis;
mod card;
mod diff;
mod headline;
mod markdown;
mod page;
mod plots;
pub mod svg;
mod tables;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use card::{eval_results, model_index};
pub use headline::headline;
pub use markdown::{markdown, markdown_cell};
pub use page::html;

use crate::metrics::{Metric, Statistics};
use crate::significance::{Difference, differences};
use crate::suites::Evaluation;

/// An evaluation with what is known of how its decoder came to be.
#[derive(Debug, Clone)]
pub struct Subject {
    /// What it is called in the report.
    pub name: String,
    /// What was found.
    pub evaluation: Evaluation,
    /// How its training went.
    pub training: Option<Training>,
    /// The commands that make it again, one a line.
    pub commands: Vec<String>,
}

/// How a training went, for its curves.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Training {
    /// `[minutes, loss]` of the steps.
    pub loss: Vec<[f64; 2]>,
    /// `[minutes, dev loss]`.
    pub dev_loss: Vec<[f64; 2]>,
    /// `[minutes, cosine]` of the round trip of dev texts.
    pub cosine: Vec<[f64; 2]>,
    /// Trained parameters.
    pub parameters: i64,
    /// Target tokens trained on.
    pub tokens: u64,
    /// Minutes.
    pub minutes: f64,
    /// The recipe.
    pub recipe: String,
}

/// What subjects have under a name, a place for each subject; in the order in which names are met.
fn by_name<T>(
    subjects: &[Subject],
    of: impl Fn(&Subject) -> Vec<(String, T)>,
) -> Vec<(String, Vec<Option<T>>)> {
    let mut rows: Vec<(String, Vec<Option<T>>)> = Vec::new();
    for (number, subject) in subjects.iter().enumerate() {
        for (name, found) in of(subject) {
            let place = rows.iter().position(|(other, _)| *other == name).unwrap_or_else(|| {
                rows.push((name, subjects.iter().map(|_| None).collect()));
                rows.len() - 1
            });
            rows[place].1[number] = Some(found);
        }
    }
    rows
}

/// Whether the vectors of two subjects can be compared: of one space, under one prompt.
fn same_space(a: &Subject, b: &Subject) -> bool {
    let (a, b) = (&a.evaluation, &b.evaluation);
    a.space.is_same(&b.space) && a.prompt == b.prompt
}

/// What a reader must know before comparing the subjects; nothing where there is nothing.
fn caveat(subjects: &[Subject]) -> Option<String> {
    let first = subjects.first()?;
    let mut said = Vec::new();
    if subjects.iter().any(|subject| !same_space(first, subject)) {
        said.push(
            "The decoders read vectors of different spaces or prompts: their cosines cannot be compared.",
        );
    }
    if compared(subjects).iter().skip(1).any(Vec::is_empty) {
        said.push(
            "Where no significance is told, the texts differ or are fewer than 20, there are no resamples, or a result holds \
             no rows: `eval --suite reconstruction` keeps them.",
        );
    }
    let differs = |(name, n): (&String, &usize)| {
        subjects.iter().any(|other| sizes(other).get(name).is_some_and(|m| m != n))
    };
    if sizes(first).iter().any(differs) {
        said.push("Sets of one name differ in size: their scores are of other texts, pairs or queries.");
    }
    (!said.is_empty()).then(|| said.join(" "))
}

/// Rows of each set, by its name.
fn sizes(subject: &Subject) -> BTreeMap<String, usize> {
    let tasks = subject.evaluation.tasks.iter();
    tasks.map(|task| (format!("{} {}", task.suite, task.task), task.n)).collect()
}

/// The differences of each subject from the first, where both were judged by the same texts; empty for the first. Cosines
/// are left out where they are of different spaces.
pub fn compared(subjects: &[Subject]) -> Vec<Vec<Difference>> {
    let statistics = |subject: &Subject| -> Option<Statistics> {
        let rows = &subject.evaluation.rows;
        let texts = |of: fn(&crate::Row) -> &String| rows.iter().map(of).cloned().collect::<Vec<_>>();
        let cosines: Option<Vec<f64>> = rows.iter().map(|row| row.cosine).collect();
        let (references, hypotheses) = (texts(|row| &row.reference), texts(|row| &row.hypothesis));
        (!rows.is_empty()).then(|| Statistics::of(&references, &hypotheses, cosines.as_deref()))
    };
    let references = |subject: &Subject| -> Vec<String> {
        subject.evaluation.rows.iter().map(|row| row.reference.clone()).collect()
    };
    let Some(first) = subjects.first() else { return Vec::new() };
    let (of_first, texts) = (statistics(first), references(first));
    let compare = |(number, subject): (usize, &Subject)| match (&of_first, statistics(subject)) {
        (Some(a), Some(b)) if number > 0 && references(subject) == texts => {
            let mut found = differences(a, &b, &first.evaluation.bootstrap);
            found.retain(|of| of.metric != Metric::Cosine.name() || same_space(first, subject));
            found
        }
        _ => Vec::new(),
    };
    subjects.iter().enumerate().map(compare).collect()
}
