//! What a decoder does between its matrix products, one position a row: kernels that take one pass over memory, with
//! f32 inside, for f32 and bf16 on the CPU; and matrix products with weights that were laid out beforehand.
//!
//! They run on the thread that calls them, take contiguous tensors, and record nothing for autograd. R is the number of
//! rows.
#![allow(non_snake_case)]

use crate::error::{Error, Result};
use crate::ffi::{self, RawTensor};
use tch::{Kind, Tensor};

/// residual += delta, where there is one, and then residual / sqrt(mean(residual^2) + eps) * gain
/// (arXiv 1910.07467): (R, H) f32 in place and (R, H) in the type of `gain_H`, which is also that of the result.
///
/// # Errors
/// [`Error::Torch`] for shapes and types that do not fit.
pub fn add_norm(residual_RH: &Tensor, delta_RH: Option<&Tensor>, gain_H: &Tensor, eps: f64) -> Result<Tensor> {
    const OP: &str = "add_norm";
    let out = empty(OP, &residual_RH.size(), gain_H.kind())?;
    let delta = delta_RH.map_or(std::ptr::null_mut(), ffi::raw);
    // SAFETY: all are live tensors or null, and the shim checks types and sizes before it touches their data.
    ffi::call(OP, |fault| unsafe {
        ffi::te_add_norm(ffi::raw(residual_RH), delta, ffi::raw(gain_H), eps, ffi::raw(&out), fault)
    })?;
    Ok(out)
}

/// silu(gate) * up (arXiv 2002.05202): (R, 2 F), gate before up, -> (R, F).
///
/// # Errors
/// [`Error::Argument`] for another shape, [`Error::Torch`] for a type that the kernel does not take.
pub fn swiglu(gate_up_RF: &Tensor) -> Result<Tensor> {
    const OP: &str = "swiglu";
    let [rows, both] = gate_up_RF.size()[..] else {
        let message = format!("the shape is {:?}", gate_up_RF.size());
        return Err(Error::Argument { op: OP, message });
    };
    let out = empty(OP, &[rows, both / 2], gate_up_RF.kind())?;
    if rows > 0 && both > 1 {
        // SAFETY: both are live tensors, and the shim checks types and sizes before it touches their data.
        ffi::call(OP, |fault| unsafe {
            ffi::te_swiglu(ffi::raw(gate_up_RF), ffi::raw(&out), both / 2, fault)
        })?;
    }
    Ok(out)
}

/// Where the rows of a step stand, and where the positions before them lie.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Slot of the cache that each row writes to, (R).
    pub slots: Vec<i32>,
    /// Position of each row, (R).
    pub positions: Vec<i32>,
    /// Slot in which each position up to the row's own lies, (R, capacity); what is behind is not looked at.
    pub table: Vec<i32>,
}

/// Turns queries and keys by their positions' angles (rotate-half, arXiv 2104.09864), writes keys and values to the
/// cache, and attends: (R, (N + 2 K) D) and the cache's (slots, K, capacity, D) twice -> (R, N D). `cosines` and
/// `sines` are (capacity, D / 2) f32. All rows write before any reads, so that rows may be positions of one text.
///
/// # Errors
/// [`Error::Argument`] for places of another size, [`Error::Torch`] for places outside the cache and for shapes and
/// types that do not fit.
pub fn cached_attention(
    qkv_RM: &Tensor,
    cache: [&Tensor; 2],
    places: &Places,
    heads: i64,
    [cosines, sines]: [&Tensor; 2],
) -> Result<Tensor> {
    const OP: &str = "cached_attention";
    let [keys, values] = cache;
    let rows = places.slots.len();
    let (shape, capacity) = (keys.size(), keys.size().get(2).copied().unwrap_or(0));
    if places.positions.len() != rows || places.table.len() != rows * capacity as usize {
        let (positions, table) = (places.positions.len(), places.table.len());
        let message = format!("{rows} slots, {positions} positions and {table} entries of a table");
        return Err(Error::Argument { op: OP, message });
    }
    let out = empty(OP, &[rows as i64, heads * shape.get(3).copied().unwrap_or(0)], qkv_RM.kind())?;
    // SAFETY: the tensors are live; the arrays have the sizes that were checked above; the shim checks every place
    // against the cache, and types and sizes of the tensors, before it touches their data.
    ffi::call(OP, |fault| unsafe {
        ffi::te_cached_attention(
            ffi::raw(qkv_RM),
            ffi::raw(keys),
            ffi::raw(values),
            places.slots.as_ptr(),
            places.positions.as_ptr(),
            places.table.as_ptr(),
            rows as i64,
            heads,
            ffi::raw(cosines),
            ffi::raw(sines),
            ffi::raw(&out),
            fault,
        )
    })?;
    Ok(out)
}

/// The most probable tokens of each row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picked {
    /// (R, keep), best first; of equal ones the lower number first.
    pub tokens: Vec<i64>,
    /// Their natural log-probabilities.
    pub log_probs: Vec<f32>,
}

/// Candidates that are scored again beyond those asked for: bf16 has 8 bits, so the order of close ones is chance.
const SPARE: i64 = 8;

/// The `keep` most probable of (R, V) logits, with log-probabilities, in one pass for the highest and one for the sum.
/// bf16 logits lead to candidates only: those are scored again in f32 from the states, (R, H) f32, and the head's
/// rows, (V, H).
///
/// # Errors
/// [`Error::Torch`] for shapes and types that do not fit.
pub fn pick(logits_RV: &Tensor, states_RH: &Tensor, head_VH: &Tensor, keep: usize) -> Result<Picked> {
    let rows = logits_RV.size().first().map_or(0, |&rows| rows as usize);
    let mut picked = Picked { tokens: vec![0; rows * keep], log_probs: vec![0.0; rows * keep] };
    // SAFETY: the tensors are live, the arrays have room for `keep` of each row; the shim checks types and sizes.
    ffi::call("pick", |fault| unsafe {
        ffi::te_pick(
            ffi::raw(logits_RV),
            ffi::raw(states_RH),
            ffi::raw(head_VH),
            keep as i64,
            SPARE,
            picked.tokens.as_mut_ptr(),
            picked.log_probs.as_mut_ptr(),
            fault,
        )
    })?;
    Ok(picked)
}

/// A weight in the layout that oneDNN's products read, so that it is not rearranged at every call.
#[derive(Debug)]
pub struct PackedLinear {
    packed: Tensor,
    bias: Option<Tensor>,
}

impl PackedLinear {
    /// Lays out a weight (out, in) of f32 or bf16 for products with about `rows` rows. It takes the weight's memory
    /// once more.
    ///
    /// # Errors
    /// [`Error::Torch`] where libtorch was built without oneDNN.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>, rows: i64) -> Result<Self> {
        // SAFETY: the weight is a live tensor.
        let packed = ffi::call_for_tensor("_reorder_linear_weight", |out, fault| unsafe {
            ffi::te_pack_linear(ffi::raw(weight), rows, out, fault)
        })?;
        Ok(Self { packed, bias: bias.map(Tensor::shallow_clone) })
    }

    /// (R, in) -> (R, out), any R.
    ///
    /// # Errors
    /// [`Error::Torch`] for shapes and types that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let bias: RawTensor = self.bias.as_ref().map_or(std::ptr::null_mut(), ffi::raw);
        // SAFETY: all are live tensors or null.
        ffi::call_for_tensor("_linear_pointwise", |out, fault| unsafe {
            ffi::te_packed_linear(ffi::raw(x), ffi::raw(&self.packed), bias, out, fault)
        })
    }

    /// The same weight for another thread.
    pub fn shallow_clone(&self) -> Self {
        Self { packed: self.packed.shallow_clone(), bias: self.bias.as_ref().map(Tensor::shallow_clone) }
    }
}

fn empty(op: &'static str, size: &[i64], kind: Kind) -> Result<Tensor> {
    Tensor::f_empty(size, (kind, tch::Device::Cpu)).map_err(|error| Error::Torch { op, message: error.to_string() })
}
