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
pub fn add_norm(
    residual_RH: &Tensor,
    delta_RH: Option<&Tensor>,
    gain_H: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    const OP: &str = "add_norm";
    let out = empty(OP, &residual_RH.size(), gain_H.kind())?;
    let delta = delta_RH.map_or(std::ptr::null_mut(), ffi::raw);
    // SAFETY: all are live tensors or null, and the shim checks types and sizes before it touches their data.
    ffi::call(OP, |fault| unsafe {
        ffi::te_add_norm(ffi::raw(residual_RH), delta, ffi::raw(gain_H), eps, ffi::raw(&out), fault)
    })?;
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
/// [`Error::Torch`] for shapes and types that do not fit, and for a row with NaN or infinity, whose tokens have no order
/// (-inf, a token that is ruled out, may be among finite ones).
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
    Tensor::f_empty(size, (kind, tch::Device::Cpu))
        .map_err(|error| Error::Torch { op, message: error.to_string() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Device;

    const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

    fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
        assert_eq!(a.size(), b.size());
        let difference = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[]);
        assert!(difference < tolerance, "differs by {difference}");
    }

    /// Both types, with the error of one rounding at numbers of about 4; odd sizes have a rest behind the vectors.
    const TYPES: [(Kind, f64); 2] = [(Kind::Float, 1e-5), (Kind::BFloat16, 0.02)];

    #[test]
    fn add_norm_is_addition_and_rms_norm() {
        for ((kind, tolerance), width) in
            TYPES.into_iter().zip([48, 37]).chain(TYPES.into_iter().zip([7, 64]))
        {
            let (x, gain) = (Tensor::randn([5, width], F32), Tensor::rand([width], F32).to_kind(kind));
            let delta = Tensor::randn([5, width], F32).to_kind(kind);
            let wide = |gain: &Tensor| gain.to_kind(Kind::Float);
            let expected = (&x + &wide(&delta)).rms_norm([width], Some(&wide(&gain)), 1e-3);
            let residual = x.copy();
            close(&add_norm(&residual, Some(&delta), &gain, 1e-3).unwrap(), &expected, tolerance);
            close(&residual, &(&x + &wide(&delta)), 1e-6);
            close(&add_norm(&residual, None, &gain, 1e-3).unwrap(), &expected, tolerance);
            close(&residual, &(&x + &wide(&delta)), 1e-6);
        }
        let x = Tensor::randn([5, 8], F32);
        assert!(add_norm(&x, Some(&Tensor::randn([4, 8], F32)), &Tensor::ones([8], F32), 0.0).is_err());
        assert!(add_norm(&x, None, &Tensor::ones([8], (Kind::Half, Device::Cpu)), 0.0).is_err());
        assert!(add_norm(&x.transpose(0, 1), None, &Tensor::ones([5], F32), 0.0).is_err());
    }

    /// Attention of one position of one head by libtorch.
    fn by_libtorch(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
        let scores = k.matmul(q) / (q.size()[0] as f64).sqrt();
        scores.softmax(0, Kind::Float).unsqueeze(0).matmul(v).squeeze_dim(0)
    }

    #[test]
    fn cached_attention_is_attention_wherever_positions_lie() {
        let (heads, kv_heads, dim, capacity) = (4i64, 2i64, 24i64, 6i64);
        let angles = Tensor::arange(capacity, F32).outer(&Tensor::rand([dim / 2], F32));
        let (cos, sin) = (angles.cos(), angles.sin());
        let turned = |x: &Tensor, position: i64| {
            let (a, b) = (x.narrow(0, 0, dim / 2), x.narrow(0, dim / 2, dim / 2));
            let (c, s) = (cos.get(position), sin.get(position));
            Tensor::cat(&[&a * &c - &b * &s, &b * &c + &a * &s], 0)
        };
        for (kind, tolerance) in TYPES {
            let cache = || Tensor::full([3, kv_heads, capacity, dim], f64::NAN, (kind, Device::Cpu));
            let (keys, values) = (cache(), cache());
            // three positions of a text in slot 0 at once, then one more in slot 2
            let qkv = Tensor::randn([4, (heads + 2 * kv_heads) * dim], F32).to_kind(kind);
            let run = |from: i64, places: &Places| {
                let rows = qkv.narrow(0, from, places.slots.len() as i64);
                cached_attention(&rows, [&keys, &values], places, heads, [&cos, &sin]).unwrap()
            };
            let first = Places { slots: vec![0; 3], positions: vec![0, 1, 2], table: vec![0; 18] };
            let second = Places { slots: vec![2], positions: vec![3], table: vec![0, 0, 0, 2, 9, 9] };
            let y = Tensor::cat(&[run(0, &first), run(3, &second)], 0);
            let wide = qkv.to_kind(Kind::Float).view([4, heads + 2 * kv_heads, dim]);
            for position in 0..4 {
                for head in 0..heads {
                    let kv = heads + head / 2;
                    let k: Vec<Tensor> = (0..=position).map(|p| turned(&wide.get(p).get(kv), p)).collect();
                    let v: Vec<Tensor> = (0..=position).map(|p| wide.get(p).get(kv + kv_heads)).collect();
                    let q = turned(&wide.get(position).get(head), position);
                    let expected = by_libtorch(&q, &Tensor::stack(&k, 0), &Tensor::stack(&v, 0));
                    close(&y.get(position).narrow(0, head * dim, dim), &expected, 2.0 * tolerance);
                }
            }
            for outside in [
                Places { slots: vec![3], positions: vec![0], table: vec![0; 6] },
                Places { slots: vec![0], positions: vec![6], table: vec![0; 6] },
                Places { slots: vec![0], positions: vec![1], table: vec![-1, 0, 0, 0, 0, 0] },
                Places { slots: vec![0], positions: vec![1], table: vec![0; 5] },
            ] {
                let row = qkv.narrow(0, 0, 1);
                assert!(cached_attention(&row, [&keys, &values], &outside, heads, [&cos, &sin]).is_err());
            }
        }
    }

    #[test]
    fn picked_are_the_highest_with_their_log_probabilities() {
        for width in [500, 129, 16, 3] {
            let (states, head) = (Tensor::randn([7, 20], F32), Tensor::randn([width, 20], F32));
            let logits = states.matmul(&head.transpose(0, 1));
            let keep = width.min(4);
            let (values, tokens) = logits.log_softmax(1, Kind::Float).topk(keep, 1, true, true);
            let picked = pick(&logits, &states, &head, keep as usize).unwrap();
            assert_eq!(picked.tokens, Vec::<i64>::try_from(tokens.view([-1])).unwrap());
            let ours = Tensor::from_slice(&picked.log_probs).view([7, keep]);
            close(&ours, &values, 1e-4);
            // rounded logits, states as they are: the order and the log-probabilities are those of f32
            let rounded_head = head.to_kind(Kind::BFloat16);
            let precise = states.matmul(&rounded_head.to_kind(Kind::Float).transpose(0, 1));
            let (values, tokens) = precise.log_softmax(1, Kind::Float).topk(keep, 1, true, true);
            let picked =
                pick(&precise.to_kind(Kind::BFloat16), &states, &rounded_head, keep as usize).unwrap();
            assert_eq!(picked.tokens, Vec::<i64>::try_from(tokens.view([-1])).unwrap());
            close(&Tensor::from_slice(&picked.log_probs).view([7, keep]), &values, 0.02);
        }
        let equal = Tensor::zeros([1, 40], F32);
        assert_eq!(pick(&equal, &equal, &equal, 3).unwrap().tokens, [0, 1, 2]);
        assert!(pick(&equal, &equal, &equal, 41).is_err());
    }

    #[test]
    fn rows_without_an_order_are_refused() {
        for (kind, bad) in [Kind::Float, Kind::BFloat16]
            .into_iter()
            .flat_map(|kind| [f64::NAN, f64::INFINITY].map(|bad| (kind, bad)))
        {
            // in the vectors, and in the rest behind them
            for place in [3, 40] {
                let (states, head) = (Tensor::randn([3, 8], F32), Tensor::randn([41, 8], F32).to_kind(kind));
                let logits = states.matmul(&head.to_kind(Kind::Float).transpose(0, 1));
                let _ = logits.get(1).narrow(0, place, 1).fill_(f64::NEG_INFINITY);
                let picked = pick(&logits.to_kind(kind), &states, &head, 4).unwrap();
                assert!(picked.log_probs.iter().all(|number| number.is_finite()), "{picked:?}");
                let _ = logits.get(1).narrow(0, place, 1).fill_(bad);
                let refused = pick(&logits.to_kind(kind), &states, &head, 4).unwrap_err();
                assert!(refused.to_string().contains("row 1 hold NaN or infinity"), "{refused}");
                assert!(refused.hint().unwrap().contains("weights"), "{refused}");
            }
        }
    }

    #[test]
    fn attention_to_nan_is_nan() {
        let (dim, capacity) = (16, 20);
        let (cos, sin) = (Tensor::ones([capacity, dim / 2], F32), Tensor::zeros([capacity, dim / 2], F32));
        for kind in [Kind::Float, Kind::BFloat16] {
            // the last position sees 18 keys: a whole vector of scores, and a rest, in each of which one is NaN
            for broken in [2, 17] {
                let cache = || Tensor::zeros([1, 1, capacity, dim], (kind, Device::Cpu));
                let qkv = Tensor::ones([18, 3 * dim], (kind, Device::Cpu));
                let _ = qkv.get(broken).narrow(0, dim, 1).fill_(f64::NAN);
                let places = Places {
                    slots: vec![0; 18],
                    positions: (0..18).collect(),
                    table: vec![0; 18 * capacity as usize],
                };
                let y = cached_attention(&qkv, [&cache(), &cache()], &places, 1, [&cos, &sin]).unwrap();
                let nan_R = y.isnan().all_dim(1, false).to_kind(Kind::Int64);
                assert_eq!(nan_R.sum(Kind::Int64).int64_value(&[]), 18 - broken, "{nan_R:?}");
            }
        }
    }

    #[test]
    fn packed_weights_multiply_as_they_do_unpacked() {
        if !crate::cpu_bf16().fast() {
            return;
        }
        for rows in [1, 5, 64] {
            let random = |shape: &[i64]| Tensor::randn(shape, F32).to_kind(Kind::BFloat16);
            let (x, weight, bias) = (random(&[rows, 40]), random(&[24, 40]), random(&[24]));
            let wide = |x: &Tensor| x.to_kind(Kind::Float);
            for bias in [None, Some(&bias)] {
                let packed = PackedLinear::new(&weight, bias, 64).unwrap();
                let expected = wide(&x).linear(&wide(&weight), bias.map(wide).as_ref());
                close(&packed.shallow_clone().forward(&x).unwrap(), &expected, 0.15);
            }
        }
    }
}
