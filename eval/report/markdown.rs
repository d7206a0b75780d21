//! A report as Markdown: the numbers without the pictures.

use std::fmt::Write as _;

use super::{Subject, by_name, caveat, compared, headline};
use crate::metrics::Metric;
use crate::suites::Scored;

/// The summary of one or several evaluations.
pub fn markdown(subjects: &[Subject]) -> String {
    let mut text = String::from("# Evaluation\n");
    for subject in subjects {
        let trial = if subject.evaluation.trial { " (a trial: a limit left texts out)" } else { "" };
        let sentences = markdown_cell(&headline(&subject.evaluation).join(" "));
        let _ = write!(text, "\n**{}**{trial}. {sentences}\n", markdown_cell(&subject.name));
    }
    if let Some(caveat) = caveat(subjects) {
        let _ = write!(text, "\n{caveat}\n");
    }
    let names: Vec<String> = subjects.iter().map(|subject| markdown_cell(&subject.name)).collect();
    let mut table = |title: &str, rows: Vec<(String, Vec<String>)>| {
        if rows.iter().all(|(_, cells)| cells.iter().all(String::is_empty)) {
            return;
        }
        let _ = write!(
            text,
            "\n## {title}\n\n| | {} |\n|---|{}\n",
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for (name, cells) in rows {
            let _ = writeln!(text, "| {} | {} |", markdown_cell(&name), cells.join(" | "));
        }
    };
    table("Reconstruction", reconstruction(subjects));
    let sts = named(subjects, |subject| {
        let of = |set: &crate::suites::sts::StsResult| {
            let scores = &set.scores;
            let after = scored(scores.both.spearman);
            (set.name.clone(), format!("{} -> {after}", plain(scores.originals.spearman)))
        };
        subject.evaluation.sts.iter().map(of).collect()
    });
    table("STS, Spearman before -> after", sts);
    let retrieval = named(subjects, |subject| {
        let of = |set: &crate::suites::retrieval::RetrievalResult| {
            let after = scored(set.queries.scores.ndcg_at_10);
            (set.name.clone(), format!("{} -> {after}", plain(set.originals.ndcg_at_10)))
        };
        subject.evaluation.retrieval.iter().map(of).collect()
    });
    table("Retrieval, nDCG@10 before -> with queries read back", retrieval);
    let domains = named(subjects, |subject| {
        let of = |domain: &crate::suites::DomainResult| {
            let cosine = domain.scores.cosine.unwrap_or(0.0);
            (domain.name.clone(), format!("{cosine:.3}, BLEU {:.1}", domain.scores.bleu))
        };
        subject.evaluation.domains.iter().map(of).collect()
    });
    table("Domains, cosine", domains);
    let edge = named(subjects, |subject| {
        let all = subject.evaluation.edge_cases.iter().flat_map(|found| &found.categories);
        all.map(|category| (category.category.clone(), scored(category.passed))).collect()
    });
    table("Edge cases, share that came back", edge);
    text + &significance(subjects)
}

fn reconstruction(subjects: &[Subject]) -> Vec<(String, Vec<String>)> {
    let of = |metric: Metric| {
        let cells = subjects.iter().map(|subject| {
            let Some(result) = &subject.evaluation.reconstruction else { return String::new() };
            let Some(value) = result.summary.get(metric) else { return String::new() };
            let interval = result.summary.interval(metric);
            scored(Scored { value: Some(value), interval })
        });
        (format!("{} {}", metric.name().replace('_', " "), metric.arrow()), cells.collect())
    };
    let mut rows: Vec<(String, Vec<String>)> = Metric::ALL.into_iter().map(of).collect();
    let cost = |subject: &Subject| match &subject.evaluation.reconstruction {
        Some(result) => format!("{:.1}, {:.1}", result.settings.encodings, result.settings.texts_per_s),
        None => String::new(),
    };
    rows.push(("re-encodings a text, texts a second".into(), subjects.iter().map(cost).collect()));
    rows
}

/// Rows by name, a cell for each subject.
fn named(subjects: &[Subject], of: impl Fn(&Subject) -> Vec<(String, String)>) -> Vec<(String, Vec<String>)> {
    let cells = |cells: Vec<Option<String>>| cells.into_iter().map(Option::unwrap_or_default).collect();
    by_name(subjects, of).into_iter().map(|(name, row)| (name, cells(row))).collect()
}

fn significance(subjects: &[Subject]) -> String {
    let mut text = String::new();
    for (subject, differences) in
        subjects.iter().zip(compared(subjects)).filter(|(_, found)| !found.is_empty())
    {
        let _ = write!(
            text,
            "\n## {} against {}\n\n| | difference | 95 % interval | p |\n|---|---|---|---|\n",
            markdown_cell(&subject.name),
            subjects.first().map_or(String::new(), |first| markdown_cell(&first.name))
        );
        for of in differences {
            let [low, high] = of.interval;
            let arrow = if of.lower_is_better { "↓" } else { "↑" };
            let name = format!("{} {arrow}", of.metric.replace('_', " "));
            let _ =
                writeln!(text, "| {name} | {:+.3} | {low:+.3} to {high:+.3} | {:.3} |", of.difference, of.p);
        }
    }
    text
}

pub(super) fn plain(scored: Scored) -> String {
    scored.value.map_or(String::new(), number)
}

pub(super) fn scored(scored: Scored) -> String {
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

/// Any text as a cell of a Markdown table shows it: neither Markdown nor HTML.
pub fn markdown_cell(text: &str) -> String {
    let mut cell = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => cell.push_str("&amp;"),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '\n' | '\r' => cell.push(' '),
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '$' => cell.extend(['\\', c]),
            other => cell.push(other),
        }
    }
    cell
}
