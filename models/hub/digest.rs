//! What a hub promises of a file's content: its entity tag is a digest.

use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

const CHUNK: usize = 1 << 20;

/// The digest that an entity tag is.
#[derive(Debug, PartialEq, Eq)]
enum Algorithm {
    /// Of the bytes: large files (LFS, Xet).
    Sha256,
    /// Of git's blob, a header before the bytes: small files.
    GitBlob,
}

fn algorithm(etag: &str) -> Option<Algorithm> {
    let hex = etag.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match etag.len() {
        64 if hex => Some(Algorithm::Sha256),
        40 if hex => Some(Algorithm::GitBlob),
        _ => None,
    }
}

/// What the content's digest is instead of the entity tag; nothing where they agree or the tag is no digest.
///
/// # Errors
/// The file cannot be read.
pub(super) fn difference(path: &Path, etag: &str) -> std::io::Result<Option<String>> {
    let found = match algorithm(etag) {
        None => return Ok(None),
        Some(Algorithm::Sha256) => of_file(path, Sha256::new())?,
        Some(Algorithm::GitBlob) => {
            let length = fs_err::metadata(path)?.len();
            of_file(path, Sha1::new().chain_update(format!("blob {length}\0")))?
        }
    };
    Ok((found != etag).then_some(found))
}

fn of_file<D: sha2::Digest>(path: &Path, mut digest: D) -> std::io::Result<String> {
    let mut file = fs_err::File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => digest.update(&buffer[..n]),
        }
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked_as_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x");
        fs_err::write(&file, "hello\n").unwrap();
        // `sha256sum` and `git hash-object` of it
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let blob = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(difference(&file, sha256).unwrap(), None);
        assert_eq!(difference(&file, blob).unwrap(), None);
        assert_eq!(difference(&file, "W-strange-tag").unwrap(), None);
        assert_eq!(difference(&file, &"0".repeat(64)).unwrap().as_deref(), Some(sha256));
        assert_eq!(difference(&file, &"0".repeat(40)).unwrap().as_deref(), Some(blob));
    }
}
