//! What an interrupted evaluation has done already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// Results by task, on disk as they are made.
#[derive(Debug)]
pub(super) struct Kept {
    path: Option<PathBuf>,
    file: File,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    /// What the results depend on: decoder, encoder, options, sets.
    fingerprint: String,
    done: BTreeMap<String, Value>,
}

impl Kept {
    /// Takes up what lies at `path`, where it is of the same evaluation; a file of another one, or one that is damaged, is
    /// begun anew.
    pub(super) fn open(path: Option<&Path>, fingerprint: &str) -> Self {
        let read = |path: &Path| -> Option<File> {
            let file: File = serde_json::from_slice(&fs_err::read(path).ok()?).ok()?;
            (file.fingerprint == fingerprint).then_some(file)
        };
        let file = path.and_then(read);
        if let Some(file) = &file {
            tracing::info!("going on with an evaluation that has {} of its tasks behind it", file.done.len());
        }
        let anew = || File { fingerprint: fingerprint.to_owned(), done: BTreeMap::new() };
        Self { path: path.map(Path::to_owned), file: file.unwrap_or_else(anew) }
    }

    /// The result of a task: the kept one, or a new one, which is kept.
    pub(super) fn task<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        if let Some(value) = self.file.done.get(name)
            && let Ok(result) = serde_json::from_value(value.clone())
        {
            return Ok(result);
        }
        let result = run()?;
        let Some(path) = &self.path else { return Ok(result) };
        let written = serde_json::to_value(&result).and_then(|value| {
            self.file.done.insert(name.to_owned(), value);
            serde_json::to_vec(&self.file)
        });
        let write = |bytes: Vec<u8>| {
            let temporary = path.with_extension("tmp");
            fs_err::write(&temporary, bytes)?;
            fs_err::rename(&temporary, path)
        };
        let written = written.map_err(std::io::Error::from).and_then(write);
        written.map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(result)
    }

    /// Forgets it: the evaluation is over.
    pub(super) fn remove(self) -> Result<()> {
        match &self.path {
            Some(path) if path.exists() => {
                fs_err::remove_file(path).map_err(|source| Error::Write { path: path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_was_done_is_not_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        let mut first = Kept::open(Some(&path), "a");
        assert_eq!(first.task("one", || Ok(1.5f64)).unwrap(), 1.5);
        assert!(first.task("two", || -> Result<f64> { Err(Error::NoTexts { what: "it".into() }) }).is_err());
        drop(first);
        let mut again = Kept::open(Some(&path), "a");
        assert_eq!(again.task("one", || -> Result<f64> { panic!("made again") }).unwrap(), 1.5);
        assert_eq!(again.task("two", || Ok(2.5f64)).unwrap(), 2.5);
        // another evaluation has nothing of it, nor has a file that was cut off
        assert_eq!(Kept::open(Some(&path), "b").task("one", || Ok(9.5f64)).unwrap(), 9.5);
        fs_err::write(&path, "{\"finger").unwrap();
        let mut damaged = Kept::open(Some(&path), "a");
        assert_eq!(damaged.task("one", || Ok(3.5f64)).unwrap(), 3.5);
        damaged.remove().unwrap();
        assert!(!path.exists());
    }
}
