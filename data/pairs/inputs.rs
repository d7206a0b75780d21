//! What a build reads, told apart without reading all of it: a build that goes on must go on with the same files.
//!
//! It lies in a file of its own and not in the manifest, whose bytes follow from the recipe and the texts alone.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::build::BuildConfig;
use super::shard_writer::digest_text;
use crate::corpus::corpus_files;
use crate::curation::exclusion_files;
use crate::{Error, Result};

/// File name of this record in a finished pair set.
pub(super) const INPUTS_FILE: &str = "inputs.json";

/// The files of a build. Their names stand below the paths of the recipe, so that it is the same on every machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inputs {
    /// The corpora in the recipe's order.
    corpora: Vec<CorpusFiles>,
    /// `blake3:HEX` over the bytes of each evaluation file. These are small, and one text more in them matters.
    exclude: BTreeMap<String, String>,
}

/// The files of one corpus; their contents are too large to be read once more only to be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct CorpusFiles {
    corpus: String,
    files: u64,
    bytes: u64,
    /// `blake3:HEX` over name and length of each file in the order in which they are read.
    names_and_lengths: String,
}

impl Inputs {
    /// Looks at the files of a build as they are now.
    ///
    /// # Errors
    /// A path that leads nowhere, or a file that cannot be read.
    pub(super) fn of(config: &BuildConfig) -> Result<Inputs> {
        let mut corpora = Vec::with_capacity(config.corpora.len());
        for corpus in &config.corpora {
            let mut hasher = blake3::Hasher::new();
            let (mut files, mut bytes) = (0, 0);
            for found in corpus_files(corpus)? {
                let length = fs::metadata(&found.file)?.len();
                // no name holds a zero byte
                hasher.update(found.name.as_bytes()).update(&[0]).update(&length.to_le_bytes());
                files += 1;
                bytes += length;
            }
            let names_and_lengths = digest_text(&hasher.finalize());
            corpora.push(CorpusFiles { corpus: corpus.name.clone(), files, bytes, names_and_lengths });
        }
        let mut exclude = BTreeMap::new();
        for path in &config.exclude {
            for found in exclusion_files(path)? {
                let mut hasher = blake3::Hasher::new();
                let read = hasher.update_reader(fs::File::open(&found.file)?);
                read.map_err(|source| Error::Read { path: found.file.clone(), line: 0, source })?;
                let name = if found.name.is_empty() {
                    path.display().to_string()
                } else {
                    format!("{} ({})", path.display(), found.name)
                };
                exclude.insert(name, digest_text(&hasher.finalize()));
            }
        }
        Ok(Inputs { corpora, exclude })
    }

    /// The record of a finished pair set; none where it was made or copied without one.
    pub(super) fn read(dir: &Path) -> Result<Option<Inputs>> {
        let path = dir.join(INPUTS_FILE);
        if path.exists() { Ok(Some(models::files::read_json(&path)?)) } else { Ok(None) }
    }

    /// Writes the record into `dir`, atomically.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        Ok(models::files::write_json(&dir.join(INPUTS_FILE), self)?)
    }

    /// Says of each corpus and evaluation file that differs how it does.
    pub(super) fn differences(&self, now: &Inputs) -> Vec<String> {
        let mut differences = Vec::new();
        // corpora of other number or names are a difference of the recipe
        for (there, now) in self.corpora.iter().zip(&now.corpora) {
            let what = format!("the files of corpus {:?}", now.corpus);
            if (there.files, there.bytes) != (now.files, now.bytes) {
                let size = |of: &CorpusFiles| format!("{} bytes in {} files", of.bytes, of.files);
                differences.push(format!("{what}: {} there, {} now", size(there), size(now)));
            } else if there.names_and_lengths != now.names_and_lengths {
                differences.push(format!("{what}: other names or lengths now"));
            }
        }
        let changed = |name: &String| match (self.exclude.get(name), now.exclude.get(name)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(_), Some(_)) => Some(format!("pairs.exclude: {name} has other contents now")),
            (Some(_), None) => Some(format!("pairs.exclude: {name} is not there any more")),
            _ => Some(format!("pairs.exclude: {name} is new")),
        };
        let new = now.exclude.keys().filter(|name| !self.exclude.contains_key(*name));
        differences.extend(self.exclude.keys().chain(new).filter_map(changed));
        differences
    }
}
