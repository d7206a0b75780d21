//! A report as Markdown: the numbers without the pictures.

use std::fmt::Write as _;

use super::tables::{TableOf, tables};
use super::{Subject, caveat, headline};

/// The summary of one or several evaluations: in words, and all tables.
pub fn markdown(title: &str, subjects: &[Subject]) -> String {
    let mut text = format!("# {}\n", markdown_cell(title));
    for subject in subjects {
        let trial = if subject.evaluation.trial { " (a trial: a limit left texts out)" } else { "" };
        let sentences = markdown_cell(&headline(&subject.evaluation).join(" "));
        let _ = write!(text, "\n**{}**{trial}. {sentences}\n", markdown_cell(&subject.name));
    }
    if let Some(caveat) = caveat(subjects) {
        let _ = write!(text, "\n{caveat}\n");
    }
    tables(subjects).iter().for_each(|table| text += &section(table));
    text
}

fn section(table: &TableOf) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| markdown_cell(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = format!("|{}\n", "---|".repeat(table.head.len()));
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    format!("\n## {}\n\n{}\n\n{}{rule}{rows}", table.title, markdown_cell(table.note), line(&table.head))
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
            '\\' | '|' | '`' | '*' | '_' | '[' | ']' | '$' | '~' => cell.extend(['\\', c]),
            other => cell.push(other),
        }
    }
    cell
}
