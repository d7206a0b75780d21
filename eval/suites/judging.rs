//! The suites, one after the other.

use std::collections::HashSet;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::edge_cases::{EdgeCase, edge_cases};
use super::evaluation::{DomainResult, Evaluation, main_score, reconstruction_task};
use super::evaluator::{Evaluator, Suite};
use super::journey::Traveller;
use super::kept::Kept;
use super::retrieval::{RetrievalTask, retrieval};
use super::robustness::{possible, robustness};
use super::self_retrieval::self_retrieval;
use super::sets::{Domain, Sets};
use super::sts::{StsTask, sts};
use super::task::{TaskRecord, digest_of};
use crate::Result;
use crate::result::Samples;
use crate::round_trip::{Progress, round_trip};

/// An evaluation under way.
pub(super) struct Judging<'a, 'p> {
    pub(super) evaluator: &'a Evaluator<'a>,
    pub(super) found: &'a mut Evaluation,
    pub(super) kept: Kept,
    pub(super) progress: &'a mut Progress<'p>,
}

impl Judging<'_, '_> {
    /// Judges by all sets of the suites; each is let go before the next one.
    pub(super) fn run(&mut self, suites: &[Suite], mut sets: Sets) -> Result<()> {
        for suite in suites {
            match suite {
                Suite::Reconstruction => self.reconstruction()?,
                Suite::SelfRetrieval => self.self_retrieval()?,
                Suite::Sts => {
                    self.found.judge = self.evaluator.judge.map(|judge| judge.space().clone());
                    std::mem::take(&mut sets.sts).into_iter().try_for_each(|task| self.sts(task))?;
                }
                Suite::Retrieval => {
                    std::mem::take(&mut sets.retrieval)
                        .into_iter()
                        .try_for_each(|task| self.retrieval(task))?;
                }
                Suite::Domains => {
                    std::mem::take(&mut sets.domains)
                        .into_iter()
                        .try_for_each(|domain| self.domain(domain))?;
                    let cosine = |domain: &DomainResult| domain.scores.cosine.unwrap_or(0.0);
                    self.found.domains.sort_by(|a, b| cosine(a).total_cmp(&cosine(b)));
                }
                Suite::EdgeCases => self.edge_cases()?,
                Suite::Robustness => self.robustness()?,
            }
        }
        Ok(())
    }

    fn reconstruction(&mut self) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let read = &evaluator.texts[..evaluator.texts.len().min(evaluator.limit())];
        let ((mut result, rows), seconds) =
            timed(kept, Suite::Reconstruction.name(), &(read, evaluator.domains), || {
                let Traveller { inverter, encoder, .. } = evaluator.traveller;
                let (texts, domains) = (evaluator.texts, evaluator.domains);
                let mut result = round_trip(inverter, encoder, texts, domains, evaluator.options, progress)?;
                let rows = std::mem::take(&mut result.rows);
                Ok((result, rows))
            })?;
        found.tasks.push(reconstruction_task(&result).measured_on(&read, seconds)?);
        found.rows = rows;
        if let Some(numbers) = evaluator.numbers {
            let Samples { best, worst, random } = &mut result.samples;
            let all = [&mut found.rows, best, worst, random].into_iter().flatten();
            all.for_each(|row| row.index = numbers.get(row.index).copied().unwrap_or(row.index));
        }
        found.cost.texts_per_s = result.settings.texts_per_s;
        found.cost.encodings = result.settings.encodings;
        found.trial |= result.settings.trial;
        found.reconstruction = Some(result);
        Ok(())
    }

    fn self_retrieval(&mut self) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let (suite, bootstrap) = (Suite::SelfRetrieval, found.bootstrap);
        found.trial |= evaluator.texts.len() > evaluator.limit();
        let texts = distinct(&evaluator.texts[..evaluator.texts.len().min(evaluator.limit())]);
        let (result, seconds) = timed(kept, suite.name(), &texts, || {
            self_retrieval(&evaluator.traveller.travel(&texts, progress)?, &bootstrap)
        })?;
        let task = TaskRecord::new(suite, suite.name(), "top_1", result.top_1, result.n);
        found.tasks.push(task.measured_on(&texts, seconds)?);
        found.self_retrieval = Some(result);
        Ok(())
    }

    fn sts(&mut self, task: StsTask) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let bootstrap = found.bootstrap;
        found.trial |= task.pairs.len() > evaluator.limit();
        let task = task.limited(evaluator.options.limit);
        let (result, seconds) = timed(kept, &format!("sts {}", task.name), &task.content(), || {
            sts(&evaluator.traveller, evaluator.judge, &task, &bootstrap, progress)
        })?;
        let score = result.scores.both.spearman;
        let record = TaskRecord::new(Suite::Sts, &task.name, "round_trip_spearman", score, result.n);
        found.tasks.push(record.measured_on(&task.content(), seconds)?);
        found.sts.push(result);
        Ok(())
    }

    fn retrieval(&mut self, task: RetrievalTask) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let bootstrap = found.bootstrap;
        let queries = evaluator.queries.as_ref().unwrap_or(&evaluator.traveller);
        let all = task.queries();
        let task = task.limited(evaluator.options.limit);
        found.trial |= task.queries() < all;
        let (result, seconds) = timed(kept, &format!("retrieval {}", task.name), &task.content(), || {
            retrieval(queries, &evaluator.traveller, &task, &bootstrap, progress)
        })?;
        let (metric, score) = ("round_trip_query_ndcg_at_10", result.queries.scores.ndcg_at_10);
        let record = TaskRecord::new(Suite::Retrieval, &task.name, metric, score, result.n);
        found.tasks.push(record.measured_on(&task.content(), seconds)?);
        found.retrieval.push(result);
        Ok(())
    }

    fn domain(&mut self, domain: Domain) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let Domain { name, mut texts } = domain;
        found.trial |= texts.len() > evaluator.limit();
        texts.truncate(evaluator.limit());
        let (result, seconds) = timed(kept, &format!("domain {name}"), &texts, || {
            let Traveller { inverter, encoder, .. } = evaluator.traveller;
            let found = round_trip(inverter, encoder, &texts, None, evaluator.options, progress)?;
            Ok(DomainResult { name: name.clone(), scores: found.summary, samples: found.samples })
        })?;
        found.tasks.push(main_score(Suite::Domains, &name, &result.scores).measured_on(&texts, seconds)?);
        found.domains.push(result);
        Ok(())
    }

    fn edge_cases(&mut self) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let (suite, bootstrap) = (Suite::EdgeCases, found.bootstrap);
        let cases = EdgeCase::all()?;
        let (result, seconds) = timed(kept, suite.name(), &cases, || {
            edge_cases(&evaluator.traveller, &cases, &bootstrap, progress)
        })?;
        let task = TaskRecord::new(suite, suite.name(), "passed", result.passed, result.rows.len());
        found.tasks.push(task.measured_on(&cases, seconds)?);
        found.edge_cases = Some(result);
        Ok(())
    }

    fn robustness(&mut self) -> Result<()> {
        let Self { evaluator, found, kept, progress } = self;
        let (suite, bootstrap) = (Suite::Robustness, found.bootstrap);
        let wanted = evaluator.texts.len().min(evaluator.config.robustness.texts);
        found.trial |= wanted > evaluator.limit();
        let texts = &evaluator.texts[..wanted.min(evaluator.limit())];
        let changes = possible(&evaluator.config.robustness.perturbations, texts.len());
        let (results, seconds) = timed(kept, suite.name(), &(texts, &changes), || {
            robustness(&evaluator.traveller, texts, &changes, &bootstrap, progress)
        })?;
        for result in &results {
            let task = result.perturbation.to_string();
            let record = TaskRecord::new(suite, &task, "cosine", result.cosine, texts.len());
            found.tasks.push(record.measured_on(&texts, seconds / results.len() as f64)?);
        }
        found.robustness = results;
        Ok(())
    }
}

/// The result of a task, and the seconds that it took when it was made. A kept one is taken where it is of the same
/// `content`.
fn timed<T: Serialize + DeserializeOwned>(
    kept: &mut Kept,
    name: &str,
    content: &impl Serialize,
    run: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    kept.task(&format!("{name} {}", digest_of(content)?), || {
        let start = Instant::now();
        Ok((run()?, start.elapsed().as_secs_f64()))
    })
}

/// Each text once.
fn distinct(texts: &[String]) -> Vec<String> {
    let mut met = HashSet::new();
    texts.iter().filter(|text| met.insert(*text)).cloned().collect()
}
