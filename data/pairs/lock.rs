//! One process at a time builds in a folder. The system lets go of the lock when its process ends, however it ends.

use std::fs::TryLockError;
use std::io::{Read, Seek, Write};
use std::path::Path;

use fs_err as fs;

use crate::{Error, Result};

/// File that is locked while a build runs; it stays, empty of meaning, when the build has ended.
const LOCK_FILE: &str = ".build.lock";

/// Holds the lock until dropped.
#[derive(Debug)]
pub(super) struct BuildLock {
    _file: fs::File,
}

impl BuildLock {
    /// Takes the lock of `dir`.
    ///
    /// # Errors
    /// Another process has it (its number is named), or the folder cannot be written.
    pub(super) fn take(dir: &Path) -> Result<BuildLock> {
        let path = dir.join(LOCK_FILE);
        let mut file =
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        match file.file().try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                Ok(BuildLock { _file: file })
            }
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).ok();
                Err(Error::BuildLocked { dir: dir.to_owned(), process: holder.trim().to_owned() })
            }
            Err(TryLockError::Error(source)) => Err(Error::Io(source)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_has_it_until_the_first_ends() {
        let dir = tempfile::tempdir().unwrap();
        let first = BuildLock::take(dir.path()).unwrap();
        let error = BuildLock::take(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(first);
        BuildLock::take(dir.path()).unwrap();
    }
}
