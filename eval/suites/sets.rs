//! What suites judge by, read before the first of them: a set that is missing or damaged is told at once, not after hours.

use data::corpus::{CorpusConfig, IrOptions, open_corpus};

use super::evaluator::{Evaluator, Suite};
use super::retrieval::RetrievalTask;
use super::sts::StsTask;
use crate::{Error, Result};

/// The sets of the suites that are asked for; without those, none.
pub(super) struct Sets {
    pub(super) sts: Vec<StsTask>,
    pub(super) retrieval: Vec<RetrievalTask>,
    pub(super) domains: Vec<Domain>,
}

/// Texts of one domain.
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) texts: Vec<String>,
}

impl Sets {
    /// Reads them, those of domains up to one text more than the limit, which tells whether it leaves something out.
    pub(super) fn read(suites: &[Suite], of: &Evaluator<'_>) -> Result<Self> {
        let config = of.config;
        for &suite in suites {
            let (there, lacks) = match suite {
                Suite::Reconstruction | Suite::SelfRetrieval | Suite::Robustness => {
                    (!of.texts.is_empty(), "texts")
                }
                Suite::Sts => (!config.sts.is_empty(), "[[sts]]"),
                Suite::Retrieval => (!config.retrieval.is_empty(), "[[retrieval]]"),
                Suite::Domains => (!config.domain.is_empty(), "[[domain]]"),
                Suite::EdgeCases => (true, ""),
            };
            if !there {
                return Err(Error::NoSet { suite: suite.name(), lacks });
            }
        }
        let asked = |suite: Suite| suites.contains(&suite);
        let sts = config.sts.iter().filter(|_| asked(Suite::Sts));
        let retrieval = config.retrieval.iter().filter(|_| asked(Suite::Retrieval));
        let domains = config.domain.iter().filter(|_| asked(Suite::Domains));
        let wanted = config.domain_texts.0.min(of.limit().saturating_add(1));
        Ok(Self {
            sts: sts.map(|entry| StsTask::read(&entry.name, &entry.path)).collect::<Result<_>>()?,
            retrieval: retrieval
                .map(|entry| {
                    let options = IrOptions { qrels: entry.qrels.clone(), ..IrOptions::default() };
                    RetrievalTask::read(&entry.name, &entry.path, entry.format, &options)
                })
                .collect::<Result<_>>()?,
            domains: domains.map(|corpus| Domain::read(corpus, wanted)).collect::<Result<_>>()?,
        })
    }
}

impl Domain {
    /// The first texts of a corpus.
    fn read(corpus: &CorpusConfig, limit: usize) -> Result<Self> {
        let name = corpus.domain.clone().unwrap_or_else(|| corpus.name.clone());
        let documents = open_corpus(corpus)?.take(limit);
        let texts: Vec<String> = documents.map(|document| Ok(document?.text)).collect::<data::Result<_>>()?;
        match texts.is_empty() {
            true => Err(Error::NoTexts { what: format!("the domain {name}") }),
            false => Ok(Self { name, texts }),
        }
    }
}
