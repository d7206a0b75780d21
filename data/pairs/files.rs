//! Shards are whole or absent: written under a temporary name, synced, renamed.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

/// The temporary name that a file has until it is whole: `.NAME.tmp` beside it.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Gives a synced temporary file its real name, and syncs the folder so that the name survives a power cut.
pub(super) fn publish(path: &Path) -> io::Result<()> {
    fs::rename(temporary(path), path)?;
    match path.parent() {
        Some(folder) => fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes the temporary files that a killed process has left in `folder`.
pub(super) fn remove_temporary(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".tmp") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
