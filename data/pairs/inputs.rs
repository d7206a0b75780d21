//! What a build reads, told apart without reading all of it: a build that goes on must go on with the same files.
//!
//! It lies in a file of its own and not in the manifest, whose bytes follow from the recipe and the texts alone.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::config::BuildConfig;
use super::shard_writer::digest_text;
use crate::corpus::{CorpusConfig, HubCorpus, corpus_files};
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
#[serde(untagged)]
enum CorpusFiles {
    /// Of a hub repository, whose commit never changes.
    Hub { corpus: String, hub: String, commit: String },
    Here {
        corpus: String,
        files: u64,
        bytes: u64,
        /// `blake3:HEX` over name and length of each file in the order in which they are read.
        names_and_lengths: String,
    },
}

/// What a build in its working folder began with; the rest of that file is not of interest here.
#[derive(Deserialize)]
struct Begun {
    inputs: Option<Inputs>,
}

/// The build with each hub corpus at one commit: that of the record, where the build has begun, else that of now.
///
/// # Errors
/// A hub that does not tell its commit, a record that cannot be read.
pub(super) fn pinned(config: &BuildConfig, begun: &Path) -> Result<BuildConfig> {
    let mut config = config.clone();
    if config.corpora.iter().all(|corpus| corpus.hub.is_none()) {
        return Ok(config);
    }
    let recorded = match begun.exists() {
        true => models::files::read_json::<Begun>(begun)?.inputs,
        false => Inputs::read(&config.dir)?,
    };
    for corpus in &mut config.corpora {
        let known = recorded.as_ref().and_then(|recorded| recorded.commit_of(corpus));
        corpus.commit = match (known, HubCorpus::of(corpus)?) {
            (None, Some(hub)) => hub.commit()?,
            (known, _) => known,
        };
    }
    Ok(config)
}

impl CorpusFiles {
    /// Looks at the files of a corpus as they are now.
    fn of(corpus: &CorpusConfig) -> Result<CorpusFiles> {
        let name = corpus.name.clone();
        if let (Some(hub), Some(commit)) = (&corpus.hub, &corpus.commit) {
            return Ok(CorpusFiles::Hub { corpus: name, hub: hub.clone(), commit: commit.clone() });
        }
        let mut hasher = blake3::Hasher::new();
        let (mut files, mut bytes) = (0, 0);
        let mut count = |name: &str, length: u64| {
            // no name holds a zero byte
            hasher.update(name.as_bytes()).update(&[0]).update(&length.to_le_bytes());
            files += 1;
            bytes += length;
        };
        match HubCorpus::of(corpus)? {
            Some(folder) => {
                folder.files(corpus)?.iter().for_each(|file| count(&file.path, file.bytes));
            }
            None => {
                for found in corpus_files(corpus)? {
                    count(&found.name, fs::metadata(&found.file)?.len());
                }
            }
        }
        let names_and_lengths = digest_text(&hasher.finalize());
        Ok(CorpusFiles::Here { corpus: name, files, bytes, names_and_lengths })
    }

    /// How the files of now differ from these.
    fn difference(&self, now: &CorpusFiles) -> Option<String> {
        use CorpusFiles::{Here, Hub};
        if self == now {
            return None;
        }
        Some(match (self, now) {
            (Hub { commit: there, hub, .. }, Hub { commit, corpus, .. }) => {
                format!("corpus {corpus:?}: commit {there} of {hub} there, {commit} now")
            }
            (Here { files: a, bytes: b, .. }, Here { files, bytes, corpus, .. })
                if (a, b) != (files, bytes) =>
            {
                format!(
                    "the files of corpus {corpus:?}: {b} bytes in {a} files there, {bytes} bytes in {files} files now"
                )
            }
            (_, Here { corpus, .. }) => format!("the files of corpus {corpus:?}: other names or lengths now"),
            (_, Hub { corpus, .. }) => format!("the files of corpus {corpus:?}: from the hub now"),
        })
    }
}

impl Inputs {
    /// Looks at the files of a build as they are now.
    ///
    /// # Errors
    /// A path that leads nowhere, or a file that cannot be read.
    pub(super) fn of(config: &BuildConfig) -> Result<Inputs> {
        let corpora = config.corpora.iter().map(CorpusFiles::of).collect::<Result<_>>()?;
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

    /// The commit of a hub corpus in this record.
    fn commit_of(&self, wanted: &CorpusConfig) -> Option<String> {
        self.corpora.iter().find_map(|there| match there {
            CorpusFiles::Hub { corpus, hub, commit }
                if *corpus == wanted.name && Some(hub) == wanted.hub.as_ref() =>
            {
                Some(commit.clone())
            }
            _ => None,
        })
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
        differences
            .extend(self.corpora.iter().zip(&now.corpora).filter_map(|(there, now)| there.difference(now)));
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
