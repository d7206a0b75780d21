//! From texts to vectors: windows of texts, batches of like lengths, and what the network's states become.
#![allow(non_snake_case)]

use tch::{Device, Kind, Tensor};

use super::batching::{Batch, ENOUGH_ON_GPU, ENOUGH_TOKENS, batches_from};
use super::{Encoder, OddTexts, head};
use crate::error::{Error, Result};

/// Texts that are tokenized and sorted together; more would cost memory and gain nothing.
pub(super) const WINDOW: usize = 16_384;

/// Token ids of texts, and how many of those were cut.
type Tokenized = (Vec<Vec<u32>>, usize);

impl Encoder {
    /// [`crate::Embed::embed`], with a call for each batch that the network is given, which says how many texts that makes.
    ///
    /// # Errors
    /// As [`crate::Embed::embed`].
    pub fn embed_with(&self, texts: &[&str], progress: &mut dyn FnMut(usize)) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let (tokens, prompt, most) = (&self.network.tokens, &self.space.prompt.text, self.space.max_tokens);
        let tokenize = |window: &[&str]| -> Result<Tokenized> { tokens.ids(window, prompt, most) };
        let mut windows = texts.chunks(WINDOW);
        let mut next = windows.next().map(tokenize);
        let mut vectors = vec![Tensor::f_zeros([0, self.space.dim as i64], (Kind::Float, Device::Cpu))?];
        let mut done = 0;
        while let Some(tokenized) = next.take() {
            let (tokenized, first) = (tokenized?, done);
            let found = std::thread::scope(|scope| {
                // a GPU would wait for the next window's tokens
                let ahead = windows.next().map(|window| scope.spawn(move || tokenize(window)));
                let found = self.embed_window(tokenized, &mut |n| {
                    done += n;
                    progress(done);
                });
                let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                next = ahead.map(join);
                found
            })?;
            require_finite(&found, first)?;
            vectors.push(found);
        }
        Ok(Tensor::f_cat(&vectors, 0)?)
    }

    /// The batches that texts of the given lengths (in tokens) go through the network in.
    pub fn batches(&self, lengths: &[usize]) -> Vec<Batch> {
        let enough = if self.device().is_cuda() { ENOUGH_ON_GPU } else { ENOUGH_TOKENS };
        let window = |(number, window): (usize, &[usize])| {
            let mut found = batches_from(enough, window, self.batch_tokens);
            found.iter_mut().flat_map(|batch| &mut batch.rows).for_each(|row| *row += number * WINDOW);
            found
        };
        lengths.chunks(WINDOW).enumerate().flat_map(window).collect()
    }

    /// The vectors of a window's texts, in their order, `[N, dim]` f32 on the CPU.
    fn embed_window(&self, (ids, cut): Tokenized, progress: &mut dyn FnMut(usize)) -> Result<Tensor> {
        let (texts, device) = (ids.len(), self.device());
        let (ids, rows): (Vec<_>, Vec<_>) =
            ids.into_iter().zip(0..texts).filter(|(ids, _)| !ids.is_empty()).unzip();
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        let mut parts = vec![];
        // a text without tokens has the row behind all others, which is zero
        let mut positions = vec![ids.len() as i64; texts];
        let mut next = 0;
        for batch in self.batches(&lengths) {
            parts.push(self.embed_batch(&ids, &batch)?);
            for &row in &batch.rows {
                positions[rows[row]] = next;
                next += 1;
            }
            progress(batch.rows.len());
        }
        let empty = texts - ids.len();
        if empty > 0 {
            parts.push(Tensor::f_zeros([1, self.space.dim as i64], (Kind::Float, device))?);
            progress(empty);
        }
        let odd = self.odd.get();
        self.odd.set(OddTexts { cut: odd.cut + cut, empty: odd.empty + empty });
        // row i of the result is where text i was put; a GPU is waited for here, once a window
        let sorted_ND = Tensor::f_cat(&parts, 0)?;
        let positions = torch_ext::send(&Tensor::f_from_slice(&positions)?, device)?;
        Ok(sorted_ND.f_index_select(0, &positions)?.f_to_device(Device::Cpu)?)
    }

    /// The vectors of one batch, `[B, dim]`, f32 on the network's device.
    fn embed_batch(&self, ids: &[Vec<u32>], batch: &Batch) -> Result<Tensor> {
        let (states_BTH, mask_BT) = self.network.hidden(ids, batch)?;
        self.vectors(&states_BTH, mask_BT.as_ref())
    }

    /// What hidden states `[B, T, H]` become: pooled, through the dense heads, scaled. `[B, dim]` f32.
    pub(super) fn vectors(&self, states_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        let mut x_BD = head::pool(self.space.pooling, states_BTH, mask_BT)?;
        for dense in &self.network.dense {
            x_BD = dense.forward(&x_BD)?;
        }
        if self.space.normalize {
            x_BD = head::normalize(&x_BD)?;
        }
        Ok(x_BD)
    }
}

fn require_finite(vectors_ND: &Tensor, first: usize) -> Result<()> {
    let finite_N = vectors_ND.f_isfinite()?.f_all_dim(1, false)?;
    let bad = finite_N.f_logical_not()?.f_nonzero()?;
    if bad.numel() == 0 {
        return Ok(());
    }
    Err(Error::NonFinite { index: first + bad.f_int64_value(&[0, 0])? as usize })
}
