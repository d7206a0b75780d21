//! `report`: evaluations as a page, as Markdown, and as a model card has them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use eval::report::{Subject, Training, eval_results, html, markdown, model_index};
use serde_json::Value;
use training::Record;

use crate::failure::ArgumentError;
use crate::{again, output, results};

/// Flags of `report`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella eval runs/captions --suite all --texts held-out.txt --config configs/eval.toml --out runs/captions/evaluation.json
  inverse-stella report runs/captions --out runs/captions
  inverse-stella report runs/one runs/two --out compared
  inverse-stella report greedy.json budget-32.json budget-128.json --name greedy --name 32 --name 128 --out budgets

A run stands for its evaluation.json, or else its report.json. Several are compared with the first, with significance
where they were judged by the same texts.")]
pub(crate) struct ReportArgs {
    /// Runs, or results that `eval --out` has written
    #[arg(value_name = "RUN|RESULT.json", required = true)]
    results: Vec<PathBuf>,
    /// A name for each, in the same order [default: the folder's or the file's]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// What stands at the top
    #[arg(long, value_name = "TEXT")]
    title: Option<String>,
    /// Folder for report.html, report.md, model-index.json and eval-results.json; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Reads the results and writes the reports.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    if !args.names.is_empty() && args.names.len() != args.results.len() {
        let (names, results) = (args.names.len(), args.results.len());
        let message = format!("{names} names for {results} results");
        return Err(ArgumentError::with_hint(message, "give --name once for each, in the same order").into());
    }
    let name = |at: usize| args.names.get(at).cloned();
    let mut subjects: Vec<Subject> =
        args.results.iter().enumerate().map(|(at, path)| subject(path, name(at))).collect::<Result<_>>()?;
    number_equal_names(&mut subjects);
    let all = subjects.iter().map(|subject| subject.name.as_str()).collect::<Vec<_>>().join(", ");
    let title = args.title.clone().unwrap_or_else(|| format!("What comes back: {all}"));
    fs_err::create_dir_all(&args.out)?;
    let write = |name: &str, text: &str| -> Result<()> {
        let path = args.out.join(name);
        models::files::write_atomically(&path, |file| Ok(std::io::Write::write_all(file, text.as_bytes())?))?;
        output::write(|out| writeln!(out, "{}", path.display()))
    };
    write("report.html", &html(&title, &subjects)?)?;
    write("report.md", &markdown(&title, &subjects))?;
    let pretty = |value: &Value| serde_json::to_string_pretty(value).context("cannot write JSON");
    if let [only] = subjects.as_slice() {
        write("model-index.json", &pretty(&model_index(&only.name, &only.evaluation))?)?;
        write("eval-results.json", &pretty(&eval_results(&only.evaluation))?)?;
    }
    Ok(())
}

/// Has no two subjects be called alike.
fn number_equal_names(subjects: &mut [Subject]) {
    for at in 1..subjects.len() {
        let (before, from) = subjects.split_at_mut(at);
        let plain = from[0].name.clone();
        let mut number = 2;
        while before.iter().any(|other| other.name == from[0].name) {
            from[0].name = format!("{plain} ({number})");
            number += 1;
        }
    }
}

/// A run or a result, with what is known of its training.
fn subject(path: &Path, name: Option<String>) -> Result<Subject> {
    let file = if path.is_dir() { results::required_in_run(path)? } else { path.to_owned() };
    let evaluation = results::read(&file)?;
    let name = name.unwrap_or_else(|| name_of(path));
    let decoder = evaluation.decoder.path.clone();
    // a checkpoint lies two folders below its run
    let run = std::iter::once(path).chain(decoder.ancestors().take(3));
    let run = run.into_iter().find(|folder| folder.join("metrics.jsonl").is_file());
    let commands = again::commands(&evaluation, run, &file);
    Ok(Subject { name, training: run.and_then(training), commands, evaluation })
}

/// The name of a run's folder, or of a file; of files that all are called alike, their folder's.
fn name_of(path: &Path) -> String {
    let stem = path.file_stem().filter(|stem| *stem != "evaluation" && *stem != "report");
    let found = match stem {
        _ if path.is_dir() => path.file_name(),
        Some(stem) => Some(stem),
        None => path.parent().and_then(Path::file_name),
    };
    found.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// How a run's training went; none where its record cannot be read.
fn training(run: &Path) -> Option<Training> {
    let record = match Record::read(run) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!("the page has no training curves: {error}");
            return None;
        }
    };
    let minutes = |seconds: f64| seconds / 60.0;
    let of_step = |step: u64| {
        let at = record.steps.partition_point(|of| of.step < step);
        record.steps.get(at).or(record.steps.last()).map_or(0.0, |of| minutes(of.elapsed_s))
    };
    // a point a pixel is enough
    let every = record.steps.len().div_ceil(400).max(1);
    let means = record.steps.chunks(every).filter_map(|steps| {
        let mean = steps.iter().map(|step| step.loss).sum::<f64>() / steps.len() as f64;
        Some([minutes(steps.last()?.elapsed_s), mean])
    });
    let dev = record.dev.iter();
    let cosine = |dev: &training::DevMetrics| Some([of_step(dev.step), dev.round_trip.as_ref()?.cosine?]);
    Some(Training {
        loss: means.filter(|[_, loss]| loss.is_finite()).collect(),
        dev_loss: dev.clone().filter_map(|dev| Some([of_step(dev.step), dev.dev_loss?])).collect(),
        cosine: dev.filter_map(cosine).collect(),
        parameters: record.parameters,
        tokens: record.tokens(),
        minutes: record.minutes(),
        recipe: fs_err::read_to_string(run.join("config.toml")).unwrap_or_default(),
    })
}
