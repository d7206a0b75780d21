//! Beam search as transformers does it (`GenerationMixin._beam_search` with `early_stopping=False`).
#![allow(non_snake_case)]

use super::scorer::{Scorer, Start};
use super::{Generated, Strategy, host_f64, host_i64, without_order};
use crate::{Decoder, DecoderConfig, Result};
use tch::Tensor;

/// A hypothesis that is still growing.
#[derive(Debug, Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    log_prob: f32,
}

/// One vector's search.
#[derive(Debug)]
pub(super) struct Search {
    /// Running hypotheses, best first.
    beams: Vec<Beam>,
    /// Ended hypotheses with their scores, best first.
    ended: Vec<(f32, Generated)>,
}

/// A continuation of a running hypothesis.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    beam: usize,
    token: i64,
    log_prob: f32,
}

/// What all vectors' searches share.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// Hypotheses of a vector.
    pub(super) width: usize,
    length_penalty: f64,
    /// Longest text in tokens, EOS included.
    pub(super) limit: usize,
    pub(super) eos: i64,
    /// Continuations of a row that can matter.
    pub(super) keep: usize,
}

impl Rules {
    /// For a strategy and a decoder; a width of 1 for what is no beam search.
    pub(super) fn new(strategy: &Strategy, limit: usize, config: &DecoderConfig) -> Self {
        let (eos, vocab) = (config.eos_token_id, config.vocab as usize);
        let Strategy::Beam { width, length_penalty } = *strategy else {
            return Self { width: 1, length_penalty: 0.0, limit, eos, keep: 1 };
        };
        // a vocabulary smaller than the candidates cannot fill a wider beam in the first step
        let width = width.min(vocab / 2).max(1);
        Self { width, length_penalty, limit, eos, keep: (2 * width).min(vocab) }
    }

    fn score(&self, log_prob: f32, length: usize) -> f32 {
        log_prob / (length as f64).powf(self.length_penalty) as f32
    }
}

impl Search {
    pub(super) fn new() -> Self {
        Self { beams: vec![Beam::default()], ended: Vec::new() }
    }

    /// The 2 W best continuations of all running hypotheses, best first: those of each in `rows`, token and
    /// log-probability.
    pub(super) fn best<'a>(
        &self,
        rows: impl Iterator<Item = &'a [(i64, f32)]>,
        rules: &Rules,
    ) -> Vec<Candidate> {
        let mut all = Vec::with_capacity(self.beams.len() * rules.keep);
        for (beam, (state, row)) in self.beams.iter().zip(rows).enumerate() {
            let of = |&(token, log_prob)| Candidate { beam, token, log_prob: state.log_prob + log_prob };
            all.extend(row.iter().map(of));
        }
        all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
        all.truncate(2 * rules.width);
        all
    }

    /// The last token of each running hypothesis.
    pub(super) fn last_tokens(&self) -> impl Iterator<Item = i64> {
        self.beams.iter().map(|beam| beam.ids.last().copied().unwrap_or(0).into())
    }

    /// The ended texts, best first.
    pub(super) fn texts(self) -> Vec<Generated> {
        self.ended.into_iter().map(|(_, text)| text).collect()
    }

    /// Takes the 2 W best continuations, best first, that make hypotheses of `length` tokens. Returns the running
    /// hypothesis that each new one continues, or `None` when nothing can improve any more.
    pub(super) fn advance(
        &mut self,
        candidates: &[Candidate],
        length: usize,
        rules: &Rules,
    ) -> Option<Vec<usize>> {
        let ends = |candidate: &&Candidate| candidate.token == rules.eos || length == rules.limit;
        // only the best W may end; the others are there so that W remain to go on
        for candidate in candidates.iter().take(rules.width).filter(ends) {
            let finished = candidate.token == rules.eos;
            let mut ids = self.beams[candidate.beam].ids.clone();
            if !finished {
                ids.push(candidate.token as u32);
            }
            let text = Generated { ids, log_prob: candidate.log_prob.into(), finished };
            self.ended.push((rules.score(candidate.log_prob, length), text));
        }
        self.ended.sort_by(|a, b| b.0.total_cmp(&a.0));
        self.ended.truncate(rules.width);
        let running: Vec<&Candidate> =
            candidates.iter().filter(|candidate| !ends(candidate)).take(rules.width).collect();
        let best = rules.score(running.first()?.log_prob, length);
        let full = self.ended.len() == rules.width;
        if full && self.ended.last().is_some_and(|(worst, _)| best <= *worst) {
            return None;
        }
        let grown = running.iter().map(|candidate| {
            let mut ids = self.beams[candidate.beam].ids.clone();
            ids.push(candidate.token as u32);
            Beam { ids, log_prob: candidate.log_prob }
        });
        self.beams = grown.collect();
        Some(running.iter().map(|candidate| candidate.beam).collect())
    }
}

/// Searches for all beginnings of a chunk; at most W texts each, best first.
pub(super) fn search(decoder: &Decoder, start: &Start<'_>, rules: &Rules) -> Result<Vec<Vec<Generated>>> {
    let (batch, limit) = (start.with.len(), rules.limit);
    let shared = if batch > 0 { start.with.length(0) as i64 } else { 0 };
    let mut searches: Vec<Search> = (0..batch).map(|_| Search::new()).collect();
    let mut live: Vec<usize> = (0..searches.len()).collect();
    let (mut scorer, mut logits_RV) = Scorer::begin(decoder, start, limit)?;
    for length in 1..=limit {
        let mut candidates = continuations(&logits_RV, &searches, &live, rules)?.into_iter();
        let before = live.len();
        let (mut parents, mut tokens) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        live.retain(|&index| {
            let search = &mut searches[index];
            let beams = search.beams.len();
            let own = candidates.next().unwrap_or_default();
            let continued = search.advance(&own, length, rules);
            if let Some(continued) = &continued {
                parents.extend(continued.iter().map(|beam| (first_row + beam) as i64));
                tokens.extend(search.last_tokens());
            }
            first_row += beams;
            continued.is_some()
        });
        if live.is_empty() {
            break;
        }
        let rows = Tensor::f_from_slice::<i64>(&parents)?.f_to_device(decoder.device())?;
        if parents.len() == first_row && live.len() == before && length > 1 {
            scorer.permute(&rows, shared)?;
        } else {
            scorer.select(&rows)?;
        }
        let next_R = Tensor::f_from_slice::<i64>(&tokens)?.f_to_device(decoder.device())?;
        logits_RV = scorer.step(&next_R)?;
    }
    Ok(searches.into_iter().map(Search::texts).collect())
}

/// For every live search the 2 W best continuations of its running hypotheses, best first. The best of each row are
/// found on the device, those of a search among them here.
fn continuations(
    logits_RV: &Tensor,
    searches: &[Search],
    live: &[usize],
    rules: &Rules,
) -> Result<Vec<Vec<Candidate>>> {
    let (logits_RK, tokens_RK) = logits_RV.f_topk(rules.keep as i64, 1, true, true)?;
    let log_probs = host_f64(&logits_RK.f_sub(&logits_RV.f_logsumexp([1].as_slice(), true)?)?)?;
    // -inf, a token that is ruled out, may be among finite ones
    if let Some(at) = log_probs.iter().position(|log_prob| log_prob.is_nan()) {
        return Err(without_order(at / rules.keep));
    }
    let tokens = host_i64(&tokens_RK)?;
    let pairs: Vec<(i64, f32)> = tokens.into_iter().zip(log_probs.into_iter().map(|p| p as f32)).collect();
    let mut rows = pairs.chunks(rules.keep);
    let best_of = |&index: &usize| {
        let search: &Search = &searches[index];
        search.best(rows.by_ref().take(search.beams.len()), rules)
    };
    Ok(live.iter().map(best_of).collect())
}
