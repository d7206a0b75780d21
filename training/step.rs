//! One optimizer step: gradients of a batch's parts, clipping, AdamW.
#![allow(non_snake_case)]

use models::{Decoder, ParamStore};
use tch::{Kind, Tensor};

use crate::Result;
use crate::loader::{Batch, MicroBatch};
use crate::loss::{LossOptions, cross_entropy, cross_entropy_with_gradients};
use crate::optimizer::{AdamW, clip};

/// A decoder with its parameters.
#[derive(Debug)]
pub struct Model {
    /// The parameters.
    pub store: ParamStore,
    /// The decoder over them.
    pub decoder: Decoder,
    /// f32, one a parameter: what a step's gradients are gathered in.
    gradients: Vec<Tensor>,
    /// Which parameter the head is: the loss adds to its gradient, beside what autograd finds.
    head: usize,
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
}

impl StepResult {
    /// Whether both numbers are finite.
    pub fn is_finite(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

impl Model {
    /// Puts a decoder and the store that it was made from together. From then on the process keeps the memory that its steps
    /// free ([`torch_ext::keep_freed_memory`]).
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(store: ParamStore, decoder: Decoder) -> Result<Self> {
        torch_ext::keep_freed_memory();
        let name =
            if decoder.config().tie_embeddings { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let head = store.params().iter().position(|param| param.name == name).unwrap_or(0);
        let gradients = store.zero_gradients()?;
        Ok(Self { store, decoder, gradients, head })
    }

    /// Computes loss and gradients of a batch: the mean over all its target tokens, however it is cut into parts.
    /// Returns the f32 gradients, one a parameter, and (loss, norm). The gradients lie in tensors that the next call
    /// overwrites. One host synchronisation.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn gradients(&mut self, batch: &Batch, options: LossOptions) -> Result<(Vec<Tensor>, StepResult)> {
        let targets = batch.targets();
        let scale = 1.0 / targets.max(1) as f64;
        let _ = self.gradients[self.head].f_zero_()?;
        let mut losses = Vec::new();
        for part in batch.parts.iter().filter(|part| part.targets() > 0) {
            let h_NH = states(&self.decoder, part)?;
            let (loss, h_grad_NH) = cross_entropy_with_gradients(
                &h_NH,
                self.decoder.head_weight(),
                &part.targets_N.f_to_device(self.decoder.device())?,
                scale,
                options,
                &mut self.gradients[self.head],
            )?;
            // the graph's gradient at h is h_grad: the product's derivative
            let product = h_NH.f_mul(&h_grad_NH)?.f_sum(Kind::Float)?;
            let later = !losses.is_empty();
            self.store.backward(&product, &self.gradients, |i| later || i == self.head)?;
            losses.push(loss);
        }
        if losses.is_empty() {
            self.gradients = self.store.zero_gradients()?;
            losses.push(Tensor::f_zeros([] as [i64; 0], (Kind::Float, self.decoder.device()))?);
        }
        let loss = Tensor::f_stack(&losses, 0)?.f_sum(Kind::Float)?;
        let norm = torch_ext::global_norm(&self.gradients)?;
        let both = Vec::<f64>::try_from(Tensor::f_stack(&[loss, norm], 0)?.f_to_kind(Kind::Double)?)?;
        let gradients = self.gradients.iter().map(Tensor::shallow_clone).collect();
        Ok((gradients, StepResult { loss: both[0] * scale, grad_norm: both[1], targets }))
    }

    /// Clips gradients and applies them.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn apply(
        &mut self,
        optimizer: &mut AdamW,
        gradients: &[Tensor],
        found: StepResult,
        clip_norm: Option<f64>,
        learning_rate: f64,
    ) -> Result<()> {
        clip(gradients, found.grad_norm, clip_norm)?;
        optimizer.step(&self.store, gradients, learning_rate)
    }
}

/// States at the positions that have a target: (N, H).
fn states(decoder: &Decoder, part: &MicroBatch) -> Result<Tensor> {
    let device = decoder.device();
    let h_BTH = decoder.hidden(&part.v_BD.f_to_device(device)?, &part.tokens_BT.f_to_device(device)?)?;
    let h_MH = h_BTH.f_reshape([-1, decoder.config().hidden])?;
    Ok(match &part.positions_N {
        Some(positions_N) => h_MH.f_index_select(0, &positions_N.f_to_device(device)?)?,
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
