//! `curve`: a learning curve through the ends of several trainings, and what it says of more compute.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use eval::learning_curve::PowerLaw;
use eval::metrics::{Better, Metric};
use serde::Serialize;
use training::Record;

use crate::failure::{ArgumentError, WorldError};
use crate::{output, results};

/// Flags of `curve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  inverse-stella curve runs/5-minutes runs/20-minutes runs/60-minutes
  inverse-stella curve runs/*-minutes --metric bleu --times 4,100

A run counts by its end, where its learning rate has fallen: runs of one recipe that differ in how long they trained.
dev_loss is in each run's own record; other metrics are read from RUN/evaluation.json, or else
RUN/report.json, which this writes:
  inverse-stella eval RUN --texts held-out.txt --out RUN/report.json")]
pub(crate) struct CurveArgs {
    /// Runs of different lengths, at least three
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// dev_loss, or a metric of `eval`: bleu, token_f1, exact_match, cosine, ...
    #[arg(long, value_name = "NAME", default_value = "dev_loss")]
    metric: String,
    /// What grows along the curve
    #[arg(long, value_enum, default_value_t = Against::Minutes)]
    against: Against,
    /// Multiples of the longest run to look at
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "2,4,10,100")]
    times: Vec<f64>,
    /// One JSON object: points, the law, what it says
    #[arg(long)]
    json: bool,
}

/// What a learning curve is drawn against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Against {
    /// Minutes of training, on one and the same machine
    Minutes,
    /// Target tokens trained on
    Tokens,
}

/// The end of a run.
#[derive(Debug, Serialize)]
struct Point {
    run: PathBuf,
    minutes: f64,
    tokens: u64,
    parameters: i64,
    value: f64,
}

impl Point {
    fn x(&self, against: Against) -> f64 {
        match against {
            Against::Minutes => self.minutes,
            Against::Tokens => self.tokens as f64,
        }
    }
}

/// What is said of more.
#[derive(Debug, Serialize)]
struct Foreseen {
    times: f64,
    x: f64,
    value: f64,
}

#[derive(Debug, Serialize)]
struct Curve<'a> {
    metric: &'a str,
    against: Against,
    points: Vec<Point>,
    /// Of the value where less is better, else of what it lacks of the highest.
    law: PowerLaw,
    highest: Option<f64>,
    foreseen: Vec<Foreseen>,
}

/// What is read from a run, and which way it is good.
enum Measure {
    DevLoss,
    Score { metric: Metric, highest: f64 },
}

impl Measure {
    fn named(name: &str) -> Result<Self> {
        if name == "dev_loss" {
            return Ok(Self::DevLoss);
        }
        let metrics = Metric::ALL.into_iter().filter(|metric| metric.better() == Better::Higher);
        match metrics.clone().find(|metric| metric.name() == name) {
            Some(metric) => {
                let of_hundred = matches!(metric, Metric::Bleu | Metric::SentenceBleu | Metric::Chrf);
                Ok(Self::Score { metric, highest: if of_hundred { 100.0 } else { 1.0 } })
            }
            None => {
                let names: Vec<&str> = metrics.map(Metric::name).collect();
                let hint = format!("there are dev_loss, {}", names.join(", "));
                Err(ArgumentError::with_hint(format!("--metric {name}: no metric that a curve fits"), hint)
                    .into())
            }
        }
    }

    fn highest(&self) -> Option<f64> {
        match self {
            Self::DevLoss => None,
            Self::Score { highest, .. } => Some(*highest),
        }
    }

    fn of(&self, run: &Path, record: &Record) -> Result<f64> {
        let Self::Score { metric, .. } = self else {
            return record.dev_loss().with_context(|| format!("{} measured no dev loss", run.display()));
        };
        let path = results::required_in_run(run)?;
        let score = results::read_round_trip(&path)?.summary.get(*metric);
        score.with_context(|| format!("{}: {} was not measured", path.display(), metric.name()))
    }
}

/// Fits the curve and prints it.
pub(crate) fn run(args: &CurveArgs) -> Result<()> {
    let measure = Measure::named(&args.metric)?;
    if let Some(times) = args.times.iter().find(|times| !(times.is_finite() && **times > 0.0)) {
        return Err(ArgumentError::new(format!("--times {times}: must be above 0")).into());
    }
    let point = |run: &PathBuf| -> Result<Point> {
        let record = Record::read(run)?;
        let (minutes, tokens, parameters) = (record.minutes(), record.tokens(), record.parameters);
        Ok(Point { run: run.clone(), minutes, tokens, parameters, value: measure.of(run, &record)? })
    };
    let mut points: Vec<Point> = args.runs.iter().map(point).collect::<Result<_>>()?;
    points.sort_by(|a, b| a.x(args.against).total_cmp(&b.x(args.against)));
    let highest = measure.highest();
    let turned = |value: f64| highest.map_or(value, |highest| highest - value);
    let falling: Vec<(f64, f64)> =
        points.iter().map(|point| (point.x(args.against), turned(point.value))).collect();
    let law = PowerLaw::fit(&falling).ok_or_else(|| {
        WorldError::with_hint(
            format!("{} of these runs is no learning curve", args.metric),
            "it takes at least three runs of different lengths, of which the longer ones are better",
        )
    })?;
    let longest = falling.last().map_or(0.0, |&(x, _)| x);
    let foresee = |&times: &f64| {
        let x = longest * times;
        Foreseen { times, x, value: turned(law.at(x)) }
    };
    let foreseen = args.times.iter().map(foresee).collect();
    let curve = Curve { metric: &args.metric, against: args.against, points, law, highest, foreseen };
    if args.json {
        return output::json(&curve);
    }
    output::write(|out| out.write_all(text(&curve).as_bytes()))
}

/// The curve for a reader.
fn text(curve: &Curve<'_>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["run", "minutes", "tokens", curve.metric, "the law says"]);
    let turned = |value: f64| curve.highest.map_or(value, |highest| highest - value);
    for point in &curve.points {
        let law = turned(curve.law.at(point.x(curve.against)));
        table.add_row([
            point.run.display().to_string(),
            format!("{:.1}", point.minutes),
            point.tokens.to_string(),
            format!("{:.4}", point.value),
            format!("{law:.4}"),
        ]);
    }
    for foreseen in &curve.foreseen {
        let [minutes, tokens] = match curve.against {
            Against::Minutes => [format!("{:.1}", foreseen.x), String::new()],
            Against::Tokens => [String::new(), format!("{:.0}", foreseen.x)],
        };
        let name = format!("{} times the longest", foreseen.times);
        table.add_row([name, minutes, tokens, String::new(), format!("{:.4}", foreseen.value)]);
    }
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    let PowerLaw { floor, scale, exponent, rms } = curve.law;
    let lacks = curve.highest.map_or(String::new(), |highest| format!("{highest} - "));
    let unit = match curve.against {
        Against::Minutes => "minutes",
        Against::Tokens => "tokens",
    };
    format!(
        "{lacks}{} = {floor:.4} + {scale:.4} * {unit}^-{exponent:.3}, {rms:.4} off on average\n\n{}\n",
        curve.metric,
        table.trim_fmt()
    )
}
