//! Build reports and inspections as plain text for a terminal.

use std::fmt::{self, Display, Formatter};

use super::build::{BuildReport, Outcome};
use super::config::Storage;
use super::inspect::{Distribution, Inspection, SampleRow};
use super::manifest::{CosineLoss, Counts, Flow};

/// Letters of a sample's text that are shown.
const SAMPLE_CHARS: usize = 100;

impl Display for BuildReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let manifest = &self.manifest;
        let seconds = self.elapsed.as_secs_f64();
        let (pairs, shards) = (manifest.pairs, manifest.shards.len());
        match self.outcome {
            Outcome::Built => writeln!(f, "{pairs} pairs in {shards} shards, built in {seconds:.1} s")?,
            Outcome::Resumed => writeln!(
                f,
                "{pairs} pairs in {shards} shards; {} were complete, the rest was built in {seconds:.1} s",
                self.resumed_shards
            )?,
            Outcome::AlreadyBuilt => {
                writeln!(f, "{pairs} pairs in {shards} shards, built before: nothing to do")?
            }
        }
        write_storage(f, manifest.storage, manifest.cosine_loss)?;
        write_counts(f, &manifest.counts)?;
        write_flow(f, &manifest.flow)
    }
}

impl Display for Inspection {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        writeln!(
            f,
            "{} pairs of {} numbers in {} shards, {megabytes:.1} MB",
            self.pairs, self.dim, self.shards
        )?;
        writeln!(f, "space     {}", self.space)?;
        write_storage(f, self.storage, self.cosine_loss)?;
        write_counts(f, &self.counts)?;
        write_flow(f, &self.flow)?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "", "mean", "min", "median", "90 %", "99 %", "max"
        )?;
        for (name, values) in [("tokens", &self.tokens), ("words", &self.words), ("norm", &self.norms)] {
            write_distribution(f, name, values)?;
        }
        for sample in &self.samples {
            writeln!(f)?;
            let SampleRow { row, split, domain, source, prompt, .. } = sample;
            writeln!(f, "row {row} · {split} · {domain} · {source} · prompt {prompt}")?;
            writeln!(f, "  {}", beginning(&sample.text))?;
            let head: Vec<String> = sample.vector_head.iter().map(|x| format!("{x:.4}")).collect();
            writeln!(f, "  [{}, …] norm {:.4}", head.join(", "), sample.norm)?;
        }
        Ok(())
    }
}

fn write_storage(f: &mut Formatter<'_>, storage: Storage, loss: Option<CosineLoss>) -> fmt::Result {
    match (storage, loss) {
        (Storage::F16, Some(loss)) => {
            writeln!(
                f,
                "storage   f16, which costs a cosine of {:.1e} on average, {:.1e} at most",
                loss.mean, loss.max
            )
        }
        (Storage::F16, None) => writeln!(f, "storage   f16"),
        (Storage::F32, _) => writeln!(f, "storage   f32"),
    }
}

fn write_counts(f: &mut Formatter<'_>, counts: &Counts) -> fmt::Result {
    for (name, kinds) in [
        ("split", &counts.split),
        ("domain", &counts.domain),
        ("source", &counts.source),
        ("prompt", &counts.prompt),
    ] {
        let kinds: Vec<String> = kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect();
        writeln!(f, "{name:<10}{}", kinds.join(" · "))?;
    }
    Ok(())
}

fn write_flow(f: &mut Formatter<'_>, flow: &Flow) -> fmt::Result {
    writeln!(f, "dropped   of {} documents read: {}", flow.read, flow.drops)?;
    for corpus in flow.corpora.iter().filter(|corpus| corpus.rows.malformed > 0) {
        let (name, rows, malformed) = (&corpus.name, corpus.rows.rows, corpus.rows.malformed);
        writeln!(f, "malformed {malformed} of {rows} rows of {name}")?;
        for example in &corpus.rows.examples {
            writeln!(f, "          {example}")?;
        }
    }
    Ok(())
}

fn write_distribution(f: &mut Formatter<'_>, name: &str, values: &Distribution) -> fmt::Result {
    write!(f, "{name:<8}")?;
    for value in [values.mean, values.min, values.p50, values.p90, values.p99, values.max] {
        // whole numbers, as counts are, stand without a fraction
        if value.fract() == 0.0 { write!(f, "{value:>10}")? } else { write!(f, "{value:>10.3}")? }
    }
    writeln!(f)
}

/// The beginning of a text, on one line.
fn beginning(text: &str) -> String {
    let line: String =
        text.chars().take(SAMPLE_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(SAMPLE_CHARS).is_some() { line + "…" } else { line }
}
