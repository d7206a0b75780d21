//! The cache's layout, which is that of Python's `huggingface_hub`: contents in `blobs` under their entity tag, files of
//! a commit as links in `snapshots`, branches and tags in `refs`.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fs_err as fs;

use super::Kind;

/// The part of a cache that is one repository's.
pub(super) struct Cache {
    root: PathBuf,
    name: String,
}

/// Kept from other processes, Python's among them, while it lives.
pub(super) struct Lock(#[allow(dead_code)] Option<fs::File>);

impl Cache {
    pub(super) fn new(root: PathBuf, kind: Kind, owner: &str, repository: &str) -> Self {
        Self { root, name: format!("{}--{owner}--{repository}", kind.plural()) }
    }

    fn folder(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder().join("snapshots").join(commit)
    }

    /// A file of a commit, if it is here.
    pub(super) fn file(&self, commit: &str, file: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(file)).filter(|path| path.is_file())
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// What there is of a content that is not whole.
    pub(super) fn partial(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit that a branch or tag was, when the hub was last asked.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let commit = fs::read_to_string(self.folder().join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| !commit.is_empty())
    }

    pub(super) fn write_commit_of(&self, revision: &str, commit: &str) -> std::io::Result<()> {
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        write(&self.folder().join("refs").join(revision), commit.as_bytes())
    }

    fn absence(&self, commit: &str, file: &str) -> PathBuf {
        self.folder().join(".no_exist").join(commit).join(file)
    }

    /// Whether the hub said once that the commit has no such file.
    pub(super) fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.absence(commit, file).is_file()
    }

    /// A note for the next time, which may be offline.
    pub(super) fn note_absence(&self, commit: &str, file: &str) {
        if let Err(error) = write(&self.absence(commit, file), b"") {
            tracing::debug!("not noted: {error}");
        }
    }

    /// Makes a file of a commit out of a content.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> std::io::Result<PathBuf> {
        let pointer = self.snapshot(commit).join(file);
        let up = "../".repeat(Path::new(file).components().count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|there| there == target) {
            return Ok(pointer);
        }
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder)?;
        }
        // made beside it and renamed, so that another process finds the old link or the new one
        let temporary = temporary(&pointer);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::os::unix::fs::symlink(&target, &temporary)?;
        fs::rename(&temporary, &pointer)?;
        Ok(pointer)
    }

    /// Waits until no other process fetches the content, and keeps others from it.
    pub(super) fn lock(&self, etag: &str) -> std::io::Result<Lock> {
        let path = self.root.join(".locks").join(&self.name).join(format!("{etag}.lock"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
        match file.file().try_lock() {
            Ok(()) => Ok(Lock(Some(file))),
            Err(TryLockError::WouldBlock) => {
                tracing::info!("{} is being fetched by another process: waiting for it", self.name);
                file.file().lock()?;
                Ok(Lock(Some(file)))
            }
            // some network file systems know no locks
            Err(TryLockError::Error(error)) => {
                tracing::debug!("{}: not locked: {error}", path.display());
                Ok(Lock(None))
            }
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = temporary(path);
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

/// A name beside a file that no other process or thread uses.
fn temporary(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{process}-{number}.tmp"))
}
