//! Llama blocks: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! One implementation serves the decoder (causal) and encoders of the Qwen2 family (bidirectional, with biases on
//! query, key and value). Sources: Llama 2 (arXiv 2307.09288), RoFormer (2104.09864), GQA (2305.13245), GLU
//! variants (2002.05202); layout and names as `modeling_llama.py` and `modeling_qwen2.py` of transformers.
#![allow(non_snake_case)]

use crate::Result;
pub use crate::attention::Attend;
use crate::attention::{Mask, attend};
use crate::kv_cache::LayerCache;
use crate::params::{Group, Init, ParamStore};
use crate::rope::{self, Rope, Rotation};
use tch::{Kind, Tensor};

/// Shape of a stack of blocks.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockConfig {
    /// Width of the residual stream (H).
    pub hidden: i64,
    /// Number of query heads (N).
    pub heads: i64,
    /// Number of key and value heads (K); divides `heads`.
    pub kv_heads: i64,
    /// Width of one head (D), even.
    pub head_dim: i64,
    /// Width of the feed-forward layer (F).
    pub ffn: i64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether query, key and value have biases (Qwen2).
    pub qkv_bias: bool,
    /// Whether each head's query and key are normed before they are turned (Qwen3).
    pub qk_norm: bool,
}

/// Blocks and the final norm.
#[derive(Debug)]
pub struct Stack {
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: RmsNorm,
    pub(crate) rope: Rope,
}

impl Stack {
    /// `layers` blocks with parameters named `{prefix}layers.I.…` and `{prefix}norm.weight`.
    ///
    /// # Errors
    /// A parameter name that is taken.
    pub fn new(config: &BlockConfig, layers: i64, prefix: &str, store: &mut ParamStore) -> Result<Self> {
        let blocks = (0..layers)
            .map(|i| Block::new(config, layers, &format!("{prefix}layers.{i}."), store))
            .collect::<Result<_>>()?;
        let norm = RmsNorm::new(&format!("{prefix}norm.weight"), config.hidden, config.rms_norm_eps, store)?;
        let frequencies = rope::frequencies(config.head_dim, config.rope_theta)?;
        let rope = Rope::new(frequencies, store.compute_kind(), store.device())?;
        Ok(Self { blocks, norm, rope })
    }

    /// The residual stream after all blocks, before the final norm: (B, T, H) -> (B, T, H).
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and in all that follows.
    pub fn forward(&self, x_BTH: &Tensor, attend: Attend<'_>) -> Result<Tensor> {
        let (rope, mask) = (self.rope.at(0, x_BTH.size()[1])?, Mask::new(attend, x_BTH)?);
        let mut blocks = self.blocks.iter();
        blocks.try_fold(x_BTH.shallow_clone(), |x, block| block.forward(&x, &rope, &mask, None))
    }

    /// As [`Stack::forward`] for positions that follow those in the cache, which is extended. With `Causal` the
    /// cache must be empty; one position uses `Full`.
    ///
    /// # Errors
    /// libtorch's own; the cache is then of no use any more.
    pub fn forward_cached(
        &self,
        x_BTH: &Tensor,
        attend: Attend<'_>,
        cache: &mut [LayerCache],
    ) -> Result<Tensor> {
        let start = cache.first().map_or(0, LayerCache::len);
        let (rope, mask) = (self.rope.at(start, x_BTH.size()[1])?, Mask::new(attend, x_BTH)?);
        let mut layers = self.blocks.iter().zip(cache);
        layers
            .try_fold(x_BTH.shallow_clone(), |x, (block, cache)| block.forward(&x, &rope, &mask, Some(cache)))
    }

    /// The final norm, any leading shape.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)
    }
}

/// y = x / sqrt(mean(x^2) + eps) * gain (arXiv 1910.07467).
#[derive(Debug)]
pub struct RmsNorm {
    pub(crate) gain_H: Tensor,
    pub(crate) eps: f64,
}

impl RmsNorm {
    fn new(name: &str, width: i64, eps: f64, store: &mut ParamStore) -> Result<Self> {
        Ok(Self { gain_H: store.tensor(name, &[width], Init::Ones, Group::Gain)?, eps })
    }

    /// The square sum is taken in f32, the products in the type of `x`. libtorch's `rms_norm` goes through f32
    /// copies of `x` on a CPU, forward and backward: five times the time of this in bf16.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let norm = x.f_norm_scalaropt_dim_dtype(2.0, [-1].as_slice(), true, Kind::Float)?;
        let width = self.gain_H.size()[0] as f64;
        let scale = norm.f_square()?.f_div_scalar(width)?.f_add_scalar(self.eps)?.f_rsqrt()?;
        let scaled = if x.requires_grad() {
            x.f_mul(&scale.f_to_kind(x.kind())?)?
        } else {
            x.f_mul(&scale)?.f_to_kind(x.kind())?
        };
        Ok(scaled.f_mul(&self.gain_H)?)
    }
}

/// One pre-norm block: x += attention(norm(x)); x += feed-forward(norm(x)).
#[derive(Debug)]
pub(crate) struct Block {
    config: BlockConfig,
    pub(crate) norm1: RmsNorm,
    /// (N D + 2 K D, H): query, key, value
    pub(crate) qkv: Tensor,
    pub(crate) qkv_bias: Option<Tensor>,
    /// Of queries and keys, over the width of a head.
    pub(crate) qk_norm: Option<[RmsNorm; 2]>,
    /// (H, N D)
    pub(crate) out: Tensor,
    pub(crate) norm2: RmsNorm,
    /// (2 F, H): gate, up
    pub(crate) gate_up: Tensor,
    /// (H, F)
    pub(crate) down: Tensor,
}

impl Block {
    fn new(config: &BlockConfig, layers: i64, prefix: &str, store: &mut ParamStore) -> Result<Self> {
        let c = config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        // what adds to the residual stream starts smaller the deeper the stack (GPT-2)
        let (inner, residual) = (Init::Normal(0.02), Init::Normal(0.02 / (2.0 * layers as f64).sqrt()));
        let name = |part: &str| format!("{prefix}{part}");
        let rows = |suffix: &str| {
            [("q", q), ("k", kv), ("v", kv)].map(|(p, n)| (format!("{prefix}self_attn.{p}_proj.{suffix}"), n))
        };
        fn parts(named: &[(String, i64)]) -> Vec<(&str, i64)> {
            named.iter().map(|(name, rows)| (name.as_str(), *rows)).collect()
        }
        let norm1 = RmsNorm::new(&name("input_layernorm.weight"), c.hidden, c.rms_norm_eps, store)?;
        let qkv = store.fused(&parts(&rows("weight")), Some(c.hidden), inner, Group::Matrix)?;
        let qkv_bias = if c.qkv_bias {
            Some(store.fused(&parts(&rows("bias")), None, Init::Zeros, Group::Gain)?)
        } else {
            None
        };
        let qk_norm = if c.qk_norm {
            let mut norm = |part: &str| {
                let name = format!("{prefix}self_attn.{part}_norm.weight");
                RmsNorm::new(&name, c.head_dim, c.rms_norm_eps, store)
            };
            Some([norm("q")?, norm("k")?])
        } else {
            None
        };
        let out = store.tensor(&name("self_attn.o_proj.weight"), &[c.hidden, q], residual, Group::Matrix)?;
        let norm2 = RmsNorm::new(&name("post_attention_layernorm.weight"), c.hidden, c.rms_norm_eps, store)?;
        let gate_up = ["gate", "up"].map(|p| (name(&format!("mlp.{p}_proj.weight")), c.ffn));
        let gate_up = store.fused(&parts(&gate_up), Some(c.hidden), inner, Group::Matrix)?;
        let down =
            store.tensor(&name("mlp.down_proj.weight"), &[c.hidden, c.ffn], residual, Group::Matrix)?;
        Ok(Self { config: config.clone(), norm1, qkv, qkv_bias, qk_norm, out, norm2, gate_up, down })
    }

    fn forward(
        &self,
        x_BTH: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let x = x_BTH.f_add(&self.attention(&self.norm1.forward(x_BTH)?, rope, mask, cache)?)?;
        Ok(x.f_add(&self.feed_forward(&self.norm2.forward(&x)?)?)?)
    }

    fn attention(
        &self,
        x_BTH: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let BlockConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (batch, length) = (x_BTH.size()[0], x_BTH.size()[1]);
        let qkv = x_BTH.f_linear(&self.qkv, self.qkv_bias.as_ref())?;
        let qkv = qkv.f_view([batch, length, heads + 2 * kv_heads, head_dim])?;
        let (qk, v_BTKD) = split(&qkv, [heads + kv_heads, kv_heads], 2)?;
        let qk = match &self.qk_norm {
            None => rope.apply(&qk)?,
            Some([q_norm, k_norm]) => {
                let (q_BTND, k_BTKD) = split(&qk, [heads, kv_heads], 2)?;
                rope.apply(&Tensor::f_cat(&[q_norm.forward(&q_BTND)?, k_norm.forward(&k_BTKD)?], 2)?)?
            }
        };
        let (q_BTND, k_BTKD) = split(&qk, [heads, kv_heads], 2)?;
        let (q_BNTD, k_BKTD) = (q_BTND.f_transpose(1, 2)?, k_BTKD.f_transpose(1, 2)?);
        let v_BKTD = v_BTKD.f_transpose(1, 2)?;
        let y_BNTD = match cache {
            None => attend(&q_BNTD, &k_BKTD, &v_BKTD, mask)?,
            Some(cache) => {
                let (k_BKSD, v_BKSD) = cache.append(&k_BKTD, &v_BKTD)?;
                attend(&q_BNTD, &k_BKSD, &v_BKSD, mask)?
            }
        };
        let y_BTM = y_BNTD.f_transpose(1, 2)?.f_reshape([batch, length, heads * head_dim])?;
        Ok(y_BTM.f_linear(&self.out, None::<Tensor>)?)
    }

    fn feed_forward(&self, x_BTH: &Tensor) -> Result<Tensor> {
        let gate_up = x_BTH.f_linear(&self.gate_up, None::<Tensor>)?;
        let (gate, up) = split(&gate_up, [self.config.ffn; 2], -1)?;
        let mut inner = gate.f_silu()?;
        inner = if inner.requires_grad() { inner.f_mul(&up)? } else { inner.f_mul_(&up)? };
        Ok(inner.f_linear(&self.down, None::<Tensor>)?)
    }
}

/// Two slices that fill a dimension. One operation for both: its backward pass joins the two gradients, where that of
/// two slices would pad each with zeros and add them.
fn split(x: &Tensor, sizes: [i64; 2], dim: i64) -> Result<(Tensor, Tensor)> {
    let mut parts = x.f_split_with_sizes(sizes, dim)?;
    let second = parts.remove(1);
    Ok((parts.remove(0), second))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Device;

    fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
        let difference = (a - b).abs().max().double_value(&[]);
        assert!(difference < tolerance, "differs by {difference}");
    }

    #[test]
    fn rms_norm_equals_libtorch() {
        tch::manual_seed(2);
        let x = Tensor::randn([5, 7, 16], (Kind::Float, Device::Cpu)) * 3.0;
        let gain_H = Tensor::randn([16], (Kind::Float, Device::Cpu));
        let norm = RmsNorm { gain_H: gain_H.shallow_clone(), eps: 1e-2 };
        close(&norm.forward(&x).unwrap(), &x.rms_norm([16], Some(&gain_H), 1e-2), 1e-5);
        let bf16 = RmsNorm { gain_H: gain_H.to_kind(Kind::BFloat16), eps: 1e-2 };
        let rounded = bf16.forward(&x.to_kind(Kind::BFloat16)).unwrap().to_kind(Kind::Float);
        close(&rounded, &norm.forward(&x).unwrap(), 0.1);
    }

    #[test]
    fn rms_norm_of_zeros_has_a_finite_gradient() {
        let x = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let norm = RmsNorm { gain_H: Tensor::ones([4], (Kind::Float, Device::Cpu)), eps: 1e-5 };
        norm.forward(&x).unwrap().sum(Kind::Float).backward();
        assert!(bool::try_from(x.grad().isfinite().all()).unwrap());
    }
}
