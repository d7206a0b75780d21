//! Beam search as transformers does it (`GenerationMixin._beam_search` with `early_stopping=False`).
#![allow(non_snake_case)]

use super::{Generated, host_f64, host_i64};
use crate::{Decoder, Result};
use tch::Tensor;

/// A hypothesis that is still growing.
#[derive(Debug, Clone, Default)]
struct Beam {
    ids: Vec<u32>,
    log_prob: f32,
}

/// One vector's search.
#[derive(Debug)]
struct Search {
    /// Running hypotheses, best first.
    beams: Vec<Beam>,
    /// Ended hypotheses with their scores, best first.
    ended: Vec<(f32, Generated)>,
}

/// A continuation of a running hypothesis.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    beam: usize,
    token: i64,
    log_prob: f32,
}

/// What all vectors' searches share.
struct Rules {
    width: usize,
    length_penalty: f64,
    limit: usize,
    eos: i64,
}

impl Rules {
    fn score(&self, log_prob: f32, length: usize) -> f32 {
        log_prob / (length as f64).powf(self.length_penalty) as f32
    }
}

impl Search {
    /// Takes the 2 W best continuations, best first, that make hypotheses of `length` tokens. Returns the running
    /// hypothesis that each new one continues, or `None` when nothing can improve any more.
    fn advance(&mut self, candidates: &[Candidate], length: usize, rules: &Rules) -> Option<Vec<usize>> {
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

/// Searches for all vectors of a chunk, (B, dim); at most W texts each, best first.
pub(super) fn search(
    decoder: &Decoder,
    v_BD: &Tensor,
    width: usize,
    length_penalty: f64,
    limit: usize,
) -> Result<Vec<Vec<Generated>>> {
    let (batch, config) = (v_BD.size()[0], decoder.config());
    // a vocabulary smaller than the candidates cannot fill a wider beam in the first step
    let width = width.min(config.vocab as usize / 2).max(1);
    let rules = Rules { width, length_penalty, limit, eos: config.eos_token_id };
    let mut searches: Vec<Search> =
        (0..batch).map(|_| Search { beams: vec![Beam::default()], ended: Vec::new() }).collect();
    let mut live: Vec<usize> = (0..searches.len()).collect();
    let mut cache = decoder.cache(batch, limit as i64)?;
    let shared = config.prefix_tokens + 1;
    let mut logits_RV = decoder.begin(v_BD, &mut cache)?;
    for length in 1..=limit {
        let mut candidates = continuations(&logits_RV, &searches, &live, width)?.into_iter();
        let before = live.len();
        let (mut parents, mut tokens) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        live.retain(|&index| {
            let search = &mut searches[index];
            let beams = search.beams.len();
            let own = candidates.next().unwrap_or_default();
            let continued = search.advance(&own, length, &rules);
            if let Some(continued) = &continued {
                parents.extend(continued.iter().map(|beam| (first_row + beam) as i64));
                tokens
                    .extend(search.beams.iter().map(|beam| i64::from(beam.ids.last().copied().unwrap_or(0))));
            }
            first_row += beams;
            continued.is_some()
        });
        if live.is_empty() {
            break;
        }
        let rows = Tensor::f_from_slice::<i64>(&parents)?.f_to_device(decoder.device())?;
        if parents.len() == first_row && live.len() == before && length > 1 {
            cache.permute(&rows, shared)?;
        } else {
            cache.select(&rows)?;
        }
        let next_R = Tensor::f_from_slice::<i64>(&tokens)?.f_to_device(decoder.device())?;
        logits_RV = decoder.step(&next_R, &mut cache)?;
    }
    Ok(searches.into_iter().map(|search| search.ended.into_iter().map(|(_, text)| text).collect()).collect())
}

/// For every live search the 2 W best continuations of its running hypotheses, best first. The best of each row are
/// found on the device, those of a search among them here.
fn continuations(
    logits_RV: &Tensor,
    searches: &[Search],
    live: &[usize],
    width: usize,
) -> Result<Vec<Vec<Candidate>>> {
    let keep = (2 * width as i64).min(logits_RV.size()[1]) as usize;
    let (logits_RK, tokens_RK) = logits_RV.f_topk(keep as i64, 1, true, true)?;
    let log_probs = host_f64(&logits_RK.f_sub(&logits_RV.f_logsumexp([1].as_slice(), true)?)?)?;
    let tokens = host_i64(&tokens_RK)?;
    let mut rows = log_probs.chunks(keep).zip(tokens.chunks(keep));
    let best_of = |&index: &usize| {
        let mut all = Vec::with_capacity(width * keep);
        for (beam, state) in searches[index].beams.iter().enumerate() {
            let Some((log_probs, tokens)) = rows.next() else { break };
            all.extend(log_probs.iter().zip(tokens).map(|(&log_prob, &token)| Candidate {
                beam,
                token,
                log_prob: state.log_prob + log_prob as f32,
            }));
        }
        all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
        all.truncate(2 * width);
        all
    };
    Ok(live.iter().map(best_of).collect())
}
