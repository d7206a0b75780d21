//! Where a model's files are: a folder here, or a repository on a Hugging Face hub, through the cache that Python's
//! `huggingface_hub` uses too.
//!
//! `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_TOKEN_PATH` and `HF_ENDPOINT` mean what they mean there; with `HF_HUB_OFFLINE`
//! nothing but the cache is asked.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use hf_hub::{HFClient, HFClientSync, HFError};

use crate::error::{Error, HubFailure, Result};

/// How to reach the hub. What is `None` comes from the environment.
#[derive(Debug, Clone, Default)]
pub struct HubSettings {
    /// Root address of the hub.
    pub endpoint: Option<String>,
    /// Folder of the cache.
    pub cache: Option<PathBuf>,
    /// Access token.
    pub token: Option<String>,
    /// Use the cache alone.
    pub offline: bool,
}

impl HubSettings {
    /// Everything from the environment.
    pub fn from_env() -> Self {
        Self { offline: offline_word(std::env::var("HF_HUB_OFFLINE").ok().as_deref()), ..Self::default() }
    }
}

/// huggingface_hub's reading of a switch (`constants._is_true`).
fn offline_word(value: Option<&str>) -> bool {
    value.is_some_and(|word| matches!(word.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

/// A set of files under one name: a folder, or one revision of a hub repository of which only the files asked for are
/// fetched.
pub struct Repository {
    name: String,
    files: Files,
}

enum Files {
    Folder { folder: PathBuf, revision: Option<String> },
    Hub(HubFiles),
}

struct HubFiles {
    client: HFClientSync,
    owner: String,
    repository: String,
    asked: Option<String>,
    offline: bool,
    /// Set by the first file that was found, so that all files are of one commit even if the branch moves meanwhile.
    commit: OnceLock<String>,
}

impl Repository {
    /// Opens a source: a path that exists is a folder, anything else must be `organisation/name[@revision]`.
    ///
    /// # Errors
    /// [`Error::NotASource`]; nothing is fetched yet.
    pub fn open(source: &str) -> Result<Self> {
        Self::open_with(source, &HubSettings::from_env())
    }

    /// [`open`](Self::open) with given settings.
    ///
    /// # Errors
    /// [`Error::NotASource`], or [`Error::Hub`] where the settings are no good.
    pub fn open_with(source: &str, settings: &HubSettings) -> Result<Self> {
        if Path::new(source).exists() {
            return Self::folder(Path::new(source));
        }
        let (id, asked) = match source.split_once('@') {
            Some((id, revision)) if !revision.is_empty() => (id, Some(revision.to_owned())),
            Some(_) => return Err(Error::NotASource { source_name: source.to_owned() }),
            None => (source, None),
        };
        let Some((owner, repository)) = id.split_once('/').filter(|(a, b)| is_hub_word(a) && is_hub_word(b))
        else {
            return Err(Error::NotASource { source_name: source.to_owned() });
        };
        let client = client(settings).map_err(|error| hub_error(id, asked.as_deref(), "", false, &error))?;
        Ok(Self {
            name: id.to_owned(),
            files: Files::Hub(HubFiles {
                client,
                owner: owner.to_owned(),
                repository: repository.to_owned(),
                asked,
                offline: settings.offline,
                commit: OnceLock::new(),
            }),
        })
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
            Files::Hub(hub) => hub.commit.get().map(String::as_str),
        }
    }

    /// For messages: the folder's path or the hub name.
    pub fn place(&self) -> String {
        match &self.files {
            Files::Folder { folder, .. } => folder.display().to_string(),
            Files::Hub(_) => self.name.clone(),
        }
    }

    /// The local path of a file, fetched if need be; `None` where the repository has no such file.
    ///
    /// # Errors
    /// [`Error::Hub`].
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        match &self.files {
            Files::Folder { folder, .. } => Ok(Some(folder.join(file)).filter(|path| path.exists())),
            Files::Hub(hub) => hub.find(&self.name, file),
        }
    }

    /// The local path of a file that must be there.
    ///
    /// # Errors
    /// [`Error::MissingFile`] with `why`, or [`Error::Hub`].
    pub fn require(&self, file: &str, why: &str) -> Result<PathBuf> {
        self.find(file)?.ok_or_else(|| Error::MissingFile {
            folder: self.place(),
            file: file.to_owned(),
            why: why.to_owned(),
        })
    }
}

impl HubFiles {
    fn find(&self, name: &str, file: &str) -> Result<Option<PathBuf>> {
        let revision = self.commit.get().or(self.asked.as_ref());
        tracing::debug!(repository = name, file, "looking for a file on the hub");
        let found = self
            .client
            .model(&self.owner, &self.repository)
            .download_file()
            .filename(file)
            .maybe_revision(revision)
            .local_files_only(self.offline)
            .send();
        match found {
            Ok(path) => {
                self.remember_commit(&path, file);
                Ok(Some(path))
            }
            // before any file was found, a 404 may as well mean the repository or the revision
            Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. })
                if self.commit.get().is_some() =>
            {
                Ok(None)
            }
            Err(error) => Err(hub_error(name, self.asked.as_deref(), file, self.offline, &error)),
        }
    }

    /// Files lie in `snapshots/COMMIT/FILE`.
    fn remember_commit(&self, path: &Path, file: &str) {
        let depth = Path::new(file).components().count();
        if let Some(commit) = path.ancestors().nth(depth).and_then(Path::file_name) {
            self.commit.get_or_init(|| commit.to_string_lossy().into_owned());
        }
    }
}

fn client(settings: &HubSettings) -> std::result::Result<HFClientSync, HFError> {
    let mut builder = HFClient::builder().user_agent(concat!("inverse-stella/", env!("CARGO_PKG_VERSION")));
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(cache) = &settings.cache {
        builder = builder.cache_dir(cache);
    }
    if let Some(token) = &settings.token {
        builder = builder.token(token);
    }
    builder.build_sync()
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
    let name = cached.strip_prefix("models--").filter(|_| snapshots == "snapshots")?;
    Some((name.replacen("--", "/", 1), Some(commit)))
}

fn hub_error(repository: &str, revision: Option<&str>, file: &str, offline: bool, error: &HFError) -> Error {
    let (kind, detail) = match error {
        HFError::AuthRequired { .. } => {
            (HubFailure::Unauthorized, "401: not allowed without a token, or no such repository".into())
        }
        HFError::Forbidden { .. } => {
            (HubFailure::Forbidden, "403: this token may not read the repository".into())
        }
        HFError::LocalEntryNotFound { .. } | HFError::EntryNotFound { .. } if offline => {
            (HubFailure::Offline, "not in the cache, and HF_HUB_OFFLINE forbids to fetch it".into())
        }
        HFError::EntryNotFound { .. }
        | HFError::RepoNotFound { .. }
        | HFError::RevisionNotFound { .. }
        | HFError::LocalEntryNotFound { .. } => {
            (HubFailure::NotFound, "404: no such file, revision or repository".into())
        }
        HFError::Request { source, .. } if source.is_connect() || source.is_timeout() => {
            (HubFailure::Network, format!("no connection: {}", innermost(source)))
        }
        HFError::Request { source, .. } => {
            (HubFailure::Network, format!("broken off: {}", innermost(source)))
        }
        HFError::MalformedResponse { .. } => (HubFailure::NotAHub, error.to_string()),
        HFError::Http { context } => (HubFailure::Other, format!("the hub answered {}", context.status)),
        _ => (HubFailure::Other, error.to_string()),
    };
    let (repository, revision) = (repository.to_owned(), revision.map(str::to_owned));
    Error::Hub { repository, revision, file: file.to_owned(), kind, detail }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        let settings = HubSettings { offline: true, ..HubSettings::default() };
        for bad in ["nothing-here", "a/b/c", "a/b@", "/no/such/folder", "a b/c", "../x"] {
            assert!(
                matches!(Repository::open_with(bad, &settings), Err(Error::NotASource { .. })),
                "{bad} was taken for a source"
            );
        }
        let repository = Repository::open_with("org/name@v1.0", &settings).unwrap();
        assert_eq!(repository.name(), "org/name");
        assert_eq!(repository.revision(), None);
    }

    #[test]
    fn a_snapshot_folder_keeps_its_hub_name() {
        let folder = tempfile::tempdir().unwrap();
        let snapshot = folder.path().join("models--org--a-name/snapshots/0123abcd");
        fs_err::create_dir_all(&snapshot).unwrap();
        let repository = Repository::open(snapshot.to_str().unwrap()).unwrap();
        assert_eq!((repository.name(), repository.revision()), ("org/a-name", Some("0123abcd")));
    }

    #[test]
    fn offline_is_read_as_huggingface_hub_reads_it() {
        assert!(["1", "true", "YES", "On"].into_iter().all(|word| offline_word(Some(word))));
        assert!(![Some("0"), Some(""), Some("no"), None].into_iter().any(offline_word));
    }
}
