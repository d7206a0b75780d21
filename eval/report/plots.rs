//! The plots of a report.

use super::svg::{Axis, BarRow, Bars, Plot, histogram};
use super::{Subject, by_name};
use crate::metrics::Metric;
use crate::result::{Bucket, Scores};
use crate::suites::robustness::Perturbation;
use crate::suites::sts::evenly;

/// A plot with the sentence below it.
#[derive(Debug, serde::Serialize)]
pub(super) struct Figure {
    pub(super) svg: String,
    pub(super) caption: String,
}

fn figure(svg: String, caption: &str) -> Figure {
    Figure { svg, caption: caption.to_owned() }
}

fn pairs(points: &[[f64; 2]]) -> Vec<(f64, f64)> {
    points.iter().map(|&[x, y]| (x, y)).collect()
}

/// Losses against minutes.
pub(super) fn training(subjects: &[Subject]) -> Option<Figure> {
    let known: Vec<_> =
        subjects.iter().filter_map(|subject| Some((subject, subject.training.as_ref()?))).collect();
    let all = || known.iter().flat_map(|(_, training)| training.loss.iter().chain(&training.dev_loss));
    all().next()?;
    let x = Axis::around("minutes", all().map(|point| point[0]).chain([0.0]), false);
    let mut plot = Plot::new(
        "Loss during the training",
        x,
        Axis::around("loss, nats a token", all().map(|p| p[1]), false),
    );
    for (subject, training) in known {
        plot = plot.line(&format!("{}: training", subject.name), pairs(&training.loss));
        plot = plot.line(&format!("{}: dev", subject.name), pairs(&training.dev_loss));
    }
    Some(figure(
        plot.svg(),
        "The loss a token on training texts (as they come) and on dev texts (averaged weights).",
    ))
}

/// The round trip of dev texts against minutes.
pub(super) fn progress(subjects: &[Subject]) -> Option<Figure> {
    let known: Vec<_> =
        subjects.iter().filter_map(|subject| Some((subject, subject.training.as_ref()?))).collect();
    let all = || known.iter().flat_map(|(_, training)| &training.cosine);
    all().next()?;
    let x = Axis::around("minutes", all().map(|point| point[0]).chain([0.0]), false);
    let y = Axis::around("cosine", all().map(|point| point[1]).chain([1.0]), false);
    let mut plot = Plot::new("Round trip during the training", x, y);
    for (subject, training) in known {
        plot = plot.line(&subject.name, pairs(&training.cosine));
    }
    Some(figure(plot.svg(), "Cosine of a few dev texts to what came back, one guess each."))
}

/// A value and its interval.
type Bar = (f64, Option<[f64; 2]>);

/// Bars by name, for each subject one.
fn bars(
    title: &str,
    along: &str,
    caption: &str,
    subjects: &[Subject],
    rows: Vec<(String, Vec<Option<Bar>>)>,
) -> Option<Figure> {
    let row = |(name, values)| BarRow { name, values };
    let rows: Vec<BarRow> = rows.into_iter().map(row).collect();
    let series = subjects.iter().map(|subject| subject.name.clone()).collect();
    let axis = Axis::between(along, 0.0, 1.0);
    (!rows.is_empty()).then(|| figure(Bars { title: title.into(), axis, rows, series }.svg(), caption))
}

fn cosine_of(scores: &Scores) -> Option<Bar> {
    Some((scores.cosine?, scores.interval(Metric::Cosine)))
}

const COSINE: &str = "cosine of what came back to what went in";

/// Cosine by length.
pub(super) fn lengths(subjects: &[Subject]) -> Option<Figure> {
    let of = |subject: &Subject| -> Vec<(String, Bar)> {
        let buckets = subject.evaluation.reconstruction.iter().flat_map(|result| &result.buckets.length);
        let name = |of: &Bucket| match subjects {
            [_] => format!("{} tokens (n = {})", of.name, of.scores.n),
            _ => format!("{} tokens", of.name),
        };
        buckets.filter_map(|of| Some((name(of), cosine_of(&of.scores)?))).collect()
    };
    let caption = "Longer texts hold more than one vector tells; bars with 95 % intervals.";
    let mut rows = by_name(subjects, of);
    // "<=8", ..., "<=512", ">512": a subject may have none of the shortest
    let end = |name: &str| {
        let digits: String =
            name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap_or(0) + u64::from(name.starts_with('>'))
    };
    rows.sort_by_key(|(name, _)| end(name));
    bars("Cosine by length", COSINE, caption, subjects, rows)
}

/// Distribution of the cosines.
pub(super) fn cosines(subjects: &[Subject]) -> Option<Figure> {
    let of = |subject: &Subject| -> Vec<f64> {
        subject.evaluation.rows.iter().filter_map(|row| row.cosine).collect()
    };
    let known: Vec<_> =
        subjects.iter().map(|subject| (subject, of(subject))).filter(|(_, all)| !all.is_empty()).collect();
    let lowest = known.iter().flat_map(|(_, all)| all).copied().reduce(f64::min)?;
    let range = (((lowest * 10.0).floor() / 10.0).min(0.9), 1.0);
    let bars: Vec<_> = known.iter().map(|(subject, all)| (subject, histogram(all, range, 40))).collect();
    let highest = bars.iter().flat_map(|(_, bars)| bars).map(|bar| bar.2).fold(0.0, f64::max);
    let y = Axis::around("share of the texts", [0.0, highest].into_iter(), false);
    let mut plot = Plot::new("Cosines", Axis::between("cosine", range.0, range.1), y);
    for (subject, bars) in bars {
        plot = plot.steps(&subject.name, bars);
    }
    Some(figure(plot.svg(), "How near what came back lies to what went in, text by text."))
}

/// Points of a plot at most.
const DOTS: usize = 1500;

/// Cosines of STS pairs before and after, a plot a set.
pub(super) fn sts(subjects: &[Subject]) -> Vec<Figure> {
    let Some(first) = subjects.first() else { return Vec::new() };
    let whose = if subjects.len() > 1 { format!(", {}", first.name) } else { String::new() };
    let plot = |set: &crate::suites::sts::StsResult| {
        let some =
            if set.pairs.len() > DOTS { format!(", {DOTS} of {}", set.pairs.len()) } else { String::new() };
        let axis = |label: &str| {
            let all = set.pairs.iter().flat_map(|pair| [pair[1], pair[2]]);
            Axis::around(label, all, false)
        };
        let points = evenly(&set.pairs, DOTS).map(|pair| (pair[1], pair[2])).collect();
        let (low, high) = axis("").range;
        let plot =
            Plot::new(&set.name, axis("cosine of the pair, originals"), axis("cosine, both read back"))
                .dots(&set.name, points)
                .line("as before", vec![(low, low), (high, high)]);
        figure(
            plot.svg(),
            &format!(
                "{}{whose}: a point is a pair of sentences{some}; on the line nothing changed.",
                set.name
            ),
        )
    };
    first.evaluation.sts.iter().map(plot).collect()
}

/// Domains.
pub(super) fn domains(subjects: &[Subject]) -> Option<Figure> {
    let of = |subject: &Subject| -> Vec<(String, Bar)> {
        let domains = subject.evaluation.domains.iter();
        domains.filter_map(|of| Some((of.name.clone(), cosine_of(&of.scores)?))).collect()
    };
    let caption = "The worst domain of the first decoder stands first.";
    bars("Cosine by domain", COSINE, caption, subjects, by_name(subjects, of))
}

/// Edge cases.
pub(super) fn edge_cases(subjects: &[Subject]) -> Option<Figure> {
    let of = |subject: &Subject| -> Vec<(String, Bar)> {
        let categories = subject.evaluation.edge_cases.iter().flat_map(|found| &found.categories);
        categories
            .filter_map(|of| Some((of.category.clone(), (of.passed.value?, of.passed.interval))))
            .collect()
    };
    let along = "share of the cases in which what counts came back";
    let caption = "The same number, the same formula, the same name: checked by program, case by case.";
    bars("Edge cases", along, caption, subjects, by_name(subjects, of))
}

/// Cosine against the noise on the vectors.
pub(super) fn noise(subjects: &[Subject]) -> Option<Figure> {
    let of = |subject: &Subject| -> Vec<(f64, f64)> {
        let level = |perturbation| match perturbation {
            Perturbation::Noise(level) => Some(level),
            _ => None,
        };
        let all = subject.evaluation.robustness.iter();
        all.filter_map(|found| Some((level(found.perturbation)?, found.cosine.value?))).collect()
    };
    let known: Vec<_> =
        subjects.iter().map(|subject| (subject, of(subject))).filter(|(_, all)| !all.is_empty()).collect();
    let all = || known.iter().flat_map(|(_, points)| points);
    all().next()?;
    let x = Axis::around("standard deviation of the noise in each number", all().map(|point| point.0), true);
    let mut plot =
        Plot::new("Noise on the vectors", x, Axis::between("cosine to the text's own vector", 0.0, 1.0));
    for (subject, points) in known {
        plot = plot.line(&subject.name, points);
    }
    Some(figure(plot.svg(), "What comes back of vectors that are not quite those of the texts."))
}

/// Quality against re-encodings, where one decoder was judged by the same number of texts with several of them.
pub(super) fn budgets(subjects: &[Subject]) -> Option<Figure> {
    let decoder = |subject: &Subject| {
        let found = &subject.evaluation;
        let texts = found.reconstruction.as_ref().map(|result| result.summary.n);
        (found.decoder.path.clone(), found.decoder.step, texts)
    };
    let first = decoder(subjects.first()?);
    if subjects.iter().any(|subject| decoder(subject) != first) {
        return None;
    }
    let of = |subject: &Subject| {
        let result = subject.evaluation.reconstruction.as_ref()?;
        Some((result.settings.encodings + 1.0, result.summary.cosine?))
    };
    let mut points: Vec<(f64, f64)> = subjects.iter().filter_map(of).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|a, b| a.0 == b.0);
    if points.len() < 2 {
        return None;
    }
    let x = Axis::around("re-encodings a text, and 1", points.iter().map(|point| point.0), true);
    let y = Axis::around("cosine", points.iter().map(|point| point.1).chain([1.0]), false);
    let plot = Plot::new("Quality against re-encodings", x, y).line("", points);
    Some(figure(plot.svg(), "What a search by encoding again buys."))
}
