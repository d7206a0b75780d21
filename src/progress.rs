//! stderr: logs, and progress as a bar on a terminal or as a line every few seconds elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, ProgressBar, ProgressStyle};
use models::hub::{FetchProgress, FetchState, ProgressHandler};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// How often progress is told where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A fetched file of so many bytes is told of when it is here; smaller ones are not.
const WORTH_TELLING: u64 = 1_000_000;

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

/// Shows what is fetched from a hub, whichever verb asks for it.
pub(crate) fn show_fetches() {
    let shown: Mutex<Option<Fetch>> = Mutex::new(None);
    models::hub::on_progress(ProgressHandler::new(move |at| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        match at.state {
            FetchState::Started => *shown = Some(Fetch::start(&at)),
            FetchState::Advanced => shown.iter_mut().for_each(|fetch| fetch.at(&at)),
            FetchState::Ended => shown.take().into_iter().for_each(|fetch| fetch.finish(&at)),
        }
    }));
}

/// A file on its way from a hub. Files come one after another, so that one bar does.
struct Fetch {
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
    /// Bytes that were here before.
    had: u64,
}

impl Fetch {
    fn start(at: &FetchProgress<'_>) -> Self {
        let on_terminal = std::io::stderr().is_terminal() && !QUIET.load(Ordering::Relaxed);
        let bar = on_terminal.then(|| {
            let bar = at.total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = match at.total {
                Some(_) => "{prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}",
                None => "{prefix} {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            // what was here before says nothing of the rate
            bar.set_position(at.done);
            bar.reset_eta();
            bar.with_prefix(at.file.to_owned())
        });
        let now = Instant::now();
        Self { bar, begun: now, told: now, had: at.done }
    }

    fn at(&mut self, at: &FetchProgress<'_>) {
        if let Some(bar) = &self.bar {
            bar.set_position(at.done);
            return;
        }
        if QUIET.load(Ordering::Relaxed) || self.told.elapsed() < LINE_EVERY {
            return;
        }
        self.told = Instant::now();
        tracing::info!("{}", self.line(at));
    }

    /// For instance `fetching org/name: model.safetensors: 1.20 GB of 5.89 GB (84.00 MB/s, 56 s left)`.
    fn line(&self, at: &FetchProgress<'_>) -> String {
        let rate = at.done.saturating_sub(self.had) as f64 / self.begun.elapsed().as_secs_f64().max(1e-9);
        let of = at.total.map(|total| format!(" of {}", DecimalBytes(total))).unwrap_or_default();
        let left = match at.total {
            Some(total) if rate >= 1.0 && total > at.done => {
                format!(", {:.0} s left", (total - at.done) as f64 / rate)
            }
            _ => String::new(),
        };
        let (done, rate) = (DecimalBytes(at.done), DecimalBytes(rate as u64));
        format!("fetching {}: {}: {done}{of} ({rate}/s{left})", at.repository, at.file)
    }

    fn finish(self, at: &FetchProgress<'_>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let whole = at.total == Some(at.done) && at.done > self.had;
        if whole && !QUIET.load(Ordering::Relaxed) && at.done >= WORTH_TELLING {
            let seconds = self.begun.elapsed().as_secs_f64();
            tracing::info!(
                "fetched {}: {} ({}, {seconds:.1} s)",
                at.repository,
                at.file,
                DecimalBytes(at.done)
            );
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_is_told_in_bytes_rate_and_time_left() {
        let at = FetchProgress {
            repository: "org/name",
            file: "model.safetensors",
            done: 3_000_000_000,
            total: Some(5_000_000_000),
            state: FetchState::Advanced,
        };
        let now = Instant::now();
        // a tenth of a second is nothing against ten
        let begun = now.checked_sub(Duration::from_secs(10)).unwrap_or(now);
        let fetch = Fetch { bar: None, begun, told: now, had: 2_000_000_000 };
        let line = fetch.line(&at);
        assert!(line.starts_with("fetching org/name: model.safetensors: 3.00 GB of 5.00 GB ("), "{line}");
        assert!(line.contains("MB/s") && line.ends_with(" s left)"), "{line}");
    }
}
