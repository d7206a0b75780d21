//! Checkpoints: everything that a training needs to go on as if it had never stopped.
//!
//! `checkpoints/step-NNNNNNNN/{model.safetensors, optimizer.safetensors, state.json[, ema.safetensors]}`, written
//! under a temporary name and renamed, then `checkpoints/latest`. A crash or a full disk at any moment leaves the
//! checkpoints that were there before; where it came before the first `latest`, the newest checkpoint is the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use models::{ParamStore, Weights, files, save_tensors};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::batches::Cursor;
pub use crate::best::Best;
use crate::ema::Ema;
use crate::hypotheses::RefinementState;
use crate::optimizer::Optimizer;
use crate::retention::to_delete;
use crate::{Error, Result};

/// Version of the format of `state.json` and what lies beside it.
pub const FORMAT: u32 = 2;

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
    /// Digest of the run's `tokenizer.json`: the rows of the embedding table are its tokens.
    pub tokenizer: String,
    /// Seconds of training, earlier parts of the run included.
    pub elapsed_seconds: f64,
    /// Step of the last evaluation.
    pub evaluated: Option<u64>,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// The hypotheses that are refined, once there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement: Option<RefinementState>,
}

impl State {
    /// Before the first step, with the digests of the pairs and of the tokenizer.
    pub fn start(pairs: String, tokenizer: String) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            tokens_seen: 0,
            texts_seen: 0,
            cursor: Cursor::default(),
            pairs,
            tokenizer,
            elapsed_seconds: 0.0,
            evaluated: None,
            best: None,
            refinement: None,
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

    /// Folder of the newest whole checkpoint, as `latest` says where it is there.
    ///
    /// # Errors
    /// A `latest` that names no folder.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        latest(&self.dir)
    }

    /// Writes a checkpoint and makes it the latest. One of the same step is replaced. `optimizer` is its whole
    /// [`Optimizer::state`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] around what the disk says; the earlier checkpoints are untouched.
    pub fn save(
        &self,
        state: &State,
        store: &ParamStore,
        optimizer: &[(String, Tensor)],
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
        optimizer: &[(String, Tensor)],
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
        save_tensors(&temporary.join("optimizer.safetensors"), optimizer, &BTreeMap::new())?;
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

    /// Names of the files with hypotheses that the checkpoints need.
    ///
    /// # Errors
    /// A checkpoint whose state cannot be read.
    pub fn hypothesis_files(&self) -> Result<BTreeSet<String>> {
        let mut files = BTreeSet::new();
        for step in self.steps()? {
            let refinement = read_state(&self.path(step))?.refinement;
            files.extend(refinement.into_iter().flat_map(|state| state.sets).map(|set| set.shard.file));
        }
        Ok(files)
    }

    /// Deletes checkpoints but the last `keep_last` and those `kept` in any case.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&self, keep_last: usize, kept: &[u64]) -> Result<()> {
        to_delete(&self.steps()?, keep_last, kept).into_iter().try_for_each(|step| self.remove(step))
    }

    /// Where a run goes on from step `step`, takes back what was saved later: those checkpoints, and `best` where it
    /// named one of them; `best` then names the one that was best so far, if its checkpoint is there. Returns the
    /// steps of the checkpoints removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn take_back(&self, step: u64, best: Option<u64>) -> Result<Vec<u64>> {
        let pointer = self.dir.join("best");
        match best {
            Some(best) => self.mark_best(best)?,
            None if pointer.exists() => fs_err::remove_file(pointer)?,
            None => {}
        }
        let later: Vec<u64> = self.steps()?.into_iter().filter(|&saved| saved > step).collect();
        later.iter().try_for_each(|&saved| self.remove(saved))?;
        Ok(later)
    }

    /// Removes a checkpoint: renamed first, so that a crash leaves no half one under a good name.
    fn remove(&self, step: u64) -> Result<()> {
        let temporary = self.dir.join(format!(".{}.tmp", folder_name(step)));
        fs_err::rename(self.path(step), &temporary)?;
        Ok(fs_err::remove_dir_all(&temporary)?)
    }

    /// Steps that have a checkpoint, ascending.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        steps(&self.dir)
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

/// Whether a run folder has a checkpoint to go on from.
pub(crate) fn is_begun(run: &Path) -> bool {
    let checkpoints = run.join("checkpoints");
    checkpoints.join("latest").exists() || newest(&checkpoints).is_ok_and(|newest| newest.is_some())
}

/// Folder of the checkpoint of the highest step, if there is one. It was renamed when it was whole.
fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    let mut folders = steps(dir)?.into_iter().rev().map(|step| dir.join(folder_name(step)));
    Ok(folders.find(|folder| folder.join("state.json").exists()))
}

/// Steps that have a checkpoint below `dir` (the folder `checkpoints`, which may be missing), ascending.
pub(crate) fn steps(dir: &Path) -> Result<Vec<u64>> {
    let mut steps = Vec::new();
    if dir.exists() {
        for entry in fs_err::read_dir(dir)? {
            let name = entry?.file_name();
            let number: Option<u64> =
                name.to_str().and_then(|name| name.strip_prefix("step-")).and_then(|n| n.parse().ok());
            steps.extend(number);
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

/// Folder of the newest checkpoint below `dir` (the folder `checkpoints`), if there is one.
///
/// # Errors
/// A `latest` that names no folder.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>> {
    let pointer = dir.join("latest");
    if !pointer.exists() {
        // killed between a first checkpoint and its name in `latest`
        return newest(dir);
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
/// Not JSON, of a format that this version does not know, or with a time that is none.
pub fn read_state(path: &Path) -> Result<State> {
    #[derive(Deserialize)]
    struct Version {
        format: u32,
    }
    let file = path.join("state.json");
    let bytes = fs_err::read(&file)?;
    let Version { format } = files::parse_json(&file, &bytes)?;
    if format != FORMAT {
        let reason = format!("its format is {format}, this version reads {FORMAT}");
        return Err(Error::Checkpoint { path: file, reason });
    }
    let state: State = files::parse_json(&file, &bytes)?;
    if Duration::try_from_secs_f64(state.elapsed_seconds).is_err() {
        let reason = format!("`elapsed_seconds` is {}; it must be a time", state.elapsed_seconds);
        return Err(Error::Checkpoint { path: file, reason });
    }
    Ok(state)
}

/// A tensor of a checkpoint's file, in the type that it was written in: another one has lost digits.
pub(crate) fn tensor_of(
    weights: &Weights,
    path: &Path,
    name: &str,
    shape: &[i64],
    kind: Kind,
) -> Result<Tensor> {
    let tensor = weights.get(name, shape)?;
    if tensor.kind() == kind {
        return Ok(tensor);
    }
    let reason = format!("tensor `{name}` is of type {:?}, a checkpoint has it as {kind:?}", tensor.kind());
    Err(Error::Checkpoint { path: path.to_owned(), reason })
}

/// Brings weights, optimizer and averages to where a checkpoint left them. An average that the checkpoint lacks starts
/// at its weights.
///
/// # Errors
/// Tensors that are missing, superfluous or of another shape, by name.
pub fn load(
    path: &Path,
    store: &mut ParamStore,
    optimizer: &mut Optimizer,
    ema: Option<&mut Ema>,
) -> Result<()> {
    store.load(&Weights::open(path.join("model.safetensors"))?)?;
    optimizer.load(&path.join("optimizer.safetensors"))?;
    if let Some(ema) = ema {
        let averages = path.join("ema.safetensors");
        let source = if averages.exists() { averages } else { path.join("model.safetensors") };
        ema.load(store, &source)?;
    }
    Ok(())
}

/// Folder of the checkpoint of a step, in the run folder `run`.
pub(crate) fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(folder_name(step))
}

fn folder_name(step: u64) -> String {
    format!("step-{step:08}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::start("p".into(), "t".into());
        for (seconds, fits) in [(12.5, true), (-1.0, false), (1e300, false)] {
            let state = State { elapsed_seconds: seconds, ..state.clone() };
            files::write_json(&folder.path().join("state.json"), &state).unwrap();
            let read = read_state(folder.path());
            assert_eq!(read.is_ok(), fits, "{seconds}: {read:?}");
        }
        fs_err::write(folder.path().join("state.json"), "{\"format\": 1, \"seed\": 0}").unwrap();
        let error = read_state(folder.path()).unwrap_err().to_string();
        assert!(error.contains("its format is 1"), "{error}");
    }

    #[test]
    fn without_latest_the_newest_whole_checkpoint_is_it() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::in_folder(run.path().join("checkpoints")).unwrap();
        for step in [4, 12, 8] {
            fs_err::create_dir(checkpoints.path(step)).unwrap();
        }
        assert!(checkpoints.latest().unwrap().is_none() && !is_begun(run.path()), "none is whole");
        for step in [4, 8] {
            fs_err::write(checkpoints.path(step).join("state.json"), "{}").unwrap();
        }
        assert!(is_begun(run.path()));
        assert_eq!(checkpoints.latest().unwrap(), Some(checkpoints.path(8)));
        fs_err::write(run.path().join("checkpoints/latest"), "step-00000004\n").unwrap();
        assert_eq!(checkpoints.latest().unwrap(), Some(checkpoints.path(4)));
    }

    #[test]
    fn what_was_saved_later_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::in_folder(folder.path().to_owned()).unwrap();
        for step in [4, 8, 12] {
            fs_err::create_dir(checkpoints.path(step)).unwrap();
        }
        checkpoints.mark_best(12).unwrap();
        assert_eq!(checkpoints.take_back(8, Some(4)).unwrap(), [12]);
        assert_eq!(checkpoints.steps().unwrap(), [4, 8]);
        let best = folder.path().join("best");
        assert_eq!(fs_err::read_to_string(&best).unwrap(), "step-00000004\n");
        assert_eq!(checkpoints.take_back(4, None).unwrap(), [8]);
        assert!(!best.exists());
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1, "nothing half removed is left");
    }
}
