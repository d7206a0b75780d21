//! The folder that a training leaves, and the lock that keeps a second process out of it.

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::files;
use serde_json::json;

use crate::checkpoint::Checkpoints;
use crate::{Error, Result};

/// A run folder, locked by this process until it is dropped.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    _lock: fs_err::File,
    log: fs_err::File,
}

/// Keys of a recipe that may differ between the parts of a resumed run: they change neither model, data nor order.
const FREE_ON_RESUME: &[&str] = &[
    "name",
    "run.",
    "eval.",
    "encoder.source",
    "encoder.dtype",
    "encoder.device",
    "encoder.batch_tokens",
    "pairs.dir",
    "training.device",
    "training.threads",
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
    /// `resume` was not asked for; [`Error::OtherRecipe`] when that run is of another recipe; the disk's own.
    pub fn open(dir: &Path, recipe_toml: &str, resume: bool) -> Result<Self> {
        fs_err::create_dir_all(dir)?;
        let lock = lock(dir)?;
        let config = dir.join("config.toml");
        let has_checkpoint = dir.join("checkpoints/latest").exists();
        if has_checkpoint && !resume {
            return Err(Error::RunExists { dir: dir.to_owned() });
        }
        if has_checkpoint && config.exists() {
            let differences = differences(&fs_err::read_to_string(&config)?, recipe_toml, &config)?;
            if !differences.is_empty() {
                return Err(Error::OtherRecipe { dir: dir.to_owned(), differences });
            }
        }
        files::write_atomically(&config, |file| Ok(file.write_all(recipe_toml.as_bytes())?))?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(dir.join("log.txt"))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock, log })
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
    pub fn record_environment(&self, arguments: &[String], device: &str, compute: &str) -> Result<()> {
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
    match file.file().try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::RunLocked { dir: dir.to_owned() }),
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// What differs between two recipes in ways that a resumed run may not differ, one line each.
fn differences(old: &str, new: &str, path: &Path) -> Result<Vec<String>> {
    let old: toml::Table = toml::from_str(old).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("it is no recipe any more: {}", error.message()),
    })?;
    let new: toml::Table = toml::from_str(new).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("the recipe cannot be compared with it: {}", error.message()),
    })?;
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    flatten("", &toml::Value::Table(old), &mut before);
    flatten("", &toml::Value::Table(new), &mut after);
    let is_free = |key: &str| {
        FREE_ON_RESUME.iter().any(|free| key == *free || (free.ends_with('.') && key.starts_with(free)))
    };
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "unset".to_owned());
    Ok(keys
        .into_iter()
        .filter(|key| !is_free(key) && before.get(*key) != after.get(*key))
        .map(|key| {
            format!("{key}: the run has {}, the recipe {}", show(before.get(key)), show(after.get(key)))
        })
        .collect())
}

fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&name, value, into);
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

    const RECIPE: &str = "[decoder]\nlayers = 2\n[training]\nmax_steps = 5\nseed = 1\n[run]\ndir = \"a\"\n";

    fn mark(dir: &Path) {
        fs_err::create_dir_all(dir.join("checkpoints")).unwrap();
        fs_err::write(dir.join("checkpoints/latest"), "step-00000001\n").unwrap();
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunFolder::open(folder.path(), RECIPE, false).unwrap();
        let second = RunFolder::open(folder.path(), RECIPE, true).unwrap_err();
        assert!(matches!(&second, Error::RunLocked { .. }), "{second}");
        assert!(second.hint().is_some());
        drop(first);
        RunFolder::open(folder.path(), RECIPE, true).unwrap();
    }

    #[test]
    fn a_run_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::open(folder.path(), RECIPE, false).unwrap());
        drop(RunFolder::open(folder.path(), RECIPE, false).unwrap());
        mark(folder.path());
        let error = RunFolder::open(folder.path(), RECIPE, false).unwrap_err();
        assert!(matches!(&error, Error::RunExists { .. }), "{error}");
        assert!(error.hint().unwrap().contains("--resume"));
    }

    #[test]
    fn only_what_changes_nothing_may_change() {
        let folder = tempfile::tempdir().unwrap();
        drop(RunFolder::open(folder.path(), RECIPE, false).unwrap());
        mark(folder.path());
        let longer = RECIPE.replace("max_steps = 5", "max_steps = 50").replace("\"a\"", "\"b\"");
        drop(RunFolder::open(folder.path(), &longer, true).unwrap());
        let other = RECIPE.replace("layers = 2", "layers = 3").replace("seed = 1\n", "");
        let error = RunFolder::open(folder.path(), &other, true).unwrap_err().to_string();
        assert!(error.contains("decoder.layers: the run has 2, the recipe 3"), "{error}");
        assert!(error.contains("training.seed: the run has 1, the recipe unset"), "{error}");
        assert!(!error.contains("max_steps"), "{error}");
    }

    #[test]
    fn each_part_of_a_run_records_its_environment() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = RunFolder::open(folder.path(), RECIPE, false).unwrap();
        run.record_environment(&["x".into()], "cpu", "f32").unwrap();
        run.record_environment(&["x".into(), "--resume".into()], "cpu", "f32").unwrap();
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
