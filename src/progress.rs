//! stderr: logs, and progress as a bar on a terminal or as a line every few seconds elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How often progress is told where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

static QUIET: AtomicBool = AtomicBool::new(false);

/// Sends logs to stderr. `RUST_LOG` wins over the flags.
pub(crate) fn init_logging(verbose: u8, quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
    let level = match (quiet, verbose) {
        (true, _) => "warn",
        (false, 0) => "warn,inverse_stella=info,models=info,data=info,eval=info,training=info",
        (false, 1) => "info,inverse_stella=debug,models=debug,data=debug,eval=debug,training=debug",
        (false, _) => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // log lines are written between the bar's redraws, so that neither tears the other
    let bars = tracing_indicatif::IndicatifLayer::new();
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(bars.get_stderr_writer())
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false)
        .without_time();
    // a second call (tests in one process) changes nothing
    let _ = tracing_subscriber::registry().with(filter).with(lines).with(bars).try_init();
}

/// Progress of one stage: how much of how much, how fast, how long still.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: String,
    unit: &'static str,
    total: Option<u64>,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Starts a stage, for instance `what` = "encoding", `unit` = "texts".
    pub(crate) fn start(what: impl Into<String>, unit: &'static str, total: Option<u64>) -> Self {
        let what = what.into();
        let now = Instant::now();
        let on_terminal = std::io::stderr().is_terminal() && !QUIET.load(Ordering::Relaxed);
        let bar = on_terminal.then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::new_spinner(),
            };
            let template = match total {
                Some(_) => "{prefix:>12} [{bar:30}] {human_pos}/{human_len} {unit} {per_sec} ETA {eta} {msg}",
                None => "{prefix:>12} {spinner} {human_pos} {unit} {per_sec} {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(&template.replace("{unit}", unit)) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.with_prefix(what.clone())
        });
        Self { bar, what, unit, total, started: now, told: now }
    }

    /// A bar of `total` parts without a unit, for a stage that tells the rest in lines of its own; none where there is
    /// no terminal.
    pub(crate) fn bar(what: &str, total: u64) -> Option<Self> {
        let stage = Self::start(what, "", Some(total));
        let bar = stage.bar.as_ref()?;
        if let Ok(style) =
            ProgressStyle::with_template("{prefix:>12} [{bar:40}] {percent} % {elapsed_precise}")
        {
            bar.set_style(style.progress_chars("=> "));
        }
        Some(stage)
    }

    /// Tells how far the stage is, with a few words more (may be empty).
    pub(crate) fn at(&mut self, done: u64, message: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        if QUIET.load(Ordering::Relaxed) || self.told.elapsed() < LINE_EVERY {
            return;
        }
        self.told = Instant::now();
        let rate = done as f64 / self.started.elapsed().as_secs_f64().max(1e-9);
        let of = self.total.map(|total| format!("/{total}")).unwrap_or_default();
        let left = match self.total {
            Some(total) if rate > 0.0 && total > done => {
                format!(", {} s left", ((total - done) as f64 / rate).round())
            }
            _ => String::new(),
        };
        let comma = if message.is_empty() { "" } else { ", " };
        tracing::info!("{}: {done}{of} {} ({rate:.0}/s{left}){comma}{message}", self.what, self.unit);
    }

    /// Ends the stage.
    pub(crate) fn finish(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
