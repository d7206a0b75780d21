//! The folder that a training leaves, and the lock that keeps a second process out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::files;
use serde_json::json;

use crate::checkpoint::{self, Checkpoints, State, is_begun};
use crate::recipe::Recipe;
use crate::{Error, Result};

/// A run folder, locked by this process until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    _lock: fs_err::File,
    log: fs_err::File,
    recipe_toml: String,
    /// Lines about what the recipe says otherwise than that of the run's earlier part.
    changes: Vec<String>,
}

/// Keys of a recipe that may differ between the parts of a resumed run. They change neither the model nor the order of
/// the data. Some say where things are, when to look, when to end, and how much is computed at once, which a run that
/// found no memory needs; the learning rate, its schedule, the clipping and the consistency loss change how the training
/// goes on, which is what a run that went astray needs; and the pairs need not be compared by the recipe that made them,
/// as the checkpoint has their digest.
const FREE_ON_RESUME: &[&str] = &[
    "name",
    "run.",
    "eval.",
    "encoder.source",
    "encoder.dtype",
    "encoder.device",
    "encoder.batch_tokens",
    "corpus.",
    "curation.",
    "split.",
    "pairs.",
    "distributed.",
    "optimizer.learning_rate",
    "schedule.",
    "consistency.",
    "refinement.batch",
    "training.accumulate",
    "training.device",
    "training.threads",
    "training.clip_norm",
    "training.max_steps",
    "training.max_minutes",
    "training.log_every",
    "training.eval_every",
    "training.eval_texts",
    "training.checkpoint_every",
    "training.keep_last",
];

impl RunFolder {
    /// Locks the folder for a new run, which is made, or for the rest of one that is there.
    ///
    /// # Errors
    /// [`Error::RunLocked`] while another process is at work in it; [`Error::RunExists`] when it holds a run and
    /// `resume` was not asked for; [`Error::OtherRecipe`] when that run is of another recipe; [`Error::Checkpoint`]
    /// when it has checkpoints but none is the latest nor whole; the disk's own.
    pub fn open(dir: &Path, recipe: &Recipe, resume: bool) -> Result<Self> {
        fs_err::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let config = dir.join("config.toml");
        let checkpoints = dir.join("checkpoints");
        let has_checkpoint = !checkpoint::steps(&checkpoints)?.is_empty();
        if (has_checkpoint || is_begun(dir)) && !resume {
            return Err(Error::RunExists { dir: dir.to_owned() });
        }
        if has_checkpoint && !is_begun(dir) {
            let reason = "it is missing, and none of the checkpoints is whole".to_owned();
            return Err(Error::Checkpoint { path: checkpoints.join("latest"), reason });
        }
        let mut changes = Vec::new();
        if has_checkpoint && config.exists() {
            let found = Differences::between(&read_recipe(&config)?, recipe)?;
            if !found.refused.is_empty() {
                return Err(Error::OtherRecipe { dir: dir.to_owned(), differences: found.refused });
            }
            changes = found.changes;
        }
        let log = fs_err::OpenOptions::new().create(true).append(true).open(dir.join("log.txt"))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock, log, recipe_toml: recipe.to_toml()?, changes })
    }

    /// Writes `config.toml`, and into the log what changed in it. Done once the pairs, too, are known to be the run's,
    /// so that a refused resume leaves the recipe as it was.
    ///
    /// # Errors
    /// The disk's.
    pub fn record_recipe(&mut self) -> Result<()> {
        let toml = self.recipe_toml.as_bytes();
        files::write_atomically(&self.dir.join("config.toml"), |file| Ok(file.write_all(toml)?))?;
        let changes = std::mem::take(&mut self.changes);
        changes.iter().try_for_each(|change| self.log(&format!("changed: {change}")))
    }

    /// Checks that a checkpoint is of the pairs and of the tokenizer that are there now.
    ///
    /// # Errors
    /// [`Error::OtherRecipe`], [`Error::OtherTokenizer`].
    pub fn require_same_data(&self, saved: &State, now: &State) -> Result<()> {
        if saved.pairs != now.pairs {
            let difference =
                format!("pairs: the run was trained on {}, these are {}", saved.pairs, now.pairs);
            return Err(Error::OtherRecipe { dir: self.dir.clone(), differences: vec![difference] });
        }
        if saved.tokenizer != now.tokenizer {
            return Err(Error::OtherTokenizer {
                path: self.dir.join("tokenizer.json"),
                expected: saved.tokenizer.clone(),
                found: now.tokenizer.clone(),
            });
        }
        Ok(())
    }

    /// `blake3:HEX` of `tokenizer.json`.
    ///
    /// # Errors
    /// The disk's.
    pub fn tokenizer_digest(&self) -> Result<String> {
        let bytes = fs_err::read(self.dir.join("tokenizer.json"))?;
        Ok(format!("blake3:{}", blake3::hash(&bytes).to_hex()))
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its checkpoints.
    ///
    /// # Errors
    /// The disk's.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        Checkpoints::in_folder(self.dir.join("checkpoints"))
    }

    /// Adds a line, with the time, to `log.txt`, and tells the log of the process.
    ///
    /// # Errors
    /// The disk's.
    pub fn log(&mut self, line: &str) -> Result<()> {
        tracing::info!("{line}");
        writeln!(self.log, "{} {line}", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ"))?;
        Ok(())
    }

    /// Writes `environment.json`: what the run was made with. A resumed run adds an entry.
    ///
    /// # Errors
    /// The disk's.
    pub fn record_environment(
        &self,
        arguments: &[String],
        device: &str,
        compute: &str,
        processes: usize,
    ) -> Result<()> {
        let path = self.dir.join("environment.json");
        let mut parts: Vec<serde_json::Value> =
            if path.exists() { files::read_json(&path)? } else { Vec::new() };
        parts.push(json!({
            "started": jiff::Timestamp::now().to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "git_revision": git(&["rev-parse", "HEAD"]),
            "git_changed": git(&["status", "--porcelain"]).map(|changes| !changes.is_empty()),
            "libtorch": torch_ext::libtorch_version_loaded(),
            "libtorch_built_against": torch_ext::libtorch_version_built(),
            "device": device,
            "compute": compute,
            "processes": processes,
            "threads": tch::get_num_threads(),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "arguments": arguments,
            "process": std::process::id(),
        }));
        Ok(files::write_json(&path, &parts)?)
    }
}

fn lock(dir: &Path) -> Result<fs_err::File> {
    let path = dir.join("run.lock");
    let mut file = fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    // a child process between fork and exec still holds the locks of its parent: a few moments are waited out
    let mut patience = 20;
    loop {
        match file.file().try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if patience > 0 => {
                patience -= 1;
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => return Err(Error::RunLocked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// The recipe that a run was begun with. Keys that its version did not know have their defaults.
fn read_recipe(path: &Path) -> Result<Recipe> {
    toml::from_str(&fs_err::read_to_string(path)?).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("it is no recipe that this version reads: {}", error.message()),
    })
}

/// What differs between two recipes, one line each.
#[derive(Debug, Default)]
struct Differences {
    /// In ways that a resumed run may not differ.
    refused: Vec<String>,
    /// In keys that are free.
    changes: Vec<String>,
}

impl Differences {
    fn between(old: &Recipe, new: &Recipe) -> Result<Self> {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        flatten("", &toml::Value::try_from(old)?, &mut before);
        flatten("", &toml::Value::try_from(new)?, &mut after);
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let mut differences = Self::default();
        for key in keys {
            let (old, new) = (before.get(key), after.get(key));
            let [was, is] = [old, new].map(|value| value.map_or("unset", String::as_str));
            if old == new {
                continue;
            } else if is_free(key) {
                differences.changes.push(format!("{key} {was} -> {is}"));
            } else {
                differences.refused.push(format!("{key}: the run has {was}, the recipe {is}"));
            }
        }
        Ok(differences)
    }
}

/// Whether a key may differ between the parts of a run.
fn is_free(key: &str) -> bool {
    FREE_ON_RESUME.iter().any(|free| key == *free || (free.ends_with('.') && key.starts_with(free)))
}

fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(key, value)| flatten(&name(key), value, into)),
        toml::Value::Array(elements) if elements.iter().any(toml::Value::is_table) => {
            for (index, value) in elements.iter().enumerate() {
                flatten(&name(&index.to_string()), value, into);
            }
        }
        other => {
            into.insert(prefix.to_owned(), other.to_string());
        }
    }
}

/// What git says about the current directory; `None` without git or a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        let mut recipe = Recipe { name: "a".into(), ..Recipe::default() };
        recipe.training.max_steps = Some(5);
        recipe.training.batch_texts = Some(7);
        recipe
    }

    /// A run with a checkpoint.
    fn begun(dir: &Path) {
        RunFolder::open(dir, &recipe(), false).unwrap().record_recipe().unwrap();
        fs_err::create_dir_all(dir.join("checkpoints/step-00000001")).unwrap();
        fs_err::write(dir.join("checkpoints/latest"), "step-00000001\n").unwrap();
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::open(folder.path(), &recipe(), false).unwrap();
        let second = RunFolder::open(folder.path(), &recipe(), true).unwrap_err();
        assert!(matches!(&second, Error::RunLocked { .. }), "{second}");
        assert!(second.hint().is_some());
        drop(first);
        RunFolder::open(folder.path(), &recipe(), true).unwrap();
    }

    #[test]
    fn a_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::open(folder.path(), &recipe(), false).unwrap());
        begun(folder.path());
        let error = RunFolder::open(folder.path(), &recipe(), false).unwrap_err();
        assert!(matches!(&error, Error::RunExists { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--resume"));
        fs_err::remove_file(folder.path().join("checkpoints/latest")).unwrap();
        let error = RunFolder::open(folder.path(), &recipe(), true).unwrap_err();
        assert!(error.to_string().contains("checkpoints/latest"), "{error}");
        // a whole checkpoint that a killed process had not yet named
        fs_err::write(folder.path().join("checkpoints/step-00000001/state.json"), "{}").unwrap();
        RunFolder::open(folder.path(), &recipe(), true).unwrap();
    }

    #[test]
    fn only_what_changes_neither_model_nor_data_may_change() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let mut freed = recipe();
        freed.training.max_steps = Some(50);
        freed.training.clip_norm = 0.5;
        freed.optimizer.learning_rate = 1e-4;
        freed.schedule.warmup_steps = 7;
        freed.training.accumulate = 8;
        freed.refinement.batch = 16;
        freed.curation.min_words = 9;
        freed.run.dir = "b".into();
        let mut run = RunFolder::open(folder.path(), &freed, true).unwrap();
        let config = folder.path().join("config.toml");
        assert_eq!(read_recipe(&config).unwrap(), recipe(), "not before the pairs are known");
        run.record_recipe().unwrap();
        assert_eq!(read_recipe(&config).unwrap(), freed);
        let log = fs_err::read_to_string(folder.path().join("log.txt")).unwrap();
        assert!(log.contains("changed: optimizer.learning_rate 0.001 -> 0.0001"), "{log}");
        assert!(log.contains("changed: schedule.warmup_steps 100 -> 7"), "{log}");
        assert!(log.contains("changed: curation.min_words 3 -> 9"), "{log}");
        drop(run);

        let mut other = recipe();
        other.decoder.layers = 3;
        other.training.batch_texts = None;
        let error = RunFolder::open(folder.path(), &other, true).unwrap_err().to_string();
        assert!(error.contains("decoder.layers: the run has 8, the recipe 3"), "{error}");
        assert!(error.contains("training.batch_texts: the run has 7, the recipe unset"), "{error}");
        assert!(!error.contains("max_steps"), "{error}");
    }

    #[test]
    fn what_is_said_to_help_against_too_little_memory_may_change() {
        let error = tch::Tensor::f_zeros([1 << 46], (tch::Kind::Double, tch::Device::Cpu)).unwrap_err();
        let hint = Error::from(error).hint().unwrap();
        let keys: Vec<&str> = hint.split([' ', ',', ';']).filter(|word| word.contains('.')).collect();
        assert!(keys.contains(&"training.accumulate"), "{hint}");
        assert!(keys.iter().all(|key| is_free(key)), "{hint}");
    }

    #[test]
    fn a_key_that_an_older_version_did_not_know_is_no_difference() {
        let folder = tempfile::tempdir().unwrap();
        begun(folder.path());
        let config = folder.path().join("config.toml");
        let text = fs_err::read_to_string(&config).unwrap();
        let older: String = text
            .lines()
            .filter(|line| !line.starts_with("label_smoothing"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert_ne!(older, text);
        fs_err::write(&config, older).unwrap();
        drop(RunFolder::open(folder.path(), &recipe(), true).unwrap());
        fs_err::write(&config, "[nonsense]\n").unwrap();
        let error = RunFolder::open(folder.path(), &recipe(), true).unwrap_err().to_string();
        assert!(error.contains("config.toml") && error.contains("nonsense"), "{error}");
    }

    #[test]
    fn each_part_of_a_run_records_its_environment() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = RunFolder::open(folder.path(), &recipe(), false).unwrap();
        run.record_environment(&["x".into()], "cpu", "f32", 1).unwrap();
        run.record_environment(&["x".into(), "--resume".into()], "cpu", "f32", 1).unwrap();
        let parts: Vec<serde_json::Value> =
            files::read_json(&folder.path().join("environment.json")).unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1]["arguments"][1], "--resume");
        run.log("hello").unwrap();
        assert!(
            fs_err::read_to_string(folder.path().join("log.txt")).unwrap().trim_end().ends_with("Z hello")
        );
    }
}
