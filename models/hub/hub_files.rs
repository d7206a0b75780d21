//! One revision of a hub repository: from the cache where it is there, else from the hub.

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cache::Cache;
use super::download::Download;
use super::failure::Failure;
use super::listing::{Lister, RepositoryFile, walk};
use super::patience::Patience;
use super::progress::ProgressHandler;
use super::requests::{Asked, Promise, Requests};
use super::{HubSettings, Kind};
use crate::error::{Error, HubFailure, Result};

const DEFAULT_REVISION: &str = "main";
/// Stands for the file in messages about the repository as a whole.
const ALL_FILES: &str = "*";

/// Files of one revision, fetched as they are asked for.
pub(super) struct HubFiles {
    kind: Kind,
    owner: String,
    repository: String,
    asked: Option<String>,
    endpoint: String,
    token: Option<String>,
    patience: Patience,
    progress: Option<ProgressHandler>,
    cache: Cache,
    offline: bool,
    /// Set by the first answer of the hub.
    reached: AtomicBool,
    /// Set when the hub could not be reached and the cache stood in for it.
    cut_off: AtomicBool,
    /// Set by the first answer, so that all files are of one commit even if the branch moves meanwhile.
    commit: OnceLock<String>,
    /// Made for the first request; most of the time there is none.
    requests: OnceLock<Requests>,
}

impl HubFiles {
    pub(super) fn new(
        kind: Kind,
        [owner, repository]: [&str; 2],
        asked: Option<String>,
        settings: &HubSettings,
    ) -> Self {
        Self {
            kind,
            owner: owner.to_owned(),
            repository: repository.to_owned(),
            // the hub and the cache write hashes in lower case
            asked: asked.map(|revision| match is_commit_hash(&revision) {
                true => revision.to_ascii_lowercase(),
                false => revision,
            }),
            endpoint: settings.endpoint(),
            token: settings.token(),
            patience: settings.patience(),
            progress: settings.progress.clone(),
            cache: Cache::new(settings.cache(), kind, owner, repository),
            offline: settings.offline,
            reached: AtomicBool::new(false),
            cut_off: AtomicBool::new(false),
            commit: OnceLock::new(),
            requests: OnceLock::new(),
        }
    }

    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.owner, self.repository)
    }

    pub(super) fn commit(&self) -> Option<&str> {
        self.commit.get().map(String::as_str)
    }

    /// The local path of a file; `None` where the commit has none.
    pub(super) fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        if !is_inside(file) {
            let detail = "a file of a repository has no such path";
            return Err(self.error(file, Failure::new(HubFailure::NotFound, detail)));
        }
        if let Some(commit) = self.known_commit() {
            if let Some(path) = self.cache.file(&commit, file) {
                self.commit.get_or_init(|| commit);
                return Ok(Some(path));
            }
            if self.cache.is_absent(&commit, file) {
                self.commit.get_or_init(|| commit);
                return Ok(None);
            }
        }
        if self.is_offline() {
            return self.find_here(file);
        }
        match self.fetch(file) {
            Err(failure) if failure.is_of_the_moment() && !self.reached.load(Ordering::Relaxed) => {
                self.find_instead(file, failure)
            }
            found => found.map_err(|failure| self.error(file, failure)),
        }
    }

    /// Whether a file that was not found may be on the hub all the same.
    pub(super) fn may_have(&self, file: &str) -> bool {
        let known_absent = self.commit().is_some_and(|commit| self.cache.is_absent(commit, file));
        self.is_offline() && !known_absent
    }

    pub(super) fn not_here(&self, file: &str) -> Error {
        let (kind, why) = match self.offline {
            true => (HubFailure::Offline, "HF_HUB_OFFLINE forbids to fetch it"),
            false => (HubFailure::Network, "the hub cannot be reached"),
        };
        self.error(file, Failure::new(kind, format!("not in the cache, and {why}")))
    }

    /// The files of the revision; offline, those of them that are in the cache.
    pub(super) fn list(&self) -> Result<Vec<RepositoryFile>> {
        if self.is_offline() {
            let commit = self.commit_here().ok_or_else(|| self.not_here(ALL_FILES))?;
            let snapshot = self.cache.snapshot(&commit);
            if !snapshot.is_dir() {
                return Err(self.not_here(ALL_FILES));
            }
            tracing::warn!(
                "{}: only the files in the cache are known, there may be more on the hub",
                self.name()
            );
            self.commit.get_or_init(|| commit);
            return Ok(walk(&snapshot)?);
        }
        let commit = self.resolve()?;
        let files = self.lister().files(commit).map_err(|failure| self.error(ALL_FILES, failure))?;
        Ok(files.into_iter().filter(|file| is_inside(&file.path)).collect())
    }

    /// The commit, asked for where no file has told it yet.
    pub(super) fn resolve(&self) -> Result<&str> {
        if let Some(commit) = self.commit() {
            return Ok(commit);
        }
        let commit = match self.known_commit() {
            Some(commit) => commit,
            None if self.is_offline() => self.commit_here().ok_or_else(|| self.not_here(ALL_FILES))?,
            None => {
                let asked = self.lister().commit(self.revision());
                let commit = asked.map_err(|failure| self.error(ALL_FILES, failure))?;
                self.cache.write_commit_of(self.revision(), &commit)?;
                commit
            }
        };
        Ok(self.commit.get_or_init(|| commit))
    }

    /// The commit that was found, or asked for by its hash.
    fn known_commit(&self) -> Option<String> {
        let by_hash = || self.asked.clone().filter(|revision| is_commit_hash(revision));
        self.commit.get().cloned().or_else(by_hash)
    }

    /// The commit as far as the cache knows.
    fn commit_here(&self) -> Option<String> {
        self.known_commit().or_else(|| self.cache.commit_of(self.revision()))
    }

    fn revision(&self) -> &str {
        self.asked.as_deref().unwrap_or(DEFAULT_REVISION)
    }

    fn is_offline(&self) -> bool {
        self.offline || self.cut_off.load(Ordering::Relaxed)
    }

    fn find_here(&self, file: &str) -> Result<Option<PathBuf>> {
        if let Some(commit) = self.commit_here() {
            if let Some(path) = self.cache.file(&commit, file) {
                self.commit.get_or_init(|| commit);
                return Ok(Some(path));
            }
            if self.commit.get().is_some() || self.cache.is_absent(&commit, file) {
                return Ok(None);
            }
        }
        Err(self.not_here(file))
    }

    /// The hub is not well: what it gave last time does, if it is here.
    fn find_instead(&self, file: &str, failure: Failure) -> Result<Option<PathBuf>> {
        let Some(commit) = self.commit_here() else { return Err(self.error(file, failure)) };
        let here = self.cache.file(&commit, file);
        // without any file of the commit, the cache stands in for nothing
        if here.is_none() && self.commit.get().is_none() {
            return Err(self.error(file, failure));
        }
        tracing::warn!("{}: {}; going on with commit {commit} from the cache", self.name(), failure.detail);
        self.cut_off.store(true, Ordering::Relaxed);
        self.commit.get_or_init(|| commit);
        Ok(here)
    }

    fn fetch(&self, file: &str) -> std::result::Result<Option<PathBuf>, Failure> {
        let requests = self.requests()?;
        let known = self.known_commit();
        let revision = known.as_deref().unwrap_or_else(|| self.revision());
        tracing::debug!(repository = self.name(), file, revision, "asking the hub for a file");
        let here = self.commit_here().is_some_and(|commit| self.cache.file(&commit, file).is_some());
        // what is in the cache does where the hub is away: no reason to wait for it long
        let tries = if here { 1 } else { self.patience.tries };
        let patience = Patience { tries, ..self.patience };
        let asked = patience.ask(file, || requests.ask(revision, file))?;
        self.reached.store(true, Ordering::Relaxed);
        let promise = match asked {
            Asked::There(promise) => promise,
            Asked::Missing { commit } => {
                if let Some(commit) = commit.or(known) {
                    self.settle(&commit)?;
                    self.cache.note_absence(&commit, file);
                }
                return if self.commit.get().is_some() { Ok(None) } else { Err(unknown_absence()) };
            }
        };
        if known.as_ref().is_some_and(|known| *known != promise.commit) {
            let detail = format!("asked for commit {revision}, it answers with commit {}", promise.commit);
            return Err(Failure::new(HubFailure::NotAHub, detail));
        }
        let disk = |error: std::io::Error| Failure::of_disk(&error);
        let lock = self.cache.lock(&promise.etag).map_err(disk)?;
        if !self.has_content(&promise) {
            self.download(requests, file, &promise)?;
        }
        let path = self.cache.link(&promise.commit, file, &promise.etag).map_err(disk)?;
        drop(lock);
        self.settle(&promise.commit)?;
        Ok(Some(path))
    }

    /// Whether the content is here, fetched for another revision, another file or by another process.
    fn has_content(&self, promise: &Promise) -> bool {
        let there = fs_err::metadata(self.cache.blob(&promise.etag));
        there.is_ok_and(|there| promise.size.is_none_or(|size| size == there.len()))
    }

    fn download(
        &self,
        requests: &Requests,
        file: &str,
        promise: &Promise,
    ) -> std::result::Result<(), Failure> {
        let (blob, partial) = (self.cache.blob(&promise.etag), self.cache.partial(&promise.etag));
        let disk = |error: std::io::Error| Failure::of_disk(&error);
        if let Some(folder) = blob.parent() {
            fs_err::create_dir_all(folder).map_err(disk)?;
        }
        let (repository, progress) = (self.name(), self.progress.as_ref());
        Download { requests, repository: &repository, file, promise, partial: &partial, progress }.run()?;
        // on the disk before it has the name that says it is whole
        fs_err::File::open(&partial).and_then(|file| file.sync_all()).map_err(disk)?;
        fs_err::rename(&partial, &blob).map_err(disk)
    }

    /// All further files are of this commit; offline, the branch will be.
    fn settle(&self, commit: &str) -> std::result::Result<(), Failure> {
        self.commit.get_or_init(|| commit.to_owned());
        if is_commit_hash(self.revision()) {
            return Ok(());
        }
        self.cache.write_commit_of(self.revision(), commit).map_err(|error| Failure::of_disk(&error))
    }

    fn requests(&self) -> std::result::Result<&Requests, Failure> {
        if let Some(requests) = self.requests.get() {
            return Ok(requests);
        }
        let id = [self.owner.as_str(), self.repository.as_str()];
        let made = Requests::new(&self.endpoint, self.token.clone(), self.patience, self.kind, id)?;
        Ok(self.requests.get_or_init(|| made))
    }

    fn lister(&self) -> Lister<'_> {
        Lister {
            endpoint: &self.endpoint,
            token: self.token.as_deref(),
            patience: self.patience,
            kind: self.kind,
            id: [&self.owner, &self.repository],
        }
    }

    fn error(&self, file: &str, failure: Failure) -> Error {
        Error::Hub {
            repository: self.name(),
            revision: self.asked.clone(),
            file: file.to_owned(),
            kind: failure.kind,
            detail: failure.detail,
        }
    }
}

fn unknown_absence() -> Failure {
    Failure::new(HubFailure::NotFound, "404: no such file, revision or repository")
}

pub(super) fn is_commit_hash(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a path stays within the folder it is put in; names come from files that strangers wrote.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\\')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}
