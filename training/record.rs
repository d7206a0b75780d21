//! What a run says of itself: the record that a training leaves in `metrics.jsonl`.

use std::path::Path;

use crate::metric_sink::{DevMetrics, Event, StepMetrics};
use crate::{Error, Result};

/// The record of a run, in the order in which it was made.
#[derive(Debug, Clone, Default)]
pub struct Record {
    /// Trained parameters.
    pub parameters: i64,
    /// Numbers of the steps.
    pub steps: Vec<StepMetrics>,
    /// Evaluations on the dev pairs.
    pub dev: Vec<DevMetrics>,
}

impl Record {
    /// Reads a run's record. A last line that a killed training left half written is passed over.
    ///
    /// # Errors
    /// [`Error::NoRecord`] for a folder without one or with one that has no step, [`Error::RecordLine`] for a line that is
    /// none of ours, and the disk's.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        if !path.is_file() {
            return Err(Error::NoRecord { run: run.to_owned() });
        }
        let text = fs_err::read_to_string(&path)?;
        let mut record = Self::default();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if !line.ends_with('\n') {
                break;
            }
            let event: Event = serde_json::from_str(line).map_err(|error| Error::RecordLine {
                path: path.clone(),
                line: number + 1,
                reason: error.to_string(),
            })?;
            match event {
                Event::Start(start) => record.parameters = start.parameters,
                Event::Step(step) => record.steps.push(step),
                Event::Dev(dev) => record.dev.push(dev),
                Event::Checkpoint { .. } => {}
            }
        }
        if record.steps.is_empty() {
            return Err(Error::NoRecord { run: run.to_owned() });
        }
        Ok(record)
    }

    /// Minutes of training.
    pub fn minutes(&self) -> f64 {
        self.steps.last().map_or(0.0, |step| step.elapsed_s / 60.0)
    }

    /// Target tokens trained on.
    pub fn tokens(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.tokens_seen)
    }

    /// The last dev loss.
    pub fn dev_loss(&self) -> Option<f64> {
        self.dev.iter().rev().find_map(|dev| dev.dev_loss)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const STEP: &str = r#"{"kind":"step","step":10,"epoch":0.02,"loss":9.1,"grad_norm":7.0,"learning_rate":0.0004,"tokens_per_s":2686.7,"data_wait_percent":0.0,"padding_percent":0.0,"memory_bytes":14,"tokens_seen":40905,"elapsed_s":90.0,"progress":0.03,"eta_s":null}"#;

    fn record(text: &str) -> Result<Record> {
        let run = tempfile::tempdir().unwrap();
        fs_err::write(run.path().join("metrics.jsonl"), text).unwrap();
        Record::read(run.path())
    }

    #[test]
    fn a_record_is_read_up_to_a_line_that_is_cut_off() {
        let start = r#"{"kind":"start","step":0,"max_steps":null,"max_minutes":8.0,"parameters":17}"#;
        let dev =
            r#"{"kind":"dev","step":10,"dev_loss":1.5,"n":512,"round_trip":null,"samples":[],"seconds":1.4}"#;
        let found = record(&format!("{start}\n{STEP}\n{dev}\n{}", &dev[..30])).unwrap();
        assert_eq!((found.parameters, found.steps.len(), found.dev.len()), (17, 1, 1));
        assert_eq!((found.minutes(), found.tokens(), found.dev_loss()), (1.5, 40905, Some(1.5)));
    }

    #[test]
    fn what_is_no_record_is_said() {
        assert!(matches!(Record::read(Path::new("nowhere")), Err(Error::NoRecord { .. })));
        assert!(matches!(record(""), Err(Error::NoRecord { .. })));
        let error = record(&format!("{STEP}\n{{\"kind\":\"tea\"}}\n")).unwrap_err();
        assert!(matches!(error, Error::RecordLine { line: 2, .. }), "{error}");
    }
}
