//! Corpora out of a data set repository on the hub.

use std::collections::HashSet;
use std::path::PathBuf;

use models::hub::{Repository, RepositoryFile};

use super::CorpusConfig;
use super::paths::{fits_path, is_of};
use crate::{Error, Result};

/// Files that the error for a pattern without any shows.
const SHOWN: usize = 8;

/// The repository of a corpus.
pub(crate) struct HubCorpus {
    repository: Repository,
    corpus: String,
}

impl HubCorpus {
    /// The repository that a corpus names, at the commit that its build began with; none for local files.
    ///
    /// # Errors
    /// A name that is none. Nothing is fetched yet.
    pub(crate) fn of(config: &CorpusConfig) -> Result<Option<HubCorpus>> {
        let Some(hub) = &config.hub else { return Ok(None) };
        let source = match &config.commit {
            Some(commit) => format!("{}@{commit}", hub.split('@').next().unwrap_or(hub)),
            None => hub.clone(),
        };
        Ok(Some(HubCorpus { repository: Repository::dataset(&source)?, corpus: config.name.clone() }))
    }

    /// The commit, asked for if need be; none for a folder.
    pub(crate) fn commit(&self) -> Result<Option<String>> {
        Ok(self.repository.resolve()?.map(str::to_owned))
    }

    /// The files that the paths of the corpus stand for, in their order, each once.
    ///
    /// # Errors
    /// The hub's list cannot be had; a path that fits no file.
    pub(crate) fn files(&self, config: &CorpusConfig) -> Result<Vec<RepositoryFile>> {
        let all = self.repository.files()?;
        let mut files = Vec::new();
        for path in config.path.as_slice() {
            let pattern = path.to_string_lossy();
            let parts: Vec<&str> = pattern.split('/').filter(|part| !["", "."].contains(part)).collect();
            let before = files.len();
            files.extend(all.iter().filter(|file| {
                let path: Vec<&str> = file.path.split('/').collect();
                fits_path(&parts, &path, &|name| is_of(config.format, name))
            }));
            if files.len() == before {
                let shown: Vec<&str> = all.iter().take(SHOWN).map(|file| file.path.as_str()).collect();
                let more = if all.len() > SHOWN { ", ..." } else { "" };
                return Err(Error::NoHubFiles {
                    what: format!("corpus {:?}", self.corpus),
                    repository: self.repository.place(),
                    pattern: pattern.into_owned(),
                    found: format!("{}{more}", shown.join(", ")),
                });
            }
        }
        let mut seen = HashSet::new();
        files.retain(|file| seen.insert(&file.path));
        Ok(files.into_iter().cloned().collect())
    }

    /// The local path of a file, fetched if need be.
    pub(crate) fn fetch(&self, file: &str) -> Result<PathBuf> {
        Ok(self.repository.require(file, &format!("corpus {:?} reads it", self.corpus))?)
    }
}
