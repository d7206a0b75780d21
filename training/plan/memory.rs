//! What a training holds in memory at its fullest.

use models::DecoderConfig;
use models::attention::PRODUCTS_UP_TO_IN_TRAINING;
use serde::Serialize;
use tch::{Device, Kind};

use crate::loss::chunk_of;

/// Bytes that a training needs, estimated.
///
/// Not counted: libtorch and its device libraries themselves, what an allocator keeps unused, and what an evaluation
/// computes, for which the activations make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// f32 masters and the copies in the compute type.
    pub weights: u64,
    /// Gradients in their own types, as a backward pass leaves them, and their f32 sums.
    pub gradients: u64,
    /// Two f32 moments, or a process's share of them.
    pub optimizer: u64,
    /// Averaged weights.
    pub averages: u64,
    /// What the backward pass keeps of the forward pass of the largest part of a step, and the scores of a chunk.
    pub activations: u64,
    /// The decoder that evaluates, in the compute type.
    pub evaluation: u64,
    /// The encoder beside it; 0 where none is on the device, `None` where its size is not known.
    pub encoder: Option<u64>,
    /// Sum of what is known. A little more than the peak: the last gradients come when most activations are gone.
    pub total: u64,
}

/// The largest part of a step: what is computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Texts.
    pub(super) texts: u64,
    /// Positions of a text, prefix and padding included.
    pub(super) width: u64,
}

impl Part {
    pub(super) fn positions(self) -> u64 {
        self.texts * self.width
    }
}

/// Where and in which type the training computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) kind: Kind,
}

/// What a process holds beside weights and gradients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Averaged weights.
    pub(super) averages: bool,
    /// Muon's one number for each of the matrices in place of AdamW's two.
    pub(super) muon: bool,
    /// Processes that share the optimizer's state.
    pub(super) optimizer_of: u64,
    /// Bytes of the encoder, where they are known.
    pub(super) encoder: Option<u64>,
}

/// Bytes of a training of the decoder `c` in one process.
pub(super) fn memory(c: &DecoderConfig, place: Place, part: Part, held: Held) -> MemoryEstimate {
    let p = c.parameters();
    let [all, looked_up, head] = [p.total, p.embedding, p.head].map(|count| count as u64);
    let bytes = place.kind.elt_size_in_bytes() as u64;
    let copies = if place.kind == Kind::Float { 0 } else { bytes };
    let weights = all * (4 + copies);
    // rows are looked up in the f32 master; the head's gradient goes into the sum at once
    let gradients = all * 4 + looked_up * 4 + (all - looked_up - head) * bytes;
    // norms and biases among them keep two, which are next to nothing
    let by_muon = if held.muon { (p.blocks + p.projector) as u64 } else { 0 };
    let optimizer = (all * 8 - by_muon * 4).div_ceil(held.optimizer_of);
    let averages = if held.averages { all * 4 } else { 0 };
    let activations = activations(c, place, part);
    let (evaluation, encoder) = (all * bytes, held.encoder);
    let total = weights + gradients + optimizer + averages + activations + evaluation + encoder.unwrap_or(0);
    MemoryEstimate { weights, gradients, optimizer, averages, activations, evaluation, encoder, total }
}

/// Bytes that the backward pass finds: counted from `models::blocks` and [`crate::loss`], in the manner of
/// Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), whose 34 bytes a position and hidden number are those of
/// a block with layer norm, dropout and a feed-forward layer without a gate.
///
/// Against the rise of the resident memory in real steps on a CPU (libtorch 2.11, 4 to 8 layers, hidden 256 to 1024,
/// 2,000 to 8,000 positions, 277 to 3,460 MB) the sum was at most 6 % too low and 7 % too high in f32, 1 to 8 % too high
/// in bf16. On a GPU it has not been measured.
fn activations(c: &DecoderConfig, place: Place, part: Part) -> u64 {
    let [hidden, layers, heads, ffn, vocab] =
        [c.hidden, c.layers, c.heads, c.ffn, c.vocab].map(|size| size as u64);
    let [q, kv] = [c.heads, c.kv_heads].map(|heads| (heads * c.head_dim) as u64);
    let bytes = place.kind.elt_size_in_bytes() as u64;
    let copy = if place.kind == Kind::Float { 0 } else { 4 };
    let products = place.device == Device::Cpu && part.width <= PRODUCTS_UP_TO_IN_TRAINING as u64;
    let attention = if products {
        // query, key, value stacked by heads, the shares of each key, the heads' sums
        bytes * (2 * q + 2 * kv + heads * part.width)
    } else {
        // query, key and value before rotation (the value's memory is theirs), query and key after it, the heads'
        // sums; the logarithm of each head's sum in f32
        bytes * (3 * q + 3 * kv) + 4 * heads
    };
    // of a norm the input, the input scaled and the product with the gain; where these are no f32, an f32
    // copy of the input stays too, by what was measured: the square sum is taken in f32
    let norm = (3 * bytes + copy) * hidden;
    // gate and up, the activation and the product
    let block = (2 * norm + bytes * 4 * ffn + attention) * part.positions();
    let targets = part.texts * part.width.saturating_sub(c.prefix_tokens as u64);
    let states = hidden * (bytes * part.positions() + (3 * bytes + copy) * targets);
    let projector = bytes * part.texts * (c.dim + 2 * c.projector_hidden) as u64;
    let chunk = (chunk_of(c.vocab, place.kind, place.device) as u64).min(targets);
    // scores and their softmax; or that and the head's gradient
    let scores = bytes * (chunk * vocab + (chunk * vocab).max(vocab * hidden));
    // on top come the scores or, when they are gone, the backward pass of the last block, which holds about as much
    // again as that block kept before it frees it
    layers * block + states + projector + scores.max(block)
}
