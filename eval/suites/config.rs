//! What is evaluated: the file behind `eval --config`.

use std::collections::BTreeSet;
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
        let fail = |reason: String| Error::Config { path: path.to_owned(), reason };
        let config: Self = toml::from_str(&text).map_err(|error| fail(error.to_string()))?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let domains = self.domain.iter().map(|corpus| corpus.domain.as_ref().unwrap_or(&corpus.name));
        for (section, names) in [
            ("sts", self.sts.iter().map(|entry| &entry.name).collect::<Vec<_>>()),
            ("retrieval", self.retrieval.iter().map(|entry| &entry.name).collect()),
            ("domain", domains.collect()),
        ] {
            let mut seen = BTreeSet::new();
            if let Some(twice) = names.iter().find(|name| name.is_empty() || !seen.insert(**name)) {
                return Err(format!("[[{section}]]: the name {twice:?} is empty, or two have it"));
            }
        }
        if let Some(corpus) = self.domain.iter().find(|corpus| corpus.file_domains) {
            return Err(format!(
                "[[domain]] {:?}: file_domains: a domain stands by itself here; give each file a [[domain]] of its own",
                corpus.name
            ));
        }
        if self.domain_texts.0 == 0 || self.robustness.texts == 0 {
            return Err("domain_texts and robustness.texts must be at least 1".to_owned());
        }
        let sound = |perturbation: &Perturbation| match *perturbation {
            Perturbation::Noise(level) => level.is_finite() && level > 0.0,
            Perturbation::Towards(share) => share > 0.0 && share < 1.0,
            _ => true,
        };
        match self.robustness.perturbations.iter().find(|perturbation| !sound(perturbation)) {
            Some(wrong) => {
                Err(format!("robustness.perturbations: {wrong:?}: noise is above 0, towards between 0 and 1"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> std::result::Result<SuitesConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), text).unwrap();
        SuitesConfig::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_cannot_be_evaluated_is_refused_by_its_key() {
        let set = "[[sts]]\nname = \"a\"\npath = \"x\"\n";
        assert_eq!(read(set).unwrap().sts.len(), 1);
        assert!(read(&set.repeat(2)).unwrap_err().contains("[[sts]]"));
        let corpus = "[[domain]]\nname = \"all\"\npath = \"x\"\nformat = \"text\"\n";
        assert!(read(corpus).is_ok());
        assert!(read(&format!("{corpus}file_domains = true")).unwrap_err().contains("file_domains"));
        assert!(read("domain_texts = 0").unwrap_err().contains("domain_texts"));
        for wrong in ["{ noise = -0.1 }", "{ towards = 1.5 }", "\"tea\""] {
            assert!(read(&format!("[robustness]\nperturbations = [{wrong}]")).is_err(), "{wrong}");
        }
    }
}
