//! A set of files under one name, wherever they are.

use std::path::{Path, PathBuf};

use super::hub_files::{HubFiles, is_inside};
use super::listing::{RepositoryFile, walk};
use super::{HubSettings, Kind};
use crate::error::{Error, Result};

/// A set of files under one name: a folder, or one revision of a hub repository of which only the files asked for are
/// fetched.
pub struct Repository {
    name: String,
    files: Files,
}

enum Files {
    Folder { folder: PathBuf, revision: Option<String> },
    Hub(Box<HubFiles>),
}

impl Repository {
    /// Opens a model: a path that exists is a folder, anything else must be `organisation/name[@revision]`.
    ///
    /// # Errors
    /// [`Error::NotASource`]; nothing is fetched yet.
    pub fn open(source: &str) -> Result<Self> {
        Self::open_with(source, &HubSettings::from_env())
    }

    /// [`open`](Self::open) with given settings.
    ///
    /// # Errors
    /// [`Error::NotASource`].
    pub fn open_with(source: &str, settings: &HubSettings) -> Result<Self> {
        Self::of_kind(Kind::Model, source, settings)
    }

    /// Opens a data set, a folder or `organisation/name[@revision]` among a hub's data sets.
    ///
    /// # Errors
    /// [`Error::NotASource`]; nothing is fetched yet.
    pub fn dataset(source: &str) -> Result<Self> {
        Self::dataset_with(source, &HubSettings::from_env())
    }

    /// [`dataset`](Self::dataset) with given settings.
    ///
    /// # Errors
    /// [`Error::NotASource`].
    pub fn dataset_with(source: &str, settings: &HubSettings) -> Result<Self> {
        Self::of_kind(Kind::Dataset, source, settings)
    }

    fn of_kind(kind: Kind, source: &str, settings: &HubSettings) -> Result<Self> {
        if Path::new(source).exists() {
            return Self::folder(Path::new(source));
        }
        let not_a_source = || Error::NotASource { source_name: source.to_owned() };
        let (id, asked) = match source.split_once('@') {
            Some((id, revision)) => (id, Some(revision.to_owned())),
            None => (source, None),
        };
        let id = id.split_once('/').filter(|(owner, name)| is_hub_word(owner) && is_hub_word(name));
        let (owner, name) = id.ok_or_else(not_a_source)?;
        // a revision becomes a path of the cache
        if asked.as_deref().is_some_and(|revision| !is_inside(revision)) {
            return Err(not_a_source());
        }
        let files = HubFiles::new(kind, [owner, name], asked, settings);
        Ok(Self { name: files.name(), files: Files::Hub(Box::new(files)) })
    }

    fn folder(path: &Path) -> Result<Self> {
        let folder = fs_err::canonicalize(path)?;
        let (name, revision) = hub_identity(&folder).unwrap_or_else(|| {
            // a link's own name tells more than that of the folder it leads to
            let name = path.file_name().or(folder.file_name());
            (name.map_or_else(|| "/".into(), |name| name.to_string_lossy().into_owned()), None)
        });
        Ok(Self { name, files: Files::Folder { folder, revision } })
    }

    /// Hub name, or the folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The commit, known for a hub repository once a file was found.
    pub fn revision(&self) -> Option<&str> {
        match &self.files {
            Files::Folder { revision, .. } => revision.as_deref(),
            Files::Hub(hub) => hub.commit(),
        }
    }

    /// The commit, asked for where it is not known yet; `None` for a folder that is of no hub.
    ///
    /// # Errors
    /// [`Error::Hub`].
    pub fn resolve(&self) -> Result<Option<&str>> {
        match &self.files {
            Files::Folder { revision, .. } => Ok(revision.as_deref()),
            Files::Hub(hub) => hub.resolve().map(Some),
        }
    }

    /// For messages: the folder's path or the hub name.
    pub fn place(&self) -> String {
        match &self.files {
            Files::Folder { folder, .. } => folder.display().to_string(),
            Files::Hub(_) => self.name.clone(),
        }
    }

    /// All file paths of the revision, with `/` between their parts, sorted: as the hub lists them, offline those that
    /// are in the cache, of a folder those below it.
    ///
    /// # Errors
    /// [`Error::Hub`], or a folder that cannot be read.
    pub fn list(&self) -> Result<Vec<String>> {
        Ok(self.files()?.into_iter().map(|file| file.path).collect())
    }

    /// [`list`](Self::list) with the files' lengths.
    ///
    /// # Errors
    /// As there.
    pub fn files(&self) -> Result<Vec<RepositoryFile>> {
        match &self.files {
            Files::Folder { folder, .. } => Ok(walk(folder)?),
            Files::Hub(hub) => hub.list(),
        }
    }

    /// The local path of a file, fetched if need be; `None` where the repository has no such file.
    ///
    /// # Errors
    /// [`Error::Hub`].
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        match &self.files {
            Files::Folder { folder, .. } => Ok(Some(folder.join(file)).filter(|path| path.exists())),
            Files::Hub(hub) => hub.find(file),
        }
    }

    /// Whether a file that was not found may be there all the same: on a hub that is not asked or cannot be reached.
    pub fn may_have(&self, file: &str) -> bool {
        matches!(&self.files, Files::Hub(hub) if hub.may_have(file))
    }

    /// The local path of a file that must be there.
    ///
    /// # Errors
    /// [`Error::MissingFile`] with `why`, or [`Error::Hub`].
    pub fn require(&self, file: &str, why: &str) -> Result<PathBuf> {
        match (self.find(file)?, &self.files) {
            (Some(path), _) => Ok(path),
            (None, Files::Hub(hub)) if hub.may_have(file) => Err(hub.not_here(file)),
            (None, _) => {
                Err(Error::MissingFile { folder: self.place(), file: file.to_owned(), why: why.to_owned() })
            }
        }
    }
}

/// The path of a file in a folder of a repository; the empty folder is the repository itself.
pub(crate) fn join(folder: &str, file: &str) -> String {
    let folder = folder.trim_end_matches('/');
    if folder.is_empty() { file.to_owned() } else { format!("{folder}/{file}") }
}

/// The hub's rule for organisation and repository names.
fn is_hub_word(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !word.is_empty() && word.len() <= 96 && word.chars().all(allowed) && !word.starts_with(['.', '-'])
}

/// Name and commit of a folder that lies in a hub cache: `models--ORG--NAME/snapshots/COMMIT`.
fn hub_identity(folder: &Path) -> Option<(String, Option<String>)> {
    let mut parts = folder.iter().rev().map(|part| part.to_string_lossy().into_owned());
    let (commit, snapshots, cached) = (parts.next()?, parts.next()?, parts.next()?);
    let (kind, name) = cached.split_once("--").filter(|_| snapshots == "snapshots")?;
    let known = [Kind::Model, Kind::Dataset].iter().any(|known| known.plural() == kind);
    known.then(|| (name.replacen("--", "/", 1), Some(commit)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let settings = HubSettings { offline: true, ..HubSettings::default() };
        for bad in ["nothing-here", "a/b/c", "a/b@", "/no/such/folder", "a b/c", "../x", "a/b@../x", "a/b@/x"]
        {
            assert!(
                matches!(Repository::open_with(bad, &settings), Err(Error::NotASource { .. })),
                "{bad} was taken for a source"
            );
        }
        let repository = Repository::open_with("org/name@refs/pr/1", &settings).unwrap();
        assert_eq!(repository.name(), "org/name");
        assert_eq!(repository.revision(), None);
    }

    #[test]
    fn a_snapshot_folder_keeps_its_hub_name() {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["models", "datasets"] {
            let snapshot = folder.path().join(format!("{kind}--org--a-name/snapshots/0123abcd"));
            fs_err::create_dir_all(&snapshot).unwrap();
            let repository = Repository::open(snapshot.to_str().unwrap()).unwrap();
            assert_eq!((repository.name(), repository.revision()), ("org/a-name", Some("0123abcd")));
        }
    }

    #[test]
    fn a_folder_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(folder.path().join("b")).unwrap();
        for file in ["b/x.parquet", "a.json"] {
            fs_err::write(folder.path().join(file), file).unwrap();
        }
        fs_err::os::unix::fs::symlink("nowhere", folder.path().join("c")).unwrap();
        let repository = Repository::dataset(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(repository.list().unwrap(), ["a.json", "b/x.parquet"]);
        assert_eq!(repository.files().unwrap()[1].bytes, 11);
    }
}
