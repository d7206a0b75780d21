//! Attention: which position sees which, and the ways to compute it.
#![allow(non_snake_case)]

use crate::Result;
use crate::rope::Rotation;
use std::cell::OnceCell;
use tch::{Device, Kind, Tensor};

/// Which positions attend to which.
#[derive(Debug, Clone, Copy)]
pub enum Attend<'a> {
    /// Every position to itself and those before it.
    Causal,
    /// Every position to all; a single new position against a cache.
    Full,
    /// Every position to those whose entry is true in a mask (B, T) of bools: bidirectional with padding. Every row
    /// needs one true entry.
    Keys(&'a Tensor),
}

/// Up to this length the plain products beat libtorch's fused attention in the backward pass on a CPU: five times
/// at 20 positions, equal at about 260.
pub const PRODUCTS_UP_TO_IN_TRAINING: i64 = 256;
/// The same for the forward pass alone.
const PRODUCTS_UP_TO: i64 = 64;

/// Up to this length a CPU computes rotation, scores, softmax and sums of values of a head in one kernel.
const SHORT: i64 = 64;

/// What is added to attention scores, made once for all layers.
pub(crate) enum Mask {
    /// Nothing hidden.
    None,
    /// (T, T), 0 or -inf; made where the plain products ask for it, the other ways need none.
    Causal(OnceCell<Tensor>),
    /// (B, 1, 1, T), 0 or -inf.
    Keys(Tensor),
}

impl Mask {
    /// The mask for states (B, T, H).
    ///
    /// # Errors
    /// libtorch's own.
    pub(crate) fn new(attend: Attend<'_>, x_BTH: &Tensor) -> Result<Self> {
        let (length, options) = (x_BTH.size()[1], (x_BTH.kind(), x_BTH.device()));
        Ok(match attend {
            Attend::Full => Self::None,
            Attend::Causal if length == 1 => Self::None,
            Attend::Causal => Self::Causal(OnceCell::new()),
            Attend::Keys(mask_BT) => {
                let zeros = Tensor::f_zeros(mask_BT.size(), options)?;
                let mask = zeros.f_masked_fill(&mask_BT.f_logical_not()?, f64::NEG_INFINITY)?;
                Self::Keys(mask.f_unsqueeze(1)?.f_unsqueeze(1)?)
            }
        })
    }
}

/// Whether [`attend_short`] takes queries, keys and values such as these, (B, T, (N + 2 K) D).
pub(crate) fn is_short(qkv_BTM: &Tensor) -> bool {
    torch_ext::has_kernels(qkv_BTM) && qkv_BTM.size()[1] <= SHORT
}

/// As [`attend`] for queries and keys that are still to be turned: (B, T, (N + 2 K) D), queries before keys before values,
/// -> (B, T - from, N D).
pub(crate) fn attend_short(
    qkv_BTM: &Tensor,
    rotation: &Rotation,
    mask: &Mask,
    (heads, kv_heads): (i64, i64),
    from: i64,
) -> Result<Tensor> {
    let [cos, sin] = &rotation.half;
    let key_mask = match mask {
        Mask::Keys(mask_B11T) => Some(mask_B11T.f_view([qkv_BTM.size()[0], qkv_BTM.size()[1]])?),
        Mask::None | Mask::Causal(_) => None,
    };
    let (key_mask, causal) = (key_mask.as_ref(), matches!(mask, Mask::Causal(_)));
    let asked = torch_ext::ShortAttention { cos, sin, key_mask, heads, kv_heads, from, causal };
    Ok(torch_ext::short_attention(qkv_BTM, &asked)?)
}

/// softmax(q k^T / sqrt(D) + mask) v for (B, N, T, D) queries against (B, K, S, D) keys and values.
pub(crate) fn attend(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Result<Tensor> {
    let (queries, keys) = (q_BNTD.size()[2], k_BKSD.size()[2]);
    let limit = if q_BNTD.requires_grad() { PRODUCTS_UP_TO_IN_TRAINING } else { PRODUCTS_UP_TO };
    if q_BNTD.device() == Device::Cpu && queries > 1 && keys <= limit {
        attend_by_products(q_BNTD, k_BKSD, v_BKSD, mask)
    } else {
        attend_fused(q_BNTD, k_BKSD, v_BKSD, mask)
    }
}

/// Attention as two batched products. Heads that share keys are stacked along the queries, so that keys and values
/// are never copied.
fn attend_by_products(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Result<Tensor> {
    let shape = q_BNTD.size();
    let (batch, heads, queries, dim) = (shape[0], shape[1], shape[2], shape[3]);
    let (kv_heads, keys) = (k_BKSD.size()[1], k_BKSD.size()[2]);
    let (groups, rows) = (heads / kv_heads, batch * kv_heads);
    let stacked = [rows, groups * queries, dim];
    let q = q_BNTD.f_reshape(stacked)?;
    let k = k_BKSD.f_reshape([rows, keys, dim])?.f_transpose(1, 2)?;
    let scale = (dim as f64).powf(-0.5);
    let (kind, device) = (q.kind(), q.device());
    let scores = match mask {
        Mask::None => Tensor::f_zeros([1], (kind, device))?.f_baddbmm(&q, &k, 0.0, scale)?,
        Mask::Causal(made) => {
            let mask_TS = causal_mask(made, queries, (kind, device))?;
            match groups {
                1 => mask_TS.f_baddbmm(&q, &k, 1.0, scale)?,
                _ => mask_TS.f_repeat([groups, 1])?.f_baddbmm(&q, &k, 1.0, scale)?,
            }
        }
        Mask::Keys(mask_B11S) => {
            let mask = mask_B11S.f_expand([batch, kv_heads, 1, keys], false)?.f_reshape([rows, 1, keys])?;
            mask.f_baddbmm(&q, &k, 1.0, scale)?
        }
    };
    let y = scores.f_softmax(-1, kind)?.f_bmm(&v_BKSD.f_reshape([rows, keys, dim])?)?;
    Ok(y.f_view([batch, heads, queries, dim])?)
}

/// The mask of `length` positions, made once.
fn causal_mask(made: &OnceCell<Tensor>, length: i64, options: (Kind, Device)) -> Result<&Tensor> {
    if let Some(mask_TT) = made.get() {
        return Ok(mask_TT);
    }
    let mask_TT = Tensor::f_full([length, length], f64::NEG_INFINITY, options)?.f_triu(1)?;
    Ok(made.get_or_init(|| mask_TT))
}

/// libtorch's fused attention: flash, memory-efficient or cuDNN, as the device offers.
fn attend_fused(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Result<Tensor> {
    let grouped = q_BNTD.size()[1] != k_BKSD.size()[1];
    let (mask, causal) = match mask {
        Mask::None => (None, false),
        Mask::Causal(_) => (None, true),
        Mask::Keys(mask) => (Some(mask), false),
    };
    Ok(Tensor::f_scaled_dot_product_attention(q_BNTD, k_BKSD, v_BKSD, mask, 0.0, causal, None, grouped)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference < tolerance, "differs by {difference}");
    }

    #[test]
    fn products_equal_fused_attention() {
        tch::manual_seed(1);
        let random = |heads: i64| Tensor::randn([3, heads, 9, 8], (Kind::Float, Device::Cpu));
        for (heads, kv_heads) in [(4, 4), (4, 2), (4, 1)] {
            let (q, k, v) = (random(heads), random(kv_heads), random(kv_heads));
            let x_BTH = Tensor::zeros([3, 9, 1], (Kind::Float, Device::Cpu));
            let keep_BT = Tensor::ones([3, 9], (Kind::Bool, Device::Cpu));
            let _ = keep_BT.get(1).narrow(0, 4, 5).fill_(0);
            for attend in [Attend::Causal, Attend::Full, Attend::Keys(&keep_BT)] {
                let mask = Mask::new(attend, &x_BTH).unwrap();
                let products = attend_by_products(&q, &k, &v, &mask).unwrap();
                close(&products, &attend_fused(&q, &k, &v, &mask).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn a_causal_mask_is_made_where_it_is_read() {
        for (length, trains, made) in
            [(64, false, true), (65, false, false), (65, true, true), (257, true, false)]
        {
            let x_BTH = Tensor::ones([1, length, 4], (Kind::Float, Device::Cpu));
            let x_BNTD = x_BTH.unsqueeze(1).set_requires_grad(trains);
            let mask = Mask::new(Attend::Causal, &x_BTH).unwrap();
            let first = attend(&x_BNTD, &x_BNTD, &x_BNTD, &mask).unwrap();
            // the second layer's is the first's
            assert!(attend(&x_BNTD, &x_BNTD, &x_BNTD, &mask).unwrap().equal(&first));
            let is_made = matches!(&mask, Mask::Causal(mask_TT) if mask_TT.get().is_some());
            assert_eq!(is_made, made, "{length} positions, training: {trains}");
        }
    }
}
