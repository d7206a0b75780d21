//! Scores of the next token for rows that stay in step: of one decoder pass, or of two for guidance.
#![allow(non_snake_case)]

use super::source::Beginnings;
use crate::kv_cache::KvCache;
use crate::{Decoder, Result};
use tch::Tensor;

/// A decoder with the caches of the rows that are decoded.
pub(super) struct Scorer<'a> {
    decoder: &'a Decoder,
    cache: KvCache,
    /// The same rows without their vectors.
    without: Option<KvCache>,
    guidance: f64,
}

/// What rows begin with: their beginnings, all of one length, and for guidance those without the vectors.
pub(super) struct Start<'a> {
    pub(super) with: &'a Beginnings,
    pub(super) without: Option<&'a Beginnings>,
    pub(super) guidance: f64,
}

impl<'a> Scorer<'a> {
    /// Reads the beginnings; gives the scores of the first tokens, (R, V) f32. Texts have at most `limit` tokens.
    pub(super) fn begin(decoder: &'a Decoder, start: &Start<'_>, limit: usize) -> Result<(Self, Tensor)> {
        let read = |beginnings: &Beginnings| -> Result<(KvCache, Tensor)> {
            let x_BSH = beginnings.stacked()?;
            let mut cache = decoder.cache(x_BSH.size()[0], x_BSH.size()[1] + limit as i64)?;
            let scores_RV = decoder.begin(&x_BSH, &mut cache)?;
            Ok((cache, scores_RV))
        };
        let (cache, with_RV) = read(start.with)?;
        let mut scorer = Self { decoder, cache, without: None, guidance: start.guidance };
        let Some(without) = start.without else { return Ok((scorer, with_RV)) };
        let (cache, without_RV) = read(without)?;
        scorer.without = Some(cache);
        Ok((scorer, guided(with_RV, &without_RV, start.guidance)?))
    }

    /// Takes the next token of each row, (R) i64; gives the scores of those that follow, (R, V) f32.
    pub(super) fn step(&mut self, tokens_R: &Tensor) -> Result<Tensor> {
        let with_RV = self.decoder.step(tokens_R, &mut self.cache)?;
        let Some(cache) = &mut self.without else { return Ok(with_RV) };
        guided(with_RV, &self.decoder.step(tokens_R, cache)?, self.guidance)
    }

    /// [`KvCache::select`].
    pub(super) fn select(&mut self, rows: &Tensor) -> Result<()> {
        self.caches().try_for_each(|cache| cache.select(rows))
    }

    /// [`KvCache::permute`].
    pub(super) fn permute(&mut self, rows: &Tensor, start: i64) -> Result<()> {
        self.caches().try_for_each(|cache| cache.permute(rows, start))
    }

    fn caches(&mut self) -> impl Iterator<Item = &mut KvCache> {
        std::iter::once(&mut self.cache).chain(&mut self.without)
    }
}

/// log u + g (log c - log u): (R, V) scores each.
fn guided(with_RV: Tensor, without_RV: &Tensor, guidance: f64) -> Result<Tensor> {
    let kind = with_RV.kind();
    let (c_RV, u_RV) = (with_RV.f_log_softmax(-1, kind)?, without_RV.f_log_softmax(-1, kind)?);
    Ok(u_RV.f_lerp(&c_RV, guidance)?)
}
