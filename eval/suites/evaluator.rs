//! Runs suites, one task after the other.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use data::corpus::{CorpusConfig, IrOptions, open_corpus};
use models::generate::GenerateOptions;
use models::{Embed, SearchOptions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use torch_ext::World;

use super::config::SuitesConfig;
use super::edge_cases::{EdgeCase, edge_cases};
use super::evaluation::{DomainResult, Evaluation, main_score, reconstruction_task};
use super::journey::Traveller;
use super::kept::{Kept, stamp};
use super::retrieval::{RetrievalTask, retrieval};
use super::robustness::robustness;
use super::self_retrieval::self_retrieval;
use super::sts::{StsTask, sts};
use super::task::{TaskRecord, digest_of};
use crate::bootstrap::Bootstrap;
use crate::round_trip::{Progress, RoundTripOptions, round_trip, strategy_of, versions};
use crate::{Error, Result};

/// What a decoder is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// Do the words come back?
    Reconstruction,
    /// Does a text find itself among the others?
    SelfRetrieval,
    /// Are pairs of sentences as alike as before?
    Sts,
    /// Are documents still found?
    Retrieval,
    /// In which domains is it weak?
    Domains,
    /// Do numbers, names, formulas, negations survive?
    EdgeCases,
    /// What becomes of vectors that are not quite right?
    Robustness,
}

impl Suite {
    /// All of them, in the order of reports.
    pub const ALL: [Suite; 7] = [
        Suite::Reconstruction,
        Suite::SelfRetrieval,
        Suite::Sts,
        Suite::Retrieval,
        Suite::Domains,
        Suite::EdgeCases,
        Suite::Robustness,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Suite::Reconstruction => "reconstruction",
            Suite::SelfRetrieval => "self-retrieval",
            Suite::Sts => "sts",
            Suite::Retrieval => "retrieval",
            Suite::Domains => "domains",
            Suite::EdgeCases => "edge-cases",
            Suite::Robustness => "robustness",
        }
    }
}

/// A decoder, encoders, and what they are to be judged on.
pub struct Evaluator<'a> {
    /// The way there and back, under the prompt of documents and sentences.
    pub traveller: Traveller<'a>,
    /// The same under the prompt of queries, where that is another one.
    pub queries: Option<Traveller<'a>>,
    /// A second encoder that judges what comes back.
    pub judge: Option<&'a dyn Embed>,
    /// The sets.
    pub config: &'a SuitesConfig,
    /// Texts of the suites that need some of their own: reconstruction, self-retrieval and robustness.
    pub texts: &'a [String],
    /// Their domains, where they have any.
    pub domains: Option<&'a [String]>,
    /// Limit, samples, resamples, seed.
    pub options: &'a RoundTripOptions,
    /// Data type that the encoders compute in.
    pub encoder_dtype: &'a str,
    /// The processes that take part.
    pub world: &'a World,
}

impl Evaluator<'_> {
    /// Runs suites in the order of [`Suite::ALL`]. `kept` is a file in which an interrupted evaluation goes on; it is for the
    /// caller to remove once the result is safe.
    ///
    /// # Errors
    /// [`Error::NoTexts`] for a suite without a set; what encoders and decoder say.
    pub fn run(
        &self,
        suites: &[Suite],
        kept: Option<&Path>,
        progress: &mut Progress<'_>,
    ) -> Result<Evaluation> {
        let start = Instant::now();
        let mut kept = Kept::open(kept, &self.fingerprint()?, self.world)?;
        let mut found = self.empty();
        for suite in Suite::ALL.into_iter().filter(|suite| suites.contains(suite)) {
            self.run_one(suite, &mut found, &mut kept, progress)?;
        }
        found.cost.seconds = start.elapsed().as_secs_f64();
        Ok(found)
    }

    fn run_one(
        &self,
        suite: Suite,
        found: &mut Evaluation,
        kept: &mut Kept,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let bootstrap = found.bootstrap;
        let bootstrap = &bootstrap;
        let limited = |texts: usize| &self.texts[..self.texts.len().min(texts).min(self.limit())];
        match suite {
            Suite::Reconstruction => {
                require(!self.texts.is_empty(), "the reconstruction suite: no --texts")?;
                let ((result, rows), seconds) = timed(kept, "reconstruction", || {
                    let Traveller { inverter, encoder, .. } = self.traveller;
                    let mut result =
                        round_trip(inverter, encoder, self.texts, self.domains, self.options, progress)?;
                    let rows = std::mem::take(&mut result.rows);
                    Ok((result, rows))
                })?;
                found.tasks.push(reconstruction_task(&result).measured_on(&limited(usize::MAX), seconds)?);
                found.rows = rows;
                found.cost.texts_per_s = result.settings.texts_per_s;
                found.cost.encodings = result.settings.encodings;
                found.trial |= result.settings.trial;
                found.reconstruction = Some(result);
            }
            Suite::SelfRetrieval => {
                require(!self.texts.is_empty(), "the self-retrieval suite: no --texts")?;
                found.trial |= self.texts.len() > self.limit();
                let texts = distinct(limited(usize::MAX));
                let (result, seconds) = timed(kept, suite.name(), || {
                    self_retrieval(&self.traveller.travel(&texts, progress)?, bootstrap)
                })?;
                let task = TaskRecord::new(suite, suite.name(), "top_1", result.top_1, result.n);
                found.tasks.push(task.measured_on(&texts, seconds)?);
                found.self_retrieval = Some(result);
            }
            Suite::Sts => {
                found.judge = self.judge.map(|judge| judge.space().clone());
                require(!self.config.sts.is_empty(), "the STS suite: no [[sts]] in the configuration")?;
                for entry in &self.config.sts {
                    let task = StsTask::read(&entry.name, &entry.path)?;
                    found.trial |= task.pairs.len() > self.limit();
                    let task = task.limited(self.options.limit);
                    let name = format!("sts {}", entry.name);
                    let run = || sts(&self.traveller, self.judge, &task, bootstrap, progress);
                    let (result, seconds) = timed(kept, &name, run)?;
                    let score = result.scores.both.spearman;
                    let record = TaskRecord::new(suite, &entry.name, "round_trip_spearman", score, result.n);
                    found.tasks.push(record.measured_on(&task.content(), seconds)?);
                    found.sts.push(result);
                }
            }
            Suite::Retrieval => {
                require(!self.config.retrieval.is_empty(), "the retrieval suite: no [[retrieval]]")?;
                let queries = self.queries.as_ref().unwrap_or(&self.traveller);
                for entry in &self.config.retrieval {
                    let options = IrOptions { qrels: entry.qrels.clone(), ..IrOptions::default() };
                    let task = RetrievalTask::read(&entry.name, &entry.path, entry.format, &options)?;
                    let all = task.queries();
                    let task = task.limited(self.options.limit);
                    found.trial |= task.queries() < all;
                    let name = format!("retrieval {}", entry.name);
                    let run = || retrieval(queries, &self.traveller, &task, bootstrap, progress);
                    let (result, seconds) = timed(kept, &name, run)?;
                    let score = result.queries.scores.ndcg_at_10;
                    let record =
                        TaskRecord::new(suite, &entry.name, "round_trip_query_ndcg_at_10", score, result.n);
                    found.tasks.push(record.measured_on(&task.content(), seconds)?);
                    found.retrieval.push(result);
                }
            }
            Suite::Domains => self.domains(found, kept, progress)?,
            Suite::EdgeCases => {
                let cases = EdgeCase::all()?;
                let run = || edge_cases(&self.traveller, &cases, bootstrap, progress);
                let (result, seconds) = timed(kept, suite.name(), run)?;
                let task = TaskRecord::new(suite, suite.name(), "passed", result.passed, result.rows.len());
                found.tasks.push(task.measured_on(&cases, seconds)?);
                found.edge_cases = Some(result);
            }
            Suite::Robustness => {
                let entry = &self.config.robustness;
                found.trial |= self.texts.len().min(entry.texts) > self.limit();
                let run = || {
                    robustness(
                        &self.traveller,
                        limited(entry.texts),
                        &entry.perturbations,
                        bootstrap,
                        progress,
                    )
                };
                let (results, seconds) = timed(kept, suite.name(), run)?;
                let texts = limited(entry.texts);
                for result in &results {
                    let task = result.perturbation.to_string();
                    let record = TaskRecord::new(suite, &task, "cosine", result.cosine, texts.len());
                    found.tasks.push(record.measured_on(&texts, seconds / results.len() as f64)?);
                }
                found.robustness = results;
            }
        }
        Ok(())
    }

    /// The round trip of each domain's texts, the worst first.
    fn domains(&self, found: &mut Evaluation, kept: &mut Kept, progress: &mut Progress<'_>) -> Result<()> {
        require(!self.config.domain.is_empty(), "the domains suite: no [[domain]] in the configuration")?;
        for corpus in &self.config.domain {
            let name = corpus.domain.clone().unwrap_or_else(|| corpus.name.clone());
            // one more than there may be tells whether the limit leaves something out
            let wanted = self.config.domain_texts.0.min(self.limit().saturating_add(1));
            let mut texts = texts_of(corpus, wanted)?;
            found.trial |= texts.len() > self.limit();
            texts.truncate(self.limit());
            let run = || -> Result<DomainResult> {
                let Traveller { inverter, encoder, .. } = self.traveller;
                let found = round_trip(inverter, encoder, &texts, None, self.options, progress)?;
                Ok(DomainResult { name: name.clone(), scores: found.summary, samples: found.samples })
            };
            let (result, seconds) = timed(kept, &format!("domain {name} {}", digest_of(&texts)?), run)?;
            found.tasks.push(main_score(Suite::Domains, &name, &result.scores).measured_on(&texts, seconds)?);
            found.domains.push(result);
        }
        let cosine = |domain: &DomainResult| domain.scores.cosine.unwrap_or(0.0);
        found.domains.sort_by(|a, b| cosine(a).total_cmp(&cosine(b)));
        Ok(())
    }

    fn limit(&self) -> usize {
        self.options.limit.unwrap_or(usize::MAX)
    }

    fn empty(&self) -> Evaluation {
        let Traveller { inverter, encoder, generate } = self.traveller;
        let (resamples, seed) = (self.options.bootstrap, self.options.seed);
        let bootstrap = Bootstrap { resamples, seed, ..Bootstrap::default() };
        let nothing = Evaluation::nothing(inverter.record(), inverter.space().clone(), bootstrap);
        Evaluation {
            limit: self.options.limit,
            prompt: encoder.space().prompt.name.clone(),
            query_prompt: self.queries.as_ref().map(|way| way.encoder.space().prompt.name.clone()),
            encoder_dtype: self.encoder_dtype.to_owned(),
            generate: Some(generate.clone()),
            search: inverter.search().cloned(),
            strategy: strategy_of(inverter, generate),
            dtype: inverter.dtype(),
            versions: versions(),
            ..nothing
        }
    }

    /// What a kept result must have been made with.
    fn fingerprint(&self) -> Result<String> {
        let of = |encoder: &dyn Embed| encoder.space().clone();
        let Traveller { inverter, encoder, generate } = &self.traveller;
        // how many vectors go together changes nothing
        let batchless = |generate: &GenerateOptions| GenerateOptions { batch: 0, ..generate.clone() };
        let search = inverter
            .search()
            .map(|search| SearchOptions { generate: batchless(&search.generate), ..search.clone() });
        let generate = batchless(generate);
        let sts = self.config.sts.iter().map(|entry| stamp(&entry.path));
        let retrieval = self.config.retrieval.iter().map(|entry| stamp(&entry.path));
        let parts = serde_json::to_vec(&(
            (inverter.record(), stamp(&inverter.record().path), inverter.dtype(), search, generate),
            (of(*encoder), self.queries.as_ref().map(|way| of(way.encoder)), self.judge.map(of)),
            (
                self.options.limit,
                self.options.samples,
                self.options.bootstrap,
                self.options.seed,
                self.encoder_dtype,
            ),
            (
                self.config,
                sts.chain(retrieval).collect::<Vec<_>>(),
                (self.texts, self.domains),
                versions(),
                EdgeCase::all()?,
            ),
        ));
        Ok(blake3::hash(&parts?).to_hex().to_string())
    }
}

/// The result of a task, and the seconds that it took when it was made.
fn timed<T: Serialize + DeserializeOwned>(
    kept: &mut Kept,
    name: &str,
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    kept.task(name, || {
        let start = Instant::now();
        Ok((run()?, start.elapsed().as_secs_f64()))
    })
}

/// Each text once.
fn distinct(texts: &[String]) -> Vec<String> {
    let mut met = HashSet::new();
    texts.iter().filter(|text| met.insert(*text)).cloned().collect()
}

/// The first texts of a corpus.
fn texts_of(corpus: &CorpusConfig, limit: usize) -> Result<Vec<String>> {
    let documents = open_corpus(corpus)?.take(limit);
    Ok(documents.map(|document| Ok(document?.text)).collect::<data::Result<_>>()?)
}

fn require(there: bool, what: &str) -> Result<()> {
    if there { Ok(()) } else { Err(Error::NoTexts { what: what.to_owned() }) }
}
