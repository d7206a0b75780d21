//! Runs suites, one task after the other.

use std::path::Path;
use std::time::Instant;

use models::generate::GenerateOptions;
use models::{Embed, SearchOptions};
use torch_ext::World;

use super::config::SuitesConfig;
use super::evaluation::Evaluation;
use super::journey::Traveller;
use super::judging::Judging;
use super::kept::{Kept, stamp};
use super::sets::Sets;
use crate::Result;
use crate::bootstrap::Bootstrap;
use crate::round_trip::{Progress, RoundTripOptions, strategy_of, versions};

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
    /// Their numbers, where they are not counted from 0: rows of a pair set.
    pub numbers: Option<&'a [usize]>,
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
    /// [`crate::Error::NoSet`] for a suite without a set, and what reading sets fails with, before anything is judged; what encoders
    /// and decoder say.
    pub fn run(
        &self,
        suites: &[Suite],
        kept: Option<&Path>,
        progress: &mut Progress<'_>,
    ) -> Result<Evaluation> {
        let start = Instant::now();
        let suites: Vec<Suite> = Suite::ALL.into_iter().filter(|suite| suites.contains(suite)).collect();
        let sets = Sets::read(&suites, self)?;
        let kept = Kept::open(kept, &self.fingerprint()?, self.world)?;
        let mut found = self.empty();
        Judging { evaluator: self, found: &mut found, kept, progress }.run(&suites, sets)?;
        found.cost.seconds = start.elapsed().as_secs_f64();
        Ok(found)
    }

    pub(super) fn limit(&self) -> usize {
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

    /// What every kept result must have been made with; what it is of, its task says.
    fn fingerprint(&self) -> Result<String> {
        let of = |encoder: &dyn Embed| encoder.space().clone();
        let Traveller { inverter, encoder, generate } = &self.traveller;
        // how many vectors go together changes nothing
        let batchless = |generate: &GenerateOptions| GenerateOptions { batch: 0, ..generate.clone() };
        let search = inverter
            .search()
            .map(|search| SearchOptions { generate: batchless(&search.generate), ..search.clone() });
        let generate = batchless(generate);
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
            versions(),
        ));
        Ok(blake3::hash(&parts?).to_hex().to_string())
    }
}
