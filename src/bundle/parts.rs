//! An archive in numbered parts, none of them above a size.

use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use fs_err::File;
use liblzma::write::XzEncoder;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// A file by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// Its name, or its path within the archive.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Part {
    fn of(name: String, file: &Path) -> io::Result<Self> {
        let (mut file, mut digest, mut bytes) = (File::open(file)?, Sha256::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self { name, bytes, sha256: hex(digest) }),
                n => {
                    digest.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
    }
}

/// Writes `payload.001`, `payload.002`, …
pub(super) struct Parts {
    folder: PathBuf,
    most: u64,
    done: Vec<Part>,
    open: Option<Open>,
}

struct Open {
    file: File,
    name: String,
    bytes: u64,
    digest: Sha256,
}

impl Parts {
    /// Parts in `folder` of at most `most` bytes.
    pub(super) fn new(folder: &Path, most: u64) -> Self {
        Self { folder: folder.to_owned(), most, done: Vec::new(), open: None }
    }

    /// All parts, the last one closed.
    pub(super) fn finish(mut self) -> Result<Vec<Part>> {
        self.close()?;
        Ok(self.done)
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(Open { mut file, name, bytes, digest }) = self.open.take() {
            file.flush()?;
            self.done.push(Part { name, bytes, sha256: hex(digest) });
        }
        Ok(())
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.as_ref().is_some_and(|open| open.bytes >= self.most) {
            self.close()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let name = format!("payload.{:03}", self.done.len() + 1);
                let file = File::create(self.folder.join(&name))?;
                none.insert(Open { file, name, bytes: 0, digest: Sha256::new() })
            }
        };
        let room = usize::try_from(self.most - open.bytes).unwrap_or(usize::MAX);
        let written = open.file.write(&bytes[..bytes.len().min(room)])?;
        open.digest.update(&bytes[..written]);
        open.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open.as_mut().map_or(Ok(()), |open| open.file.flush())
    }
}

/// Packs all files below a folder; gives their paths and digests, sorted. Names, modes and contents alone decide the bytes.
pub(super) fn archive(folder: &Path, parts: &mut Parts) -> Result<Vec<Part>> {
    let mut paths = Vec::new();
    files(folder, &mut paths)?;
    paths.sort();
    let mut archive = tar::Builder::new(XzEncoder::new(parts, PRESET));
    archive.mode(tar::HeaderMode::Deterministic);
    let mut packed = Vec::new();
    for path in paths {
        let name = path.strip_prefix(folder)?;
        archive.append_path_with_name(&path, name)?;
        packed.push(Part::of(name.to_string_lossy().into_owned(), &path)?);
    }
    archive.into_inner()?.finish()?;
    Ok(packed)
}

/// Of xz: higher ones gain a few per cent of a program and take minutes.
const PRESET: u32 = 3;

fn files(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_joined_are_what_was_written(
            writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            most in 1u64..50,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut parts = Parts::new(folder.path(), most);
            writes.iter().for_each(|bytes| parts.write_all(bytes).unwrap());
            let parts = parts.finish().unwrap();
            let whole = writes.concat();
            let mut joined = Vec::new();
            for part in &parts {
                let bytes = fs_err::read(folder.path().join(&part.name)).unwrap();
                prop_assert!(part.bytes <= most && part.bytes == bytes.len() as u64);
                prop_assert_eq!(&part.sha256, &hex(Sha256::new_with_prefix(&bytes)));
                joined.extend(bytes);
            }
            prop_assert_eq!(&joined, &whole);
            prop_assert_eq!(parts.len() as u64, (whole.len() as u64).div_ceil(most));
        }
    }
}
