//! An encoder or a decoder over several processes: each computes a share of every call, and all have the whole of it.
//!
//! So the round trip runs unchanged on every rank and comes to the same result on all of them; it is that of one process,
//! beyond rounding by the composition of batches.
#![allow(non_snake_case)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use models::generate::GenerateOptions;
use models::inverter::Inverted;
use models::{Embed, SearchOptions, Space, TokenCounter};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tch::Tensor;
use tokenizers::Tokenizer;
use torch_ext::World;
use torch_ext::c10d::{Absence, RankFault};

use crate::result::DecoderRecord;
use crate::round_trip::Invert;

/// `inner` over the ranks of a world, on each of which it is the same. Every rank must make the same calls in one order.
/// For one process it is `inner` itself.
#[derive(Debug)]
pub struct Spread<'a, T: ?Sized> {
    inner: &'a T,
    world: &'a World,
    /// Calls so far, to be named in errors.
    calls: AtomicU64,
}

impl<'a, T: ?Sized> Spread<'a, T> {
    /// Cuts the calls of `inner` into shares among the ranks of `world`.
    pub fn new(inner: &'a T, world: &'a World) -> Self {
        Self { inner, world, calls: AtomicU64::new(0) }
    }

    /// Computes this rank's share and gathers those of all, by rank. What fails on one rank fails on all, and is named.
    fn gather<S: Serialize + DeserializeOwned>(
        &self,
        op: &'static str,
        share: models::Result<S>,
    ) -> models::Result<Vec<S>> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = |rank: usize, message: String| {
            let size = self.world.size();
            let (ranks, how, waited) = (vec![rank], Absence::Failed, Duration::ZERO);
            let fault = RankFault { op, number, ranks, size, how, waited, message };
            models::Error::from(torch_ext::Error::Ranks(Box::new(fault)))
        };
        let (share, own_error) = match share {
            Ok(share) => (Ok(share), None),
            Err(error) => (Err(error.to_string()), Some(error)),
        };
        let bytes =
            serde_json::to_vec(&share).map_err(|error| failed(self.world.rank(), error.to_string()))?;
        let all = self.world.gather_bytes(bytes)?;
        if let Some(error) = own_error {
            return Err(error);
        }
        let read = |(rank, bytes): (usize, Vec<u8>)| {
            let share: Result<S, String> =
                serde_json::from_slice(&bytes).map_err(|error| failed(rank, error.to_string()))?;
            share.map_err(|message| failed(rank, message))
        };
        all.into_iter().enumerate().map(read).collect()
    }

    /// This rank's of `n` rows, which are cut into contiguous shares.
    fn share(&self, n: usize) -> Range<usize> {
        let (rank, size) = (self.world.rank(), self.world.size());
        n * rank / size..n * (rank + 1) / size
    }
}

impl<T: Embed + ?Sized> Embed for Spread<'_, T> {
    fn space(&self) -> &Space {
        self.inner.space()
    }

    fn tokenizer(&self) -> &Tokenizer {
        self.inner.tokenizer()
    }

    fn max_tokens(&self) -> usize {
        self.inner.max_tokens()
    }

    fn token_counter(&self) -> TokenCounter<'_> {
        self.inner.token_counter()
    }

    fn count_tokens(&self, text: &str) -> models::Result<usize> {
        self.inner.count_tokens(text)
    }

    fn embed(&self, texts: &[&str]) -> models::Result<Tensor> {
        if self.world.size() == 1 {
            return self.inner.embed(texts);
        }
        let dim = self.space().dim as i64;
        let own = &texts[self.share(texts.len())];
        let bits = if own.is_empty() {
            Ok(Vec::new())
        } else {
            self.inner.embed(own).and_then(|v_ND| bits_of(&v_ND))
        };
        let bits: Vec<Vec<u32>> = self.gather("embed", bits)?;
        let numbers: Vec<f32> = bits.into_iter().flatten().map(f32::from_bits).collect();
        Ok(Tensor::f_from_slice(&numbers)?.f_view([texts.len() as i64, dim])?)
    }
}

/// The numbers of vectors as they are, what is not finite included.
fn bits_of(v_ND: &Tensor) -> models::Result<Vec<u32>> {
    let flat =
        v_ND.f_to_device(tch::Device::Cpu)?.f_to_kind(tch::Kind::Float)?.f_contiguous()?.f_view([-1])?;
    Ok(Vec::<f32>::try_from(flat)?.into_iter().map(f32::to_bits).collect())
}

/// [`Inverted`] on its way between processes, with `log_prob` as its bits: JSON has no infinity.
#[derive(Serialize, Deserialize)]
struct Sent {
    log_prob: Option<u64>,
    inverted: Inverted,
}

impl From<Inverted> for Sent {
    fn from(inverted: Inverted) -> Self {
        let log_prob = inverted.log_prob.map(f64::to_bits);
        Self { log_prob, inverted: Inverted { log_prob: None, ..inverted } }
    }
}

impl From<Sent> for Inverted {
    fn from(Sent { log_prob, inverted }: Sent) -> Self {
        Self { log_prob: log_prob.map(f64::from_bits), ..inverted }
    }
}

impl<T: Invert + ?Sized> Invert for Spread<'_, T> {
    fn space(&self) -> &Space {
        self.inner.space()
    }

    fn invert(&self, v_ND: &Tensor, first: u64, options: &GenerateOptions) -> models::Result<Vec<Inverted>> {
        if self.world.size() == 1 {
            return self.inner.invert(v_ND, first, options);
        }
        let own = self.share(v_ND.size().first().map_or(0, |&n| n as usize));
        let sent = if own.is_empty() {
            Ok(Vec::new())
        } else {
            let own_ND = v_ND.f_narrow(0, own.start as i64, own.len() as i64)?;
            let texts = self.inner.invert(&own_ND, first + own.start as u64, options);
            texts.map(|texts| texts.into_iter().map(Sent::from).collect())
        };
        if self.inner.search().is_some() {
            // shares of a search end at different times, by minutes
            self.world.patient_barrier("invert")?;
        }
        let all: Vec<Vec<Sent>> = self.gather("invert", sent)?;
        Ok(all.into_iter().flatten().map(Inverted::from).collect())
    }

    fn search(&self) -> Option<&SearchOptions> {
        self.inner.search()
    }

    fn record(&self) -> DecoderRecord {
        self.inner.record()
    }

    fn dtype(&self) -> String {
        self.inner.dtype()
    }

    fn shares(&self) -> usize {
        self.world.size()
    }
}
