//! What an interrupted evaluation has done already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use torch_ext::World;

use crate::{Error, Result};

/// Results by task, on disk as they are made: by rank 0, for all.
#[derive(Debug)]
pub(super) struct Kept {
    /// None where nothing is kept, and on other ranks.
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
    /// Takes up what lies at `path`, where it is of the same evaluation; one that is damaged is begun anew, and a file of
    /// another evaluation is put aside. All ranks have what rank 0 takes up, so that all pass over the same tasks.
    pub(super) fn open(path: Option<&Path>, fingerprint: &str, world: &World) -> Result<Self> {
        let own = path.filter(|_| world.is_first());
        let found = own.and_then(|path| serde_json::from_slice::<File>(&fs_err::read(path).ok()?).ok());
        let of_this = found.as_ref().is_some_and(|file| file.fingerprint == fingerprint);
        if let (Some(path), Some(_), false) = (own, &found, of_this) {
            let aside = aside(path);
            tracing::warn!("{} is of another evaluation: it lies in {} now", path.display(), aside.display());
            fs_err::rename(path, &aside).map_err(|source| Error::Write { path: aside, source })?;
        }
        // paths and devices differ from rank to rank: what rank 0 says holds
        let bytes = serde_json::to_vec(&found.filter(|_| of_this))?;
        let of_all = world.gather_bytes(bytes).map_err(models::Error::from)?;
        let file =
            of_all.first().and_then(|bytes| serde_json::from_slice::<Option<File>>(bytes).ok()).flatten();
        if let (Some(file), true) = (&file, world.is_first()) {
            tracing::info!("going on with an evaluation that has {} of its tasks behind it", file.done.len());
        }
        let anew = || File { fingerprint: fingerprint.to_owned(), done: BTreeMap::new() };
        Ok(Self { path: own.map(Path::to_owned), file: file.unwrap_or_else(anew) })
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
}

/// Where a file is put aside: none that lies there already is lost.
fn aside(path: &Path) -> PathBuf {
    let numbered = |number: usize| match number {
        1 => path.with_extension("old.json"),
        _ => path.with_extension(format!("old-{number}.json")),
    };
    (1..).map(numbered).find(|aside| !aside.exists()).unwrap_or_else(|| numbered(1))
}

/// What changes when a decoder's weights are others: names, lengths and times of its files of weights. All else that lies
/// in its folder, such as results, does not count.
pub(super) fn stamp(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).into_iter().flatten();
    let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let weights = files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    let of = |file: PathBuf| {
        let meta = fs_err::metadata(&file).ok()?;
        let time = meta.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(format!("{} {} {time:?}", file.display(), meta.len()))
    };
    let mut stamps: Vec<String> = weights.filter_map(of).collect();
    stamps.sort();
    stamps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_task_that_was_done_is_not_done_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        let world = World::alone();
        let open = |fingerprint: &str| Kept::open(Some(&path), fingerprint, &world).unwrap();
        let mut first = open("a");
        assert_eq!(first.task("one", || Ok(1.5f64)).unwrap(), 1.5);
        assert!(first.task("two", || -> Result<f64> { Err(Error::NoTexts { what: "it".into() }) }).is_err());
        drop(first);
        let mut again = open("a");
        assert_eq!(again.task("one", || -> Result<f64> { panic!("made again") }).unwrap(), 1.5);
        assert_eq!(again.task("two", || Ok(2.5f64)).unwrap(), 2.5);
        // another evaluation has nothing of it, nor has a file that was cut off
        assert_eq!(open("b").task("one", || Ok(9.5f64)).unwrap(), 9.5);
        let aside = fs_err::read_to_string(folder.path().join("kept.old.json")).unwrap();
        assert!(aside.contains("2.5"), "what was done is not lost: {aside}");
        open("c");
        assert!(fs_err::read_to_string(folder.path().join("kept.old-2.json")).unwrap().contains("9.5"));
        fs_err::write(&path, "{\"finger").unwrap();
        let mut damaged = open("a");
        assert_eq!(damaged.task("one", || Ok(3.5f64)).unwrap(), 3.5);
    }

    #[test]
    fn weights_are_stamped_and_results_beside_them_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        write("model.safetensors", "w");
        let before = stamp(folder.path());
        assert_eq!(before.len(), 1);
        write("evaluation.kept.json", "{}");
        assert_eq!(stamp(folder.path()), before);
        write("model.safetensors", "weights");
        assert_ne!(stamp(folder.path()), before);
    }
}
