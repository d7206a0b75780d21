//! The files of a repository: hf-hub asks the hub for them; a folder is walked.

use std::path::Path;

use hf_hub::repository::RepoTreeEntry;
use hf_hub::{HFClient, HFClientSync, HFError, RepoTypeDataset, RepoTypeModel};
use walkdir::WalkDir;

use super::Kind;
use super::failure::Failure;
use super::patience::Patience;
use super::requests::client;
use crate::error::HubFailure;

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepositoryFile {
    /// Path within the repository, with `/` between its parts.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
}

/// Asks for the lists that a hub has.
pub(super) struct Lister<'a> {
    pub(super) endpoint: &'a str,
    pub(super) token: Option<&'a str>,
    pub(super) patience: Patience,
    pub(super) kind: Kind,
    pub(super) id: [&'a str; 2],
}

impl Lister<'_> {
    /// The commit that a revision is.
    pub(super) fn commit(&self, revision: &str) -> Result<String, Failure> {
        let hub = self.hub()?;
        let [owner, name] = self.id;
        let commit = self.ask("the commit", || {
            let sha = match self.kind {
                Kind::Model => hub.model(owner, name).info().revision(revision).send().map(|info| info.sha),
                Kind::Dataset => {
                    hub.dataset(owner, name).info().revision(revision).send().map(|info| info.sha)
                }
            };
            sha.map_err(|error| self.repository_or_revision(&error))
        })?;
        let is_commit = |sha: &String| !sha.is_empty() && sha.chars().all(|c| c.is_ascii_alphanumeric());
        commit.filter(is_commit).ok_or_else(|| {
            Failure::new(HubFailure::NotAHub, "its description of the repository names no commit")
        })
    }

    /// The files of a commit, sorted by path.
    pub(super) fn files(&self, commit: &str) -> Result<Vec<RepositoryFile>, Failure> {
        let hub = self.hub()?;
        let [owner, name] = self.id;
        let entries = self.ask("the list of files", || {
            let entries = match self.kind {
                Kind::Model => hub
                    .repository(RepoTypeModel, owner, name)
                    .list_tree()
                    .revision(commit)
                    .recursive(true)
                    .send(),
                Kind::Dataset => hub
                    .repository(RepoTypeDataset, owner, name)
                    .list_tree()
                    .revision(commit)
                    .recursive(true)
                    .send(),
            };
            entries.map_err(|error| self.repository_or_revision(&error))
        })?;
        let mut files: Vec<RepositoryFile> = entries
            .into_iter()
            .filter_map(|entry| match entry {
                RepoTreeEntry::File { path, size, .. } => Some(RepositoryFile { path, bytes: size }),
                RepoTreeEntry::Directory { .. } => None,
            })
            .collect();
        files.sort();
        Ok(files)
    }

    fn hub(&self) -> Result<HFClientSync, Failure> {
        let timeout = self.patience.timeout;
        let http = client(timeout).build().map_err(|error| Failure::of_connection(&error, timeout))?;
        // what is tried again, and when, is settled here and not there
        let mut builder = HFClient::builder().client(http).endpoint(self.endpoint).retry_max_attempts(0);
        if let Some(token) = self.token {
            builder = builder.token(token);
        }
        builder.build_sync().map_err(|error| Failure::of_hf_hub(&error, timeout))
    }

    fn ask<T>(&self, what: &str, request: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        self.patience.ask(&format!("{what} of {}", self.id.join("/")), request)
    }

    /// A list is of no file, so that what is missing is more than a file.
    fn repository_or_revision(&self, error: &HFError) -> Failure {
        let failure = Failure::of_hf_hub(error, self.patience.timeout);
        if failure.kind != HubFailure::NotFound {
            return failure;
        }
        Failure::new(HubFailure::NotFound, "404: no such repository or revision")
    }
}

/// The files below a folder, links followed, sorted by path.
///
/// # Errors
/// A folder that cannot be read.
pub(super) fn walk(folder: &Path) -> std::io::Result<Vec<RepositoryFile>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true) {
        let entry = match entry {
            Ok(entry) => entry,
            // a link that leads nowhere is no file
            Err(error) if error.io_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if let (true, Ok(below)) = (entry.file_type().is_file(), entry.path().strip_prefix(folder)) {
            let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
            files.push(RepositoryFile { path: parts.join("/"), bytes: entry.metadata()?.len() });
        }
    }
    files.sort();
    Ok(files)
}
