//! A round trip as a table of plain text.

use std::fmt::Write as _;

use crate::metrics::Metric;
use crate::result::{Bucket, RoundTrip, Row, Scores};

/// Metrics in the tables of parts, where a line has to hold all of them.
const IN_PARTS: [Metric; 6] =
    [Metric::Bleu, Metric::Chrf, Metric::TokenF1, Metric::ExactMatch, Metric::LengthRatio, Metric::Cosine];

/// Characters of a sample's text that are shown.
const SHOWN: usize = 200;

/// The whole result for a reader: scores with intervals, then by length and domain, then samples. Ends with a line
/// break.
pub fn table(result: &RoundTrip) -> String {
    let mut text = head(result);
    text += &scores(&result.summary);
    text += &parts("tokens", &result.buckets.length);
    // one domain says what the summary says
    if result.buckets.domain.len() > 1 {
        text += &parts("domain", &result.buckets.domain);
    }
    for (title, rows) in
        [("best", &result.samples.best), ("worst", &result.samples.worst), ("random", &result.samples.random)]
    {
        if !rows.is_empty() {
            let _ = writeln!(text, "\n{title}");
            rows.iter().for_each(|row| text += &sample(row));
        }
    }
    text
}

fn head(result: &RoundTrip) -> String {
    let settings = &result.settings;
    let (decoder, n) = (&settings.decoder, result.summary.n);
    let step = decoder.step.map(|step| format!(", step {step}")).unwrap_or_default();
    let mut text = format!("decoder  {} ({}{step})\n", decoder.path.display(), decoder.kind);
    let _ = writeln!(
        text,
        "space    {} {}, prompt {}",
        settings.space.id(),
        settings.space.encoder,
        settings.prompt
    );
    let _ = writeln!(
        text,
        "texts    {n}, {}, {} on {}, {:.1} texts/s",
        settings.strategy, settings.dtype, decoder.device, settings.texts_per_s
    );
    if settings.search.is_some() {
        let each = 1.0 / settings.texts_per_s.max(1e-9);
        let course: Vec<String> = settings.course.iter().map(|cosine| format!("{cosine:.4}")).collect();
        let _ = writeln!(
            text,
            "search   {:.1} encodings and {each:.3} s a text; mean best cosine by round {}",
            settings.encodings,
            course.join(" ")
        );
    }
    if settings.trial {
        let _ = writeln!(text, "TRIAL    the first {n} of {} texts only", settings.available);
    }
    for (count, what) in [
        (settings.truncated, "texts are longer than the encoder reads"),
        (settings.unfinished, "decoded texts were ended by the limit of tokens"),
    ] {
        if count > 0 {
            let _ = writeln!(text, "note     {count} {what}");
        }
    }
    text
}

fn scores(scores: &Scores) -> String {
    let lines = Metric::ALL.into_iter().filter_map(|metric| {
        let value = number(metric, scores.get(metric)?);
        let interval = scores.interval(metric);
        let interval =
            interval.map(|[low, high]| format!("{} .. {}", number(metric, low), number(metric, high)));
        let facts = scores.facts_of(metric).map(|count| format!(" of {count}")).unwrap_or_default();
        Some(vec![name(metric) + &facts, value, interval.unwrap_or_default()])
    });
    let head = vec!["score".to_owned(), "value".to_owned(), "95 % interval".to_owned()];
    grid(std::iter::once(head).chain(lines).collect())
}

fn parts(what: &str, buckets: &[Bucket]) -> String {
    let head = [what.to_owned(), "n".to_owned()].into_iter().chain(IN_PARTS.map(name));
    let lines = buckets.iter().map(|bucket| {
        let values = IN_PARTS.map(|metric| match bucket.scores.get(metric) {
            Some(value) => number(metric, value),
            None => "-".to_owned(),
        });
        [bucket.name.clone(), bucket.scores.n.to_string()].into_iter().chain(values).collect()
    });
    grid(std::iter::once(head.collect()).chain(lines).collect())
}

/// Columns under each other: the first to the left, the others to the right. An empty line goes before.
fn grid(lines: Vec<Vec<String>>) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::from("\n");
    for line in &lines {
        let mut row = format!("{:<width$}", line[0], width = widths[0]);
        for (cell, &width) in line.iter().zip(&widths).skip(1) {
            let _ = write!(row, "  {cell:>width$}");
        }
        text += row.trim_end();
        text.push('\n');
    }
    text
}

fn name(metric: Metric) -> String {
    format!("{metric} {}", metric.arrow())
}

fn number(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Bleu | Metric::SentenceBleu | Metric::Chrf => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn sample(row: &Row) -> String {
    let cosine = row.cosine.map(|cosine| format!("cosine {cosine:.4}  ")).unwrap_or_default();
    let (index, bleu) = (row.index, row.sentence_bleu);
    let (reference, hypothesis) = (one_line(&row.reference), one_line(&row.hypothesis));
    format!(
        "  {cosine}sentence BLEU {bleu:.1}  row {index}\n    text     {reference}\n    decoded  {hypothesis}\n"
    )
}

/// A text on one line, its control characters escaped, its end left out when it is long.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(SHOWN)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(SHOWN).is_some() {
        line.push('…');
    }
    line
}
