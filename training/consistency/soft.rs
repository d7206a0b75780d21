//! The decoder's distribution at each position of the true text, given what stands before it, through the encoder.
//!
//! The encoder reads one row of its table a position: the likeliest word's, a drawn word's, or the mean of all. Its
//! gradient with respect to that row is the gradient of the mean, so that each word is asked for as much as its row
//! would turn the text's vector towards the target. The head's part is computed by hand, as in [`crate::loss`]: only the
//! encoder has a graph.
#![allow(non_snake_case)]

use tch::{Kind, Tensor};

use super::words::Words;
use super::{Consistency, Turn, spans, unit};
use crate::Result;
use crate::batch::{Batch, MicroBatch};
use crate::recipe::Estimator;

/// States and head that the distribution comes from, and where the gradients go.
pub(crate) struct Head<'a> {
    /// (N, H): a row for each target.
    pub(crate) h_NH: &'a Tensor,
    /// (V, H) in the compute type.
    pub(crate) head_VH: &'a Tensor,
    /// (N, H), added to.
    pub(crate) h_grad_NH: &'a Tensor,
    /// (V, H) f32, added to.
    pub(crate) head_grad_VH: &'a mut Tensor,
}

/// Texts of a part, under one prompt.
struct Texts {
    /// Rows of the states, without those that predict EOS.
    positions_M: Tensor,
    lengths: Vec<usize>,
    /// (B, dim)
    targets_BD: Tensor,
    /// Rows of the pair set: the noise follows from them.
    rows: Vec<u32>,
}

impl Turn<'_> {
    /// Whether parts of the batch have to go through [`Turn::add_soft`].
    pub(crate) fn is_soft(&self) -> bool {
        self.of.words.is_some()
    }

    /// Adds the gradients of part `number` of a batch. Gives the sums of loss (at full weight) and cosine over its texts, and
    /// their number, (3) f32.
    pub(crate) fn add_soft(&self, batch: &Batch, number: usize, eos: i64, head: Head<'_>) -> Result<Tensor> {
        let sums = Tensor::f_zeros([3], (Kind::Float, head.h_NH.device()))?;
        let (Some(words), picked) = (&self.of.words, self.picked(batch)?) else { return Ok(sums) };
        let (part, Head { h_NH, head_VH, h_grad_NH, head_grad_VH }) = (&batch.parts[number], head);
        for (encoder, texts) in self.of.texts_by_encoder(part, &picked[number], eos)? {
            let positions_M = texts.positions_M.f_to_device(h_NH.device())?;
            let h_MH = tch::no_grad(|| h_NH.detach().f_index_select(0, &positions_M))?;
            let mixed = tch::no_grad(|| self.mix(words, &h_MH, head_VH, &texts))?;
            let (found, row_grad_ME) = self.of.of_rows(words, encoder, &mixed.rows_ME, &texts)?;
            let count = Tensor::f_from_slice(&[texts.rows.len() as f32])?.f_to_device(sums.device())?;
            let found = Tensor::f_cat(&[found.f_to_device(sums.device())?, count], 0)?;
            let _ = sums.shallow_clone().f_add_(&found)?;
            tch::no_grad(|| -> Result<()> {
                let factor = self.scale(batch) / self.of.section.temperature;
                let scores_grad_MV =
                    scores_gradient(&words.rows_VH, &mixed.p_MV, &row_grad_ME.f_mul_scalar(factor)?)?;
                let scores_grad_MV = scores_grad_MV.f_to_device(h_MH.device())?.f_to_kind(h_MH.kind())?;
                let h_grad_MH = scores_grad_MV.f_matmul(head_VH)?;
                let _ = h_grad_NH.shallow_clone().f_index_add_(0, &positions_M, &h_grad_MH)?;
                let _ = head_grad_VH.f_add_(&scores_grad_MV.f_transpose(0, 1)?.f_matmul(&h_MH)?)?;
                Ok(())
            })?;
        }
        Ok(sums)
    }

    /// What the encoder is given at each position.
    fn mix(&self, words: &Words, h_MH: &Tensor, head_VH: &Tensor, texts: &Texts) -> Result<Mixed> {
        let device = words.rows_VH.device();
        let scores_MV =
            h_MH.f_linear(head_VH, None::<&Tensor>)?.f_to_device(device)?.f_to_kind(Kind::Float)?;
        let mut scores_MV = scores_MV.f_add(&words.mask_V)?;
        if self.of.section.estimator == Estimator::Gumbel {
            let _ = scores_MV.f_add_(&self.noise(texts, scores_MV.size()[1])?.f_to_device(device)?)?;
        }
        let p_MV = scores_MV.f_div_scalar(self.of.section.temperature)?.f_softmax(-1, Kind::Float)?;
        let rows_ME = match self.of.section.estimator {
            Estimator::Mean => p_MV.f_matmul(&words.rows_VH)?,
            Estimator::StraightThrough | Estimator::Gumbel => {
                words.rows_VH.f_index_select(0, &scores_MV.f_argmax(1, false)?)?
            }
        };
        Ok(Mixed { p_MV, rows_ME })
    }

    /// Gumbel noise, another for each text and step, whoever computes it: (M, V) f32 on the CPU.
    fn noise(&self, texts: &Texts, vocab: i64) -> Result<Tensor> {
        let of_text = |(&row, &length): (&u32, &usize)| -> Result<Tensor> {
            let mut hasher = blake3::Hasher::new();
            for part in [self.of.seed, self.step, u64::from(row)] {
                hasher.update(&part.to_le_bytes());
            }
            let mut seed = [0; 8];
            seed.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
            tch::manual_seed(i64::from_le_bytes(seed));
            let exponential = Tensor::f_empty([length as i64, vocab], (Kind::Float, tch::Device::Cpu))?;
            Ok(exponential.shallow_clone().f_exponential_(1.0)?.f_clamp_min(1e-30)?.f_log()?.f_neg()?)
        };
        let noise = texts.rows.iter().zip(&texts.lengths).map(of_text).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_cat(&noise, 0)?)
    }
}

/// The distribution over the words, (M, V) f32, and what the encoder is given, (M, E) f32.
struct Mixed {
    p_MV: Tensor,
    rows_ME: Tensor,
}

impl Consistency {
    /// The texts of a part that the encoder can read, by the encoder that their vectors are of.
    fn texts_by_encoder(&self, part: &MicroBatch, picked: &[usize], eos: i64) -> Result<Vec<(usize, Texts)>> {
        if picked.is_empty() {
            return Ok(Vec::new());
        }
        let spans = spans(part, eos)?;
        let rows: Vec<u32> = picked.iter().map(|&text| part.rows[text]).collect();
        let mut found = Vec::new();
        for (number, encoder, group) in self.encoders.groups(&rows) {
            let frame = self.words.as_ref().map_or(0, |words| {
                let frame = &words.frames[number];
                frame.before + frame.after
            });
            let fits = |text: &usize| {
                let room = models::Embed::max_tokens(encoder).saturating_sub(frame);
                spans.get(*text).is_some_and(|span| span.len() > 1 && span.len() - 1 <= room)
            };
            let texts: Vec<usize> = group.iter().map(|&at| picked[at]).filter(fits).collect();
            if texts.is_empty() {
                continue;
            }
            let words = |text: &usize| spans[*text].start as i64..spans[*text].end as i64 - 1;
            let positions: Vec<i64> = texts.iter().flat_map(words).collect();
            let numbers: Vec<i64> = texts.iter().map(|&text| text as i64).collect();
            found.push((
                number,
                Texts {
                    positions_M: Tensor::f_from_slice(&positions)?,
                    lengths: texts.iter().map(|&text| spans[text].len() - 1).collect(),
                    targets_BD: part.vectors().f_index_select(
                        0,
                        &Tensor::f_from_slice(&numbers)?.f_to_device(part.vectors().device())?,
                    )?,
                    rows: texts.iter().map(|&text| part.rows[text]).collect(),
                },
            ));
        }
        Ok(found)
    }

    /// (Sums of loss and cosine over the texts, (2) f32; gradient of the former with respect to the rows, (M, E) f32).
    fn of_rows(
        &self,
        words: &Words,
        encoder: usize,
        rows_ME: &Tensor,
        texts: &Texts,
    ) -> Result<(Tensor, Tensor)> {
        let leaf_ME = rows_ME.detach().f_set_requires_grad(true)?;
        let (rows_BTE, mask_BT) = words.frames[encoder].around(&leaf_ME, &texts.lengths)?;
        let x_BD = self.encoders.all[encoder].embed_words(&rows_BTE, mask_BT.as_ref())?;
        let targets_BD = texts.targets_BD.f_to_device(x_BD.device())?.f_to_kind(Kind::Float)?;
        let (loss, cosine) =
            distance(&x_BD, &targets_BD, self.section.weight, self.section.similarity_weight)?;
        let mut gradients = Tensor::f_run_backward(&[&loss], &[&leaf_ME], false, false)?;
        let found = Tensor::f_stack(&[loss.detach(), cosine.detach()], 0)?;
        Ok((found, gradients.swap_remove(0)))
    }
}

/// Sum over texts of weight (1 - cosine with the target) + similarity_weight (mean over the texts of the square difference
/// between the cosine with a text and that of their targets): STELLA's cosine and similarity-matrix losses (arXiv 2412.19048;
/// RAG-Retrieval's `model_distill.py` weighs them 10 and 200). Also the sum of the cosines.
fn distance(
    x_BD: &Tensor,
    targets_BD: &Tensor,
    weight: f64,
    similarity_weight: f64,
) -> Result<(Tensor, Tensor)> {
    let (x_BD, targets_BD) = (unit(x_BD)?, unit(targets_BD)?);
    let texts = x_BD.size()[0] as f64;
    let cosine = x_BD.f_mul(&targets_BD)?.f_sum(Kind::Float)?;
    let mut loss = cosine.f_neg()?.f_add_scalar(texts)?.f_mul_scalar(weight)?;
    if similarity_weight > 0.0 {
        let among = |x: &Tensor| x.f_matmul(&x.f_transpose(0, 1)?);
        let difference_BB = among(&x_BD)?.f_sub(&among(&targets_BD)?)?;
        let square = difference_BB.f_square()?.f_sum(Kind::Float)?;
        loss = loss.f_add(&square.f_mul_scalar(similarity_weight / texts.max(1.0))?)?;
    }
    Ok((loss, cosine))
}

/// From the gradient of the mean row under p (M, V), which is (M, E), to that of the scores that p is the softmax of; f32.
fn scores_gradient(rows_VE: &Tensor, p_MV: &Tensor, row_grad_ME: &Tensor) -> Result<Tensor> {
    let p_grad_MV = row_grad_ME.f_matmul(&rows_VE.f_transpose(0, 1)?)?;
    Ok(Tensor::f_internal_softmax_backward_data(&p_grad_MV, p_MV, -1, Kind::Float)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// One-hot rows with the gradient of the mean, as autograd has it for `hard + p - p.detach()`.
    #[test]
    fn the_scores_gradient_is_that_of_the_straight_through_mixture() {
        tch::manual_seed(2);
        let (rows_VE, row_grad_ME) = (random(&[11, 6]), random(&[5, 6]));
        let scores_MV = random(&[5, 11]).set_requires_grad(true);
        let p_MV = scores_MV.softmax(-1, Kind::Float);
        let hard_MV = scores_MV.detach().argmax(1, false).one_hot(11).to_kind(Kind::Float);
        let mixed_ME = (hard_MV + &p_MV - p_MV.detach()).matmul(&rows_VE);
        (mixed_ME * &row_grad_ME).sum(Kind::Float).backward();
        let found = scores_gradient(&rows_VE, &p_MV.detach(), &row_grad_ME).unwrap();
        assert!(found.allclose(&scores_MV.grad(), 1e-5, 1e-6, false));
    }

    #[test]
    fn a_copy_of_the_targets_has_no_distance() {
        tch::manual_seed(3);
        let targets = random(&[4, 6]);
        let (loss, cosine) = distance(&(&targets * 3.0), &targets, 1.0, 20.0).unwrap();
        assert!(loss.double_value(&[]).abs() < 1e-5 && (cosine.double_value(&[]) - 4.0).abs() < 1e-5);
        // one vector turned round: 1 - cosine is 2 for it, and its cosines with the three others change their sign
        let turned = &targets * Tensor::from_slice(&[-1f32, 1.0, 1.0, 1.0]).unsqueeze(1);
        let (loss, _) = distance(&turned, &targets, 1.0, 0.0).unwrap();
        assert!((loss.double_value(&[]) - 2.0).abs() < 1e-5);
        let (with, _) = distance(&turned, &targets, 1.0, 20.0).unwrap();
        let among = unit(&targets).unwrap();
        let others = among.matmul(&among.get(0)).narrow(0, 1, 3).square().sum(Kind::Float).double_value(&[]);
        let expected = 2.0 + 20.0 * 2.0 * 4.0 * others / 4.0;
        assert!((with.double_value(&[]) / expected - 1.0).abs() < 1e-4);
    }
}
