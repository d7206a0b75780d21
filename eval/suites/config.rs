//! What is evaluated: the file behind `eval --config`.

use std::path::{Path, PathBuf};

use data::corpus::{CorpusConfig, Format};
use serde::{Deserialize, Serialize};

use super::robustness::Perturbation;
use crate::{Error, Result};

/// Which sets each suite takes. What is left out is not evaluated.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SuitesConfig {
    /// STS sets.
    pub sts: Vec<StsEntry>,
    /// Retrieval collections.
    pub retrieval: Vec<RetrievalEntry>,
    /// Domains: corpora as in recipes, each with its `domain`.
    pub domain: Vec<CorpusConfig>,
    /// Texts of each domain, at most.
    pub domain_texts: DomainTexts,
    /// What is done to vectors in the robustness suite.
    pub robustness: RobustnessEntry,
}

/// Texts of a domain, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainTexts(pub usize);

impl Default for DomainTexts {
    fn default() -> Self {
        Self(200)
    }
}

/// An STS set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StsEntry {
    /// What it is called in reports.
    pub name: String,
    /// A file, or a folder of files.
    pub path: PathBuf,
}

/// A retrieval collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalEntry {
    /// What it is called in reports.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// beir, trec or smart.
    pub format: Format,
    /// Which judgements of a BEIR folder.
    #[serde(default = "test")]
    pub qrels: String,
}

fn test() -> String {
    "test".to_owned()
}

/// The robustness suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RobustnessEntry {
    /// Texts, at most.
    pub texts: usize,
    /// What is done to their vectors.
    pub perturbations: Vec<Perturbation>,
}

impl Default for RobustnessEntry {
    fn default() -> Self {
        Self { texts: 200, perturbations: Perturbation::all() }
    }
}

impl SuitesConfig {
    /// Reads a file. Its paths are relative to the current directory, as in recipes.
    ///
    /// # Errors
    /// [`Error::Config`] for what is no TOML or has a key that is not known; the disk's.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs_err::read_to_string(path).map_err(data::Error::from)?;
        toml::from_str(&text).map_err(|error| Error::Config { path: path.to_owned(), reason: error.to_string() })
    }
}
