//! Retrieval after the round trip: are documents still found when queries, or documents, are read back from their
//! vectors?
#![allow(non_snake_case)]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use data::corpus::{Format, IrOptions, IrSet, read_ir};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::journey::Traveller;
use super::scored::{Scored, scored};
use crate::bootstrap::Bootstrap;
use crate::ranking::{self, Grades};
use crate::round_trip::Progress;
use crate::score::finite;
use crate::{Error, Result};

/// Documents of a ranking that are kept: as many as recall looks at.
const DEPTH: usize = 100;

/// Where nDCG, the reciprocal rank and the overlap end.
const CUT: usize = 10;

/// Queries whose scores are in memory at a time.
const QUERIES_TOGETHER: usize = 256;

/// A retrieval collection whose queries are all judged.
#[derive(Debug, Clone)]
pub struct RetrievalTask {
    /// What it is called in reports.
    pub name: String,
    documents: Vec<String>,
    names: Vec<String>,
    queries: Vec<String>,
    grades: Vec<Grades>,
}

impl RetrievalTask {
    /// Reads a collection from its folder. Queries that are judged nowhere are left out, as trec_eval leaves them out.
    /// Documents that are judged and not there count as never found. Documents without a text stay, as what the encoder makes of nothing.
    ///
    /// # Errors
    /// [`Error::NoTexts`] where no query is judged; what reading fails with.
    pub fn read(name: &str, folder: &Path, format: Format, options: &IrOptions) -> Result<Self> {
        let set = read_ir(folder, format, options)?;
        let task = Self::of(name, &set);
        match task.queries.is_empty() {
            true => {
                Err(Error::NoTexts { what: format!("the collection {} (no judged query)", folder.display()) })
            }
            false => Ok(task),
        }
    }

    fn of(name: &str, set: &IrSet) -> Self {
        let names: Vec<String> = set.documents.iter().map(|document| document.id.clone()).collect();
        let numbers: HashMap<&str, u32> =
            names.iter().enumerate().map(|(number, name)| (name.as_str(), number as u32)).collect();
        let (mut queries, mut grades) = (Vec::new(), Vec::new());
        for query in &set.queries {
            // those that are not there have numbers that no ranking holds
            let mut next = names.len() as u32;
            let mut own = Grades::default();
            for (id, &grade) in set.qrels.get(&query.id).into_iter().flatten() {
                let number = numbers.get(id.as_str()).copied().unwrap_or_else(|| {
                    next += 1;
                    next
                });
                own.insert(number, grade);
            }
            if !own.is_empty() {
                queries.push(query.text.clone());
                grades.push(own);
            }
        }
        let documents = set.documents.iter().map(|document| document.full_text()).collect();
        Self { name: name.to_owned(), documents, names, queries, grades }
    }

    /// What the scores depend on: names and texts of documents, queries, judgements.
    pub(super) fn content(&self) -> impl serde::Serialize {
        let grades = self.grades.iter().map(|grades| grades.iter().collect::<BTreeMap<_, _>>());
        (&self.names, &self.documents, &self.queries, grades.collect::<Vec<_>>())
    }

    /// Number of queries.
    pub fn queries(&self) -> usize {
        self.queries.len()
    }

    /// The first `limit` queries alone; all documents stay, without which the search would be an easier one.
    pub fn limited(mut self, limit: Option<usize>) -> Self {
        self.queries.truncate(limit.unwrap_or(usize::MAX));
        self.grades.truncate(self.queries.len());
        self
    }
}

/// Scores of a ranking, means over the queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetrievalScores {
    /// nDCG of the first 10, the main score.
    pub ndcg_at_10: Scored,
    /// Recall of the first 100.
    pub recall_at_100: Scored,
    /// Reciprocal rank of the first relevant one of the first 10.
    pub mrr_at_10: Scored,
}

/// The same after the round trip, beside the originals'.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AfterRoundTrip {
    /// The scores.
    pub scores: RetrievalScores,
    /// nDCG over the originals' nDCG.
    pub preservation: Scored,
    /// Share of the first 10 documents that are the originals' too.
    pub overlap_at_10: Scored,
}

/// What a collection says of a decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetrievalResult {
    /// The collection.
    pub name: String,
    /// Queries that are judged.
    pub n: usize,
    /// Documents.
    pub documents: usize,
    /// Queries and documents as they are.
    pub originals: RetrievalScores,
    /// Queries read back, documents as they are.
    pub queries: AfterRoundTrip,
    /// Documents read back, queries as they are.
    pub documents_read_back: AfterRoundTrip,
    /// Re-encodings a query and a document.
    pub encodings: [f64; 2],
    /// Seconds that decoding queries and documents took.
    pub seconds: [f64; 2],
}

/// Searches with originals, with queries read back, and among documents read back. `queries` and `documents` may have
/// their own prompts.
///
/// # Errors
/// What the encoders and the decoder say.
pub fn retrieval(
    queries: &Traveller<'_>,
    documents: &Traveller<'_>,
    task: &RetrievalTask,
    bootstrap: &Bootstrap,
    progress: &mut Progress<'_>,
) -> Result<RetrievalResult> {
    let asked = queries.travel(&task.queries, progress)?;
    let searched = documents.travel(&task.documents, progress)?;
    let originals = task.ranked(&asked.from_ND, &searched.from_ND)?;
    let by_queries = task.ranked(&asked.to_ND, &searched.from_ND)?;
    let by_documents = task.ranked(&asked.from_ND, &searched.to_ND)?;
    Ok(RetrievalResult {
        name: task.name.clone(),
        n: task.queries.len(),
        documents: task.documents.len(),
        originals: scores(&originals, bootstrap),
        queries: after(&originals, &by_queries, bootstrap),
        documents_read_back: after(&originals, &by_documents, bootstrap),
        encodings: [asked.encodings, searched.encodings],
        seconds: [asked.seconds, searched.seconds],
    })
}

/// The ranking of a query, and its scores: nDCG, recall, reciprocal rank.
struct Ranked {
    best: Vec<u32>,
    scores: [f64; 3],
}

impl RetrievalTask {
    fn ranked(&self, queries_QD: &Tensor, documents_ND: &Tensor) -> Result<Vec<Ranked>> {
        let unit = |v: &Tensor| -> Result<Tensor> {
            let v = v.f_to_kind(Kind::Float)?;
            let lengths = v.f_norm_scalaropt_dim(2.0, [1].as_slice(), true)?.f_clamp_min(1e-12)?;
            Ok(v.f_div(&lengths)?)
        };
        let (queries_QD, documents_DN) = (unit(queries_QD)?, unit(documents_ND)?.f_transpose(0, 1)?);
        let mut all = Vec::with_capacity(self.queries.len());
        for start in (0..self.queries.len()).step_by(QUERIES_TOGETHER) {
            let count = QUERIES_TOGETHER.min(self.queries.len() - start);
            let scores_QN = queries_QD.f_narrow(0, start as i64, count as i64)?.f_matmul(&documents_DN)?;
            let scores = finite(&scores_QN, self.names.len().max(1), "the scores of documents")?;
            let ranked = scores.par_chunks(self.names.len().max(1)).enumerate().map(|(at, scores)| {
                let best = ranking::rank(scores, &self.names, DEPTH);
                let grades = &self.grades[start + at];
                let scores = [
                    ranking::ndcg(&best, grades, CUT),
                    ranking::recall(&best, grades, DEPTH),
                    ranking::reciprocal_rank(&best, grades, CUT),
                ];
                Ranked { best, scores }
            });
            all.par_extend(ranked);
        }
        Ok(all)
    }
}

fn mean_of(rows: &[usize], number: impl Fn(usize) -> f64) -> f64 {
    rows.iter().map(|&row| number(row)).sum::<f64>() / rows.len().max(1) as f64
}

fn scores(ranked: &[Ranked], bootstrap: &Bootstrap) -> RetrievalScores {
    let of = |rows: &[usize]| [0, 1, 2].map(|score| mean_of(rows, |row| ranked[row].scores[score]));
    let [ndcg_at_10, recall_at_100, mrr_at_10] = scored(ranked.len(), bootstrap, of);
    RetrievalScores { ndcg_at_10, recall_at_100, mrr_at_10 }
}

fn after(originals: &[Ranked], ranked: &[Ranked], bootstrap: &Bootstrap) -> AfterRoundTrip {
    let overlap = |row: usize| ranking::overlap(&ranked[row].best, &originals[row].best, CUT);
    let of = |rows: &[usize]| {
        let before = mean_of(rows, |row| originals[row].scores[0]);
        [mean_of(rows, |row| ranked[row].scores[0]) / before, mean_of(rows, overlap)]
    };
    let [preservation, overlap_at_10] = scored(ranked.len(), bootstrap, of);
    AfterRoundTrip { scores: scores(ranked, bootstrap), preservation, overlap_at_10 }
}
