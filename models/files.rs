//! Small files: JSON in and out, and writing that leaves either the old file or the new one, never half of one.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// Reads a JSON file; a wrong type or an unknown field is named by its key.
///
/// # Errors
/// [`Error::Io`], or [`Error::Json`] with the path and the key.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs_err::read(path)?;
    parse_json(path, &bytes)
}

/// Parses the content of a JSON file that was read from `path`.
///
/// # Errors
/// [`Error::Json`] with the path and the key.
pub fn parse_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let bad = |key: String, reason: String| Error::Json { path: path.to_owned(), key, reason };
    let value = serde_path_to_error::deserialize(&mut parser)
        .map_err(|error| bad(error.path().to_string(), error.inner().to_string()))?;
    parser.end().map_err(|error| bad(String::new(), error.to_string()))?;
    Ok(value)
}

/// Writes a value as indented JSON with a final line break, atomically.
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write_json<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(std::io::Error::from)?;
    bytes.push(b'\n');
    write_atomically(path, |file| Ok(file.write_all(&bytes)?))
}

/// Writes a file under a temporary name in the same folder, flushes it to the disk, and renames it into place, so that a
/// reader, or a crash, finds the old file or the new one.
///
/// # Errors
/// Whatever `write` returns, or [`Error::Io`] with the path; the temporary file is removed.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut std::io::BufWriter<fs_err::File>) -> Result<()>,
) -> Result<()> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = (|| {
        let mut buffered = std::io::BufWriter::with_capacity(1 << 20, fs_err::File::create(&temporary)?);
        write(&mut buffered)?;
        let file = buffered.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs_err::rename(&temporary, path)?;
        // the rename itself lasts only once the folder is on the disk
        fs_err::File::open(folder)?.sync_all()?;
        Ok(())
    })();
    if written.is_err() {
        let _ = fs_err::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_errors_name_the_key() {
        #[derive(serde::Deserialize, Debug)]
        #[allow(dead_code)]
        struct Outer {
            inner: Vec<u32>,
        }
        let error = parse_json::<Outer>(Path::new("x.json"), br#"{"inner": [1, "two"]}"#).unwrap_err();
        assert!(error.to_string().contains("inner[1]"), "{error}");
        let error = parse_json::<Outer>(Path::new("x.json"), br#"{"inner": []} {}"#).unwrap_err();
        assert!(error.to_string().contains("trailing"), "{error}");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        write_json(&path, &[1, 2]).unwrap();
        let failed = write_atomically(&path, |file| {
            file.write_all(b"half")?;
            Err(Error::Tokenize("stop".into()))
        });
        assert!(failed.is_err());
        assert_eq!(read_json::<Vec<u32>>(&path).unwrap(), [1, 2]);
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 1);
    }
}
