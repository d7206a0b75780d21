//! Where a training's numbers go: JSON lines, TensorBoard, the caller's console, nowhere.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Result;

/// What a training has to tell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The training loop is about to begin, or to go on.
    Start(Start),
    /// Numbers of the steps since the last such event.
    Step(StepMetrics),
    /// An evaluation on the dev pairs.
    Dev(DevMetrics),
    /// A checkpoint was written.
    Checkpoint {
        /// Its step.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
}

/// What lies ahead.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// Steps done by earlier parts of the run.
    pub step: u64,
    /// Steps of the whole run, where they are bounded.
    pub max_steps: Option<u64>,
    /// Minutes of the whole run, where they are bounded.
    pub max_minutes: Option<f64>,
    /// Trained parameters.
    pub parameters: i64,
}

/// Numbers of the steps since the last such event: the loss is their mean, norm and learning rate are the last step's.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimizer steps done.
    pub step: u64,
    /// Epochs done, with a fraction.
    pub epoch: f64,
    /// Mean loss a target token, nats: of first guesses, where some of the steps were such.
    pub loss: f64,
    /// The same of refinements, where some of the steps were such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement_loss: Option<f64>,
    /// Norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Mean consistency loss at its full weight of those steps that had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_loss: Option<f64>,
    /// Mean cosine of what it encoded with the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_cosine: Option<f64>,
    /// Milliseconds that this process spent on it in such a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_ms: Option<f64>,
    /// Target tokens a second.
    pub tokens_per_s: f64,
    /// Share of the time spent waiting for data, percent.
    pub data_wait_percent: f64,
    /// Share of the positions that were padding in first guesses, percent.
    pub padding_percent: f64,
    /// Resident memory of the process without mapped files, bytes; on a GPU that of the device.
    pub memory_bytes: u64,
    /// Target tokens trained on so far.
    pub tokens_seen: u64,
    /// Seconds of training so far, earlier parts of the run included.
    pub elapsed_s: f64,
    /// How much of the run lies behind, 0 to 1.
    pub progress: f64,
    /// Seconds that the rest of the run will take, where it has an end.
    pub eta_s: Option<f64>,
}

/// An evaluation on the dev pairs, with the averaged weights where there are such.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DevMetrics {
    /// Optimizer steps done.
    pub step: u64,
    /// Mean loss a target token, nats; `None` without dev pairs.
    pub dev_loss: Option<f64>,
    /// Pairs in it.
    pub n: usize,
    /// Scores of the round trip; `None` where none was made.
    pub round_trip: Option<DevScores>,
    /// Scores after one greedy refinement; `None` where the decoder has not learnt to refine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refined: Option<DevScores>,
    /// Texts and what was decoded from their vectors.
    pub samples: Vec<(String, String)>,
    /// Seconds it took.
    pub seconds: f64,
}

/// The scores of a round trip of dev pairs, as the eval verb names them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the metric of its name")]
pub struct DevScores {
    pub n: usize,
    pub bleu: f64,
    pub token_f1: f64,
    pub exact_match: f64,
    pub cosine: Option<f64>,
}

impl DevScores {
    /// Those of all rows of a round trip.
    pub fn of(scores: &eval::Scores) -> Self {
        let eval::Scores { n, bleu, token_f1, exact_match, cosine, .. } = *scores;
        Self { n, bleu, token_f1, exact_match, cosine }
    }
}

/// Takes what a training has to tell.
pub trait MetricSink {
    /// Takes one event.
    ///
    /// # Errors
    /// Those of the place it goes to; the training stops then, as a run without its record is of little use.
    fn record(&mut self, event: &Event) -> Result<()>;
}

/// Forgets everything.
#[derive(Debug, Default, Clone, Copy)]
pub struct NullSink;

impl MetricSink for NullSink {
    fn record(&mut self, _: &Event) -> Result<()> {
        Ok(())
    }
}

/// Any closure is a sink.
impl<F: FnMut(&Event)> MetricSink for F {
    fn record(&mut self, event: &Event) -> Result<()> {
        self(event);
        Ok(())
    }
}

/// `metrics.jsonl`: one event a line.
#[derive(Debug)]
pub struct JsonLines {
    file: fs_err::File,
}

impl JsonLines {
    /// Appends to a file. Lines of steps after `step` go first: a resumed run makes them again.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        if path.exists() {
            let text = fs_err::read_to_string(path)?;
            let kept: String = text.split_inclusive('\n').filter(|line| is_kept(line, step)).collect();
            if kept.len() < text.len() {
                models::files::write_atomically(path, |file| Ok(file.write_all(kept.as_bytes())?))?;
            }
        }
        Ok(Self { file: fs_err::OpenOptions::new().create(true).append(true).open(path)? })
    }
}

/// Whether a line is whole and of a step up to `step`.
fn is_kept(line: &str, step: u64) -> bool {
    let value: Option<serde_json::Value> = serde_json::from_str(line).ok();
    line.ends_with('\n') && value.and_then(|value| value["step"].as_u64()).is_some_and(|of| of <= step)
}

impl MetricSink for JsonLines {
    fn record(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_string(event).map_err(std::io::Error::from)?;
        line.push('\n');
        Ok(self.file.write_all(line.as_bytes())?)
    }
}

/// TensorBoard event files.
pub struct TensorBoard {
    /// `None` once it has failed: tensorboard-rs panics where the disk fails, and its curves are not worth a training.
    writer: Option<tensorboard_rs::summary_writer::SummaryWriter>,
}

impl std::fmt::Debug for TensorBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TensorBoard").field("writing", &self.writer.is_some()).finish()
    }
}

impl TensorBoard {
    /// Writes a new event file in `dir`.
    pub fn new(dir: &Path) -> Self {
        let made = std::panic::catch_unwind(|| tensorboard_rs::summary_writer::SummaryWriter::new(dir));
        Self { writer: made.ok() }
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) {
        let Some(mut writer) = self.writer.take() else { return };
        let written = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (name, value) in scalars {
                writer.add_scalar(name, *value as f32, step as usize);
            }
            writer.flush();
        }));
        if written.is_ok() {
            self.writer = Some(writer);
        } else {
            tracing::warn!("TensorBoard's event file cannot be written any more; metrics.jsonl goes on");
            // dropping it would panic again
            std::mem::forget(writer);
        }
    }
}

impl MetricSink for TensorBoard {
    fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Step(m) => {
                let mut scalars = vec![
                    ("train/loss", m.loss),
                    ("train/grad_norm", m.grad_norm),
                    ("train/learning_rate", m.learning_rate),
                    ("speed/tokens_per_s", m.tokens_per_s),
                    ("speed/data_wait_percent", m.data_wait_percent),
                    ("speed/memory_gib", m.memory_bytes as f64 / (1u64 << 30) as f64),
                ];
                scalars.extend(m.refinement_loss.map(|loss| ("train/refinement_loss", loss)));
                scalars.extend(m.consistency_loss.map(|loss| ("train/consistency_loss", loss)));
                scalars.extend(m.consistency_cosine.map(|cosine| ("train/consistency_cosine", cosine)));
                scalars.extend(m.consistency_ms.map(|ms| ("speed/consistency_ms", ms)));
                self.scalars(m.step, &scalars);
            }
            Event::Dev(m) => {
                let mut scalars: Vec<(&str, f64)> =
                    m.dev_loss.map(|loss| ("dev/loss", loss)).into_iter().collect();
                if let Some(scores) = &m.round_trip {
                    scalars.extend([
                        ("dev/bleu", scores.bleu),
                        ("dev/token_f1", scores.token_f1),
                        ("dev/exact_match", scores.exact_match),
                    ]);
                    scalars.extend(scores.cosine.map(|cosine| ("dev/cosine", cosine)));
                }
                if let Some(scores) = &m.refined {
                    scalars.extend([
                        ("dev/refined_bleu", scores.bleu),
                        ("dev/refined_exact_match", scores.exact_match),
                    ]);
                    scalars.extend(scores.cosine.map(|cosine| ("dev/refined_cosine", cosine)));
                }
                self.scalars(m.step, &scalars);
            }
            Event::Start(_) | Event::Checkpoint { .. } => {}
        }
        Ok(())
    }
}

/// Memory in use: the device's on a GPU, else the process's own resident pages; 0 where it cannot be told. Shared ones
/// do not count: they are mapped files, pairs among them, which the system takes back when it needs the room.
pub fn memory_bytes(device: tch::Device) -> u64 {
    if let tch::Device::Cuda(index) = device {
        return torch_ext::cuda_memory_stats(index).map_or(0, |stats| stats.allocated);
    }
    own_pages(&fs_err::read_to_string("/proc/self/statm").unwrap_or_default()) * 4096
}

/// Resident pages without the shared ones, of 4 KiB: second and third field of `/proc/self/statm`, proc(5).
fn own_pages(statm: &str) -> u64 {
    let mut pages = statm.split_whitespace().skip(1).map(|pages| pages.parse().unwrap_or(0));
    let (resident, shared): (u64, u64) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Event {
        Event::Checkpoint { step, path: "x".into() }
    }

    #[test]
    fn a_resumed_run_takes_back_later_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut sink = JsonLines::open(&path, 0).unwrap();
        for step in [1, 2, 3] {
            sink.record(&checkpoint(step)).unwrap();
        }
        fs_err::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"kind\":\"st").unwrap();
        let mut sink = JsonLines::open(&path, 2).unwrap();
        sink.record(&checkpoint(7)).unwrap();
        let steps: Vec<u64> = fs_err::read_to_string(&path)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 7]);
    }

    #[test]
    fn event_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::new(folder.path());
        board.scalars(3, &[("a", 1.0)]);
        drop(board);
        let names: Vec<_> =
            fs_err::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1);
        assert!(names[0].to_string_lossy().starts_with("events.out.tfevents."));
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(memory_bytes(tch::Device::Cpu) > 1 << 16);
        assert_eq!(own_pages("9000 700 200 10 0 80 0\n"), 500);
        assert_eq!(own_pages(""), 0);
    }
}
