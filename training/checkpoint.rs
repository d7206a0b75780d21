//! Checkpoints: everything that a training needs to go on as if it had never stopped.
//!
//! `checkpoints/step-NNNNNNNN/{model.safetensors, optimizer.safetensors, state.json[, ema.safetensors]}`, written
//! under a temporary name and renamed, then `checkpoints/latest`. A crash or a full disk at any moment leaves the
//! checkpoints that were there before.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::{ParamStore, Weights, files, save_tensors};
use serde::{Deserialize, Serialize};

use crate::batches::Cursor;
use crate::ema::Ema;
use crate::optimizer::AdamW;
use crate::retention::to_delete;
use crate::{Error, Result};

/// Version of the format of `state.json` and what lies beside it.
pub const FORMAT: u32 = 1;

/// `state.json`: where a training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`FORMAT`].
    pub format: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Target tokens trained on.
    pub tokens_seen: u64,
    /// Texts trained on.
    pub texts_seen: u64,
    /// The next batch.
    pub cursor: Cursor,
    /// Digest of the pairs that the cursor counts in.
    pub pairs: String,
    /// Seed of the order of the data and of the initial weights.
    pub seed: u64,
    /// How much of the run lies behind, 0 to 1, as the learning rate's schedule sees it.
    pub schedule_progress: f64,
    /// Seconds of training, earlier parts of the run included.
    pub elapsed_seconds: f64,
    /// The best evaluation so far.
    pub best: Option<Best>,
}

/// The best evaluation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// What was measured: `dev_loss`, lower is better.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// The step of the evaluation.
    pub step: u64,
}

impl State {
    /// Before the first step.
    pub fn start(seed: u64, pairs: String) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            tokens_seen: 0,
            texts_seen: 0,
            cursor: Cursor::default(),
            pairs,
            seed,
            schedule_progress: 0.0,
            elapsed_seconds: 0.0,
            best: None,
        }
    }
}

/// The checkpoints of a run.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    dir: PathBuf,
}

impl Checkpoints {
    /// The checkpoints in folder `dir`, which is made.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn in_folder(dir: PathBuf) -> Result<Self> {
        fs_err::create_dir_all(&dir)?;
        let checkpoints = Self { dir };
        checkpoints.remove_leftovers()?;
        Ok(checkpoints)
    }

    /// Folder of the checkpoint of a step.
    pub fn path(&self, step: u64) -> PathBuf {
        self.dir.join(folder_name(step))
    }

    /// Folder of the newest whole checkpoint, as `latest` says.
    ///
    /// # Errors
    /// A `latest` that names no folder.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        latest(&self.dir)
    }

    /// Writes a checkpoint and makes it the latest. One of the same step is replaced.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] around what the disk says; the earlier checkpoints are untouched.
    pub fn save(
        &self,
        state: &State,
        store: &ParamStore,
        optimizer: &AdamW,
        ema: Option<&Ema>,
    ) -> Result<PathBuf> {
        let path = self.path(state.step);
        let temporary = self.dir.join(format!(".{}.tmp", folder_name(state.step)));
        let written = self.write(&temporary, &path, state, store, optimizer, ema);
        written.map_err(|error| {
            let _ = fs_err::remove_dir_all(&temporary);
            Error::CheckpointWrite { path: path.clone(), source: Box::new(error) }
        })?;
        Ok(path)
    }

    fn write(
        &self,
        temporary: &Path,
        path: &Path,
        state: &State,
        store: &ParamStore,
        optimizer: &AdamW,
        ema: Option<&Ema>,
    ) -> Result<()> {
        if temporary.exists() {
            fs_err::remove_dir_all(temporary)?;
        }
        fs_err::create_dir(temporary)?;
        let about = BTreeMap::from([("step".to_owned(), state.step.to_string())]);
        save_tensors(&temporary.join("model.safetensors"), &store.named_tensors(), &about)?;
        if let Some(ema) = ema {
            save_tensors(&temporary.join("ema.safetensors"), &ema.named_tensors(store), &about)?;
        }
        optimizer.save(&temporary.join("optimizer.safetensors"))?;
        files::write_json(&temporary.join("state.json"), state)?;
        fs_err::File::open(temporary)?.sync_all()?;
        if path.exists() {
            // the same step again, after a resume: the old one stands until the new one is whole
            let old = self.dir.join(format!(".{}.old.tmp", folder_name(state.step)));
            fs_err::rename(path, &old)?;
            fs_err::rename(temporary, path)?;
            fs_err::remove_dir_all(&old)?;
        } else {
            fs_err::rename(temporary, path)?;
        }
        fs_err::File::open(&self.dir)?.sync_all()?;
        self.point("latest", state.step)
    }

    /// Makes `checkpoints/best` name the checkpoint of a step.
    ///
    /// # Errors
    /// The disk's.
    pub fn mark_best(&self, step: u64) -> Result<()> {
        self.point("best", step)
    }

    fn point(&self, name: &str, step: u64) -> Result<()> {
        let line = format!("{}\n", folder_name(step));
        Ok(files::write_atomically(&self.dir.join(name), |file| Ok(file.write_all(line.as_bytes())?))?)
    }

    /// Deletes checkpoints but the last `keep_last` and the best.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&self, keep_last: usize, best: Option<u64>) -> Result<()> {
        for step in to_delete(&self.steps()?, keep_last, best) {
            fs_err::remove_dir_all(self.path(step))?;
        }
        Ok(())
    }

    /// Steps that have a checkpoint, ascending.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in fs_err::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|n| n.parse().ok());
            steps.extend(number);
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes what a killed process left half written.
    fn remove_leftovers(&self) -> Result<()> {
        for entry in fs_err::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(of) = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")) else {
                continue;
            };
            if let Some(step) = of.strip_suffix(".old")
                && !self.dir.join(step).exists()
            {
                // killed between the two renames: the old one is the whole one
                fs_err::rename(&path, self.dir.join(step))?;
            } else if path.is_dir() {
                fs_err::remove_dir_all(&path)?;
            } else {
                fs_err::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Folder of the newest checkpoint below `dir` (the folder `checkpoints`), if there is one.
///
/// # Errors
/// A `latest` that names no folder.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>> {
    let pointer = dir.join("latest");
    if !pointer.exists() {
        return Ok(None);
    }
    let path = dir.join(fs_err::read_to_string(&pointer)?.trim());
    if path.join("state.json").exists() {
        return Ok(Some(path));
    }
    Err(Error::Checkpoint {
        path: pointer,
        reason: format!("it names {}, which is no checkpoint", path.display()),
    })
}

/// Reads `state.json`.
///
/// # Errors
/// Not JSON, or of a format that this version does not know.
pub fn read_state(path: &Path) -> Result<State> {
    let file = path.join("state.json");
    let state: State = files::read_json(&file)?;
    if state.format != FORMAT {
        let reason = format!("its format is {}, this version reads {FORMAT}", state.format);
        return Err(Error::Checkpoint { path: file, reason });
    }
    Ok(state)
}

/// Brings weights, optimizer and averages to where a checkpoint left them. An average that the checkpoint lacks starts
/// at its weights.
///
/// # Errors
/// Tensors that are missing, superfluous or of another shape, by name.
pub fn load(path: &Path, store: &mut ParamStore, optimizer: &mut AdamW, ema: Option<&mut Ema>) -> Result<()> {
    store.load(&Weights::open(path.join("model.safetensors"))?)?;
    optimizer.load(&path.join("optimizer.safetensors"))?;
    if let Some(ema) = ema {
        let averages = path.join("ema.safetensors");
        let source = if averages.exists() { averages } else { path.join("model.safetensors") };
        ema.load(store, &source)?;
    }
    Ok(())
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}
