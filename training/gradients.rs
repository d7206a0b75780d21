//! Where a step's gradients are gathered, and the same as those of all ranks together.
//!
//! The gradients lie in a few flat f32 tensors, the buckets, in about the order in which a backward pass finds them. A
//! bucket that is full is sent on its way to the other ranks while the pass goes on (Li et al., "PyTorch Distributed",
//! arXiv 2006.15704). Autograd keeps nothing itself: bf16 leaves would add up in bf16.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use models::{Decoder, ParamStore};
use tch::{Kind, Tensor};
use torch_ext::c10d::Pending;
use torch_ext::{GradientHook, Reduce, World};

use crate::Result;

/// The gradients of all parameters of a decoder, summed over the parts of a step and over all ranks.
pub struct Gradients {
    leaves: Vec<Tensor>,
    shared: Arc<Shared>,
    /// They write into `shared` while a pass is under way.
    _hooks: Vec<GradientHook>,
    views: Vec<Tensor>,
    sums: Tensor,
    head: usize,
}

/// Sums that travel with the gradients: the loss, and those of [`Gradients::add_beside`].
const SUMS: i64 = 4;

impl std::fmt::Debug for Gradients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gradients").field("parameters", &self.views.len()).finish_non_exhaustive()
    }
}

/// What the hooks see.
struct Shared {
    world: Arc<World>,
    state: Mutex<State>,
}

struct State {
    slots: Vec<Slot>,
    buckets: Vec<Bucket>,
    /// Whether the pass is the step's last: what is full is sent.
    is_last: bool,
    /// The next bucket to be sent: all ranks send them in one order.
    next: usize,
    failure: Option<crate::Error>,
}

/// Place of one parameter's gradient.
struct Slot {
    view: Tensor,
    bucket: usize,
    /// Whether it holds a part of this step's gradient.
    holds: bool,
}

struct Bucket {
    flat: Tensor,
    /// Leaves whose gradients a pass brings into it.
    leaves: usize,
    /// How many of them are still to come in this pass.
    awaited: usize,
    sent: Option<Pending>,
}

impl Gradients {
    /// Room for the gradients of `decoder`, whose parameters are in `store`, in buckets of about `bucket_bytes`.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(
        store: &ParamStore,
        decoder: &Decoder,
        world: Arc<World>,
        bucket_bytes: usize,
    ) -> Result<Self> {
        let tied = decoder.config().tie_embeddings;
        let head_name = if tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let head = store.params().iter().position(|param| param.name == head_name).unwrap_or(0);
        // the loss makes the head's gradient itself: autograd reaches a tied head only where rows are looked up
        let by_autograd: Vec<(usize, Tensor)> = {
            let leaves = store.leaves();
            let of_head = leaves.iter().filter(|(number, _)| *number == head).count();
            let mut silent = Some(head).filter(|_| !tied || of_head > 1);
            let reached = leaves.into_iter().filter(|(number, _)| {
                let is_silent = silent == Some(*number);
                silent = silent.filter(|_| !is_silent);
                !is_silent
            });
            reached.map(|(number, leaf)| (number, leaf.shallow_clone())).collect()
        };
        let (slots, mut buckets, sums) = lay_out(store, bucket_bytes)?;
        for (number, _) in &by_autograd {
            buckets[slots[*number].bucket].leaves += 1;
        }
        let views = slots.iter().map(|slot| slot.view.shallow_clone()).collect();
        let state = State { slots, buckets, is_last: false, next: 0, failure: None };
        let shared = Arc::new(Shared { world, state: Mutex::new(state) });
        let hook = |(number, leaf): &(usize, Tensor)| {
            let (shared, number) = (Arc::clone(&shared), *number);
            GradientHook::new(leaf, move |gradient| shared.take(number, gradient))
        };
        let hooks = by_autograd.iter().map(hook).collect::<std::result::Result<_, _>>()?;
        let leaves = by_autograd.into_iter().map(|(_, leaf)| leaf).collect();
        Ok(Self { leaves, shared, _hooks: hooks, views, sums, head })
    }

    /// One f32 tensor a parameter, in their order; whole after [`Gradients::finish`], and until the next step begins.
    pub fn views(&self) -> &[Tensor] {
        &self.views
    }

    /// Forgets the step before.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn begin(&mut self) -> Result<()> {
        let mut state = self.shared.lock();
        state.slots.iter_mut().for_each(|slot| slot.holds = false);
        state.next = 0;
        state.failure = None;
        let _ = self.sums.f_zero_()?;
        Ok(())
    }

    /// Gives the head's gradient, f32 with its shape, to what adds to it.
    ///
    /// # Errors
    /// What `add` fails with, and libtorch's own.
    pub fn add_to_head<T>(&mut self, add: impl FnOnce(&mut Tensor) -> Result<T>) -> Result<T> {
        let head = &mut self.views[self.head];
        let mut state = self.shared.lock();
        if !state.slots[self.head].holds {
            let _ = head.f_zero_()?;
            state.slots[self.head].holds = true;
        }
        drop(state);
        add(head)
    }

    /// Adds to the step's summed loss (f32 scalar), which is summed over the ranks as the gradients are.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn add_loss(&mut self, loss: &Tensor) -> Result<()> {
        let _ = self.sums.f_select(0, 0)?.f_add_(loss)?;
        Ok(())
    }

    /// Adds to three sums beside the loss, (3) f32, which are summed over the ranks too.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn add_beside(&mut self, three: &Tensor) -> Result<()> {
        let _ = self.sums.f_narrow(0, 1, SUMS - 1)?.f_add_(three)?;
        Ok(())
    }

    /// Adds the gradients of a scalar; in the last pass of a step they are sent as they come.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn backward(&mut self, scalar: &Tensor, is_last: bool) -> Result<()> {
        {
            let mut state = self.shared.lock();
            state.is_last = is_last;
            state.buckets.iter_mut().for_each(|bucket| bucket.awaited = bucket.leaves);
        }
        let leaves: Vec<&Tensor> = self.leaves.iter().collect();
        let passed = Tensor::f_run_backward(&[scalar], &leaves, false, false);
        if let Some(failure) = self.shared.lock().failure.take() {
            return Err(failure);
        }
        passed?;
        Ok(())
    }

    /// Sends what was not sent yet and waits for all. Afterwards the gradients and the loss are those of all ranks.
    ///
    /// # Errors
    /// libtorch's own, and what a collective fails with.
    pub fn finish(&mut self) -> Result<()> {
        let mut state = self.shared.lock();
        for slot in state.slots.iter_mut().filter(|slot| !slot.holds) {
            let _ = slot.view.f_zero_()?;
        }
        state.buckets.iter_mut().for_each(|bucket| bucket.awaited = 0);
        state.send(&self.shared.world)?;
        for bucket in &mut state.buckets {
            if let Some(sent) = bucket.sent.take() {
                self.shared.world.finish(sent)?;
            }
        }
        Ok(())
    }

    /// The summed loss and the three sums beside it, (4) f32.
    pub fn sums(&self) -> &Tensor {
        &self.sums
    }
}

/// Buckets, one slot a parameter, and the place of the sums: the last bucket carries them along.
fn lay_out(store: &ParamStore, bucket_bytes: usize) -> Result<(Vec<Slot>, Vec<Bucket>, Tensor)> {
    let most = (bucket_bytes / 4).max(1) as i64;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut filled = most;
    for number in order(store) {
        if filled >= most {
            groups.push(Vec::new());
            filled = 0;
        }
        if let Some(group) = groups.last_mut() {
            group.push(number);
        }
        filled += store.params()[number].numel();
    }
    let options = (Kind::Float, store.device());
    let mut sums = Tensor::f_zeros([SUMS], options)?;
    let mut places: Vec<Option<Slot>> = store.params().iter().map(|_| None).collect();
    let mut buckets = Vec::new();
    for (bucket, group) in groups.iter().enumerate() {
        let numbers: i64 = group.iter().map(|&number| store.params()[number].numel()).sum();
        let flat = Tensor::f_zeros([numbers + if bucket + 1 == groups.len() { SUMS } else { 0 }], options)?;
        let mut start = 0;
        for &number in group {
            let param = &store.params()[number];
            let view = flat.f_narrow(0, start, param.numel())?.f_view(param.master.size().as_slice())?;
            places[number] = Some(Slot { view, bucket, holds: false });
            start += param.numel();
        }
        if bucket + 1 == groups.len() {
            sums = flat.f_narrow(0, start, SUMS)?;
        }
        buckets.push(Bucket { flat, leaves: 0, awaited: 0, sent: None });
    }
    Ok((places.into_iter().flatten().collect(), buckets, sums))
}

/// Parameters in about the order in which a backward pass reaches them: from the last block to the first, then what
/// makes the input. Another order would only delay the sending.
fn order(store: &ParamStore) -> Vec<usize> {
    let of_input = |number: &usize| {
        let name = &store.params()[*number].name;
        name.starts_with("projector.") || name.starts_with("model.embed_tokens.")
    };
    let (input, inner): (Vec<usize>, Vec<usize>) = (0..store.params().len()).rev().partition(of_input);
    inner.into_iter().chain(input).collect()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the gradient of one leaf in.
    fn take(&self, number: usize, gradient: &Tensor) {
        let mut state = self.lock();
        if state.failure.is_none()
            && let Err(error) = state.take(&self.world, number, gradient)
        {
            state.failure = Some(error);
        }
    }
}

impl State {
    fn take(&mut self, world: &World, number: usize, gradient: &Tensor) -> Result<()> {
        let slot = &mut self.slots[number];
        tch::no_grad(|| {
            if slot.holds { slot.view.f_add_(gradient).map(drop) } else { slot.view.f_copy_(gradient) }
        })?;
        slot.holds = true;
        let bucket = &mut self.buckets[slot.bucket];
        bucket.awaited = bucket.awaited.saturating_sub(1);
        if self.is_last { self.send(world) } else { Ok(()) }
    }

    /// Sends the buckets that are full, up to the first that is not.
    fn send(&mut self, world: &World) -> Result<()> {
        while let Some(bucket) = self.buckets.get_mut(self.next).filter(|bucket| bucket.awaited == 0) {
            bucket.sent = Some(world.begin_all_reduce(&bucket.flat, Reduce::Sum)?);
            self.next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, non_snake_case)]
mod tests {
    use super::*;
    use models::DecoderConfig;
    use tch::Device;

    fn config(tie: bool) -> DecoderConfig {
        serde_json::from_value(serde_json::json!({
            "dim": 6, "hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 24,
            "vocab": 40, "prefix_tokens": 2, "projector_hidden": 12, "max_tokens": 16, "rope_theta": 1e4,
            "rms_norm_eps": 1e-5, "tie_embeddings": tie, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": 2, "input_scale": 2.5}))
        .unwrap()
    }

    /// A loss in which the head takes no part, as autograd sees it in a training.
    fn scalar(decoder: &Decoder) -> Tensor {
        tch::manual_seed(4);
        let v_BD = Tensor::randn([3, 6], (Kind::Float, Device::Cpu));
        let tokens_BT = Tensor::from_slice(&[0i64, 5, 6, 7, 0, 8, 9, 5, 0, 10, 11, 12]).view([3, 4]);
        decoder.hidden(&models::Condition::first(&v_BD), &tokens_BT).unwrap().square().sum(Kind::Float)
    }

    fn gathered(tie: bool, kind: Kind, passes: usize, bucket_bytes: usize) -> (ParamStore, Vec<Tensor>, f64) {
        let mut store = ParamStore::train(Device::Cpu, kind, 3);
        let decoder = Decoder::new(&config(tie), &mut store).unwrap();
        let mut gradients = Gradients::new(&store, &decoder, Arc::new(World::alone()), bucket_bytes).unwrap();
        // what an earlier step left is no part of this one
        for _ in 0..2 {
            gradients.begin().unwrap();
            for pass in 0..passes {
                let add = |head: &mut Tensor| {
                    let _ = head.f_add_scalar_(0.5)?;
                    Ok(())
                };
                gradients.add_to_head(add).unwrap();
                gradients.add_loss(&Tensor::from(1.25f32)).unwrap();
                gradients.add_beside(&Tensor::from_slice(&[0.5f32, 2.0, 3.0])).unwrap();
                gradients.backward(&scalar(&decoder), pass + 1 == passes).unwrap();
            }
            gradients.finish().unwrap();
        }
        let found = gradients.views().iter().map(Tensor::copy).collect();
        assert!(store.params().iter().all(|param| !param.master.grad().defined()), "nothing is kept beside");
        let beside = [1, 2, 3].map(|at| gradients.sums().double_value(&[at]));
        assert_eq!(beside, [0.5, 2.0, 3.0].map(|sum| sum * passes as f64));
        (store, found, gradients.sums().double_value(&[0]))
    }

    fn worst(a: &Tensor, b: &Tensor) -> f64 {
        (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
    }

    #[test]
    fn they_are_what_autograd_keeps() {
        for tie in [true, false] {
            let (_, found, loss) = gathered(tie, Kind::Float, 1, 1 << 10);
            let mut store = ParamStore::train(Device::Cpu, Kind::Float, 3);
            let decoder = Decoder::new(&config(tie), &mut store).unwrap();
            scalar(&decoder).backward();
            let head = if tie { "model.embed_tokens.weight" } else { "lm_head.weight" };
            for (gradient, param) in found.iter().zip(store.params()) {
                let kept = param.master.grad();
                let kept = if kept.defined() { kept } else { param.master.detach().zeros_like() };
                let kept = if param.name == head { kept + 0.5 } else { kept };
                assert!(worst(gradient, &kept) < 1e-6, "{}", param.name);
            }
            assert_eq!(loss, 1.25);
        }
    }

    #[test]
    fn bf16_has_the_gradients_of_f32() {
        let flat = |kind| {
            let (_, found, _) = gathered(true, kind, 1, 1 << 20);
            assert!(found.iter().all(|gradient| gradient.kind() == Kind::Float));
            Tensor::cat(&found.iter().map(|t| t.reshape([-1])).collect::<Vec<_>>(), 0)
        };
        let cosine = Tensor::cosine_similarity(&flat(Kind::Float), &flat(Kind::BFloat16), 0, 1e-12);
        assert!(cosine.double_value(&[]) > 0.995, "{cosine}");
    }

    #[test]
    fn parts_add_up_and_buckets_do_not_matter() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (_, once, _) = gathered(true, kind, 1, 1 << 20);
            let (store, thrice, loss) = gathered(true, kind, 3, 700);
            for ((once, thrice), param) in once.iter().zip(&thrice).zip(store.params()) {
                assert!(
                    worst(&(once * 3.0), thrice) < 1e-5 * worst(once, &once.zeros_like()).max(1.0),
                    "{}",
                    param.name
                );
            }
            assert_eq!(loss, 3.75);
        }
    }
}
