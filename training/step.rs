//! One optimizer step: gradients of a batch's parts, clipping, the update.
#![allow(non_snake_case)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use models::{Decoder, ParamStore};
use tch::{Kind, Tensor};
use torch_ext::World;

use crate::Result;
use crate::batch::{Batch, MicroBatch};
use crate::consistency::{ConsistencyResult, Head, Turn};
use crate::gradients::Gradients;
use crate::loss::{LossOptions, cross_entropy, cross_entropy_with_gradients};
use crate::optimizer::{Optimizer, clip};

/// A decoder with its parameters.
#[derive(Debug)]
pub struct Model {
    /// The parameters.
    pub store: ParamStore,
    /// The decoder over them.
    pub decoder: Decoder,
    gradients: Gradients,
}

/// What a step found before it changed anything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepResult {
    /// Mean loss a target token.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Target tokens.
    pub targets: i64,
    /// The consistency loss, where the step had one.
    pub consistency: Option<ConsistencyResult>,
}

impl StepResult {
    /// Whether all numbers are finite.
    pub fn is_finite(&self) -> bool {
        let consistency = self.consistency.is_none_or(|found| found.loss.is_finite());
        self.loss.is_finite() && self.grad_norm.is_finite() && consistency
    }
}

impl Model {
    /// Puts a decoder and the store that it was made from together. From then on the process keeps the memory that its steps
    /// free ([`torch_ext::keep_freed_memory`]).
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(store: ParamStore, decoder: Decoder) -> Result<Self> {
        Self::among(Arc::new(World::alone()), store, decoder, usize::MAX)
    }

    /// The same as one of the ranks of `world`: the gradients are those of all, sent in buckets of about `bucket_bytes`.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn among(
        world: Arc<World>,
        store: ParamStore,
        decoder: Decoder,
        bucket_bytes: usize,
    ) -> Result<Self> {
        torch_ext::keep_freed_memory();
        let gradients = Gradients::new(&store, &decoder, world, bucket_bytes)?;
        Ok(Self { store, decoder, gradients })
    }

    /// Computes loss and gradients of a step: the mean over all its target tokens, those of all ranks, however it is cut
    /// into parts. The gradients are in [`Model::gradients`]. One host synchronisation.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn backward(&mut self, batch: &Batch, options: LossOptions) -> Result<StepResult> {
        self.backward_with(batch, options, None)
    }

    /// The same with the gradients of a consistency loss beside those of the cross-entropy.
    ///
    /// # Errors
    /// As [`Model::backward`], and what decoding and encoding samples fails with.
    pub fn backward_with(
        &mut self,
        batch: &Batch,
        options: LossOptions,
        turn: Option<Turn<'_>>,
    ) -> Result<StepResult> {
        let scale = 1.0 / batch.targets.max(1) as f64;
        let mut spent = Duration::ZERO;
        self.gradients.begin()?;
        if let Some(turn) = turn {
            spent += self.learn_from_samples(batch, turn)?;
        }
        let parts: Vec<(usize, &MicroBatch)> =
            batch.parts.iter().enumerate().filter(|(_, part)| part.targets() > 0).collect();
        for (done, (number, part)) in parts.iter().enumerate() {
            let targets_N = torch_ext::send(&part.targets_N, self.decoder.device())?;
            let h_NH = states(&self.decoder, part)?;
            let head_VH = self.decoder.head_weight();
            let (loss, h_grad_NH) = self.gradients.add_to_head(|head_grad_VH| {
                cross_entropy_with_gradients(&h_NH, head_VH, &targets_N, None, scale, options, head_grad_VH)
            })?;
            self.gradients.add_loss(&loss)?;
            if let Some(turn) = turn.filter(Turn::is_soft) {
                let started = Instant::now();
                let (head_VH, eos) = (&head_VH.detach(), self.decoder.config().eos_token_id);
                let sums = self.gradients.add_to_head(|head_grad_VH| {
                    let head = Head { h_NH: &h_NH, head_VH, h_grad_NH: &h_grad_NH, head_grad_VH };
                    turn.add_soft(batch, *number, eos, head)
                })?;
                self.gradients.add_beside(&sums)?;
                spent += started.elapsed();
            }
            // the graph's gradient at h is h_grad: the product's derivative
            let product = h_NH.f_mul(&h_grad_NH)?.f_sum(Kind::Float)?;
            self.gradients.backward(&product, done + 1 == parts.len())?;
        }
        self.gradients.finish()?;
        let norm = torch_ext::global_norm(self.gradients.views())?;
        let all = Tensor::f_cat(&[self.gradients.sums(), &norm.f_view([1])?], 0)?.f_to_kind(Kind::Double)?;
        let all = Vec::<f64>::try_from(all)?;
        let consistency = turn.map(|_| ConsistencyResult::of([all[1], all[2], all[3]], spent));
        Ok(StepResult { loss: all[0] * scale, grad_norm: all[4], targets: batch.targets, consistency })
    }

    /// Draws samples where the loss is of that kind and adds their gradients; the time that it took.
    fn learn_from_samples(&mut self, batch: &Batch, turn: Turn<'_>) -> Result<Duration> {
        let started = Instant::now();
        let Some(samples) = turn.samples(&self.decoder, batch)? else { return Ok(Duration::ZERO) };
        let device = self.decoder.device();
        let targets_N = torch_ext::send(&samples.part.targets_N, device)?;
        let weights_N = torch_ext::send(&samples.weights_N, device)?;
        let h_NH = states(&self.decoder, &samples.part)?;
        let (head_VH, options) = (self.decoder.head_weight(), LossOptions::default());
        let (_, h_grad_NH) = self.gradients.add_to_head(|head_grad_VH| {
            let weights_N = Some(&weights_N);
            cross_entropy_with_gradients(&h_NH, head_VH, &targets_N, weights_N, 1.0, options, head_grad_VH)
        })?;
        self.gradients.add_beside(&samples.sums.f_to_device(device)?)?;
        let product = h_NH.f_mul(&h_grad_NH)?.f_sum(Kind::Float)?;
        self.gradients.backward(&product, false)?;
        Ok(started.elapsed())
    }

    /// The f32 gradients of the last [`Model::backward`], one a parameter and in their order.
    pub fn gradients(&self) -> &[Tensor] {
        self.gradients.views()
    }

    /// Clips the gradients and applies them.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn apply(
        &mut self,
        optimizer: &mut Optimizer,
        found: StepResult,
        clip_norm: Option<f64>,
        learning_rate: f64,
    ) -> Result<()> {
        clip(self.gradients.views(), found.grad_norm, clip_norm)?;
        optimizer.step(&self.store, self.gradients.views(), learning_rate)
    }
}

/// States at the positions that have a target: (N, H).
fn states(decoder: &Decoder, part: &MicroBatch) -> Result<Tensor> {
    let device = decoder.device();
    let tokens_BT = torch_ext::send(&part.tokens_BT, device)?;
    let positions_N =
        part.positions_N.as_ref().map(|positions_N| torch_ext::send(positions_N, device)).transpose()?;
    let h_BTH = decoder.hidden(&part.condition.to_device(device)?, &tokens_BT)?;
    let h_MH = h_BTH.f_reshape([-1, decoder.config().hidden])?;
    Ok(match positions_N {
        Some(positions_N) => h_MH.f_index_select(0, &positions_N)?,
        None => h_MH,
    })
}

/// (sum of the loss, number of target tokens) of a part, without gradients.
///
/// # Errors
/// libtorch's own.
pub fn loss_of(decoder: &Decoder, part: &MicroBatch, chunk: i64) -> Result<(f64, i64)> {
    tch::no_grad(|| {
        let targets_N = part.targets_N.f_to_device(decoder.device())?;
        let loss = cross_entropy(&states(decoder, part)?, decoder.head_weight(), &targets_N, chunk)?;
        Ok((f64::try_from(loss)?, part.targets()))
    })
}
