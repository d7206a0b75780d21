//! Llama blocks: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! One implementation serves the decoder (causal) and encoders of the Qwen2 family (bidirectional, with biases on
//! query, key and value). Sources: Llama 2 (arXiv 2307.09288), RoFormer (2104.09864), GQA (2305.13245), GLU
//! variants (2002.05202); layout and names as `modeling_llama.py` and `modeling_qwen2.py` of transformers.
#![allow(non_snake_case)]

use crate::Result;
pub use crate::attention::Attend;
use crate::attention::{Mask, attend, attend_short, is_short};
use crate::gpu_kernels;
use crate::kv_cache::LayerCache;
use crate::norm::RmsNorm;
use crate::params::{Group, Init, ParamStore};
use crate::rope::{self, Rope, Rotation};
use crate::swiglu::swiglu;
use tch::Tensor;

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

    /// Final-normed states of the positions from `from` on: (B, T, H) -> (B, T - from, H). What no state needs is not
    /// computed: in the last block, earlier positions are only seen.
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and in all that follows.
    pub fn forward(&self, x_BTH: &Tensor, attend: Attend<'_>, from: i64) -> Result<Tensor> {
        self.run(x_BTH, attend, from, None)
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
        from: i64,
        cache: &mut [LayerCache],
    ) -> Result<Tensor> {
        self.run(x_BTH, attend, from, Some(cache))
    }

    /// x += attention(norm(x)); x += feed-forward(norm(x)); and so on. Each sum and the norm after it are one operation.
    fn run(
        &self,
        x_BTH: &Tensor,
        attend: Attend<'_>,
        from: i64,
        mut cache: Option<&mut [LayerCache]>,
    ) -> Result<Tensor> {
        let start = cache.as_ref().and_then(|cache| cache.first()).map_or(0, LayerCache::len);
        let (rope, mask) = (self.rope.at(start, x_BTH.size()[1])?, Mask::new(attend, x_BTH)?);
        let norms = || self.blocks.iter().map(|block| &block.norm1).chain([&self.norm]);
        let mut x = x_BTH.shallow_clone();
        let mut normed = norms().next().unwrap_or(&self.norm).forward(&x)?;
        for (i, (block, next)) in self.blocks.iter().zip(norms().skip(1)).enumerate() {
            let from = if i + 1 == self.blocks.len() { from } else { 0 };
            let layer = cache.as_mut().and_then(|cache| cache.get_mut(i));
            let attended = block.attention(&normed, &rope, &mask, layer, from)?;
            (x, normed) = block.norm2.add(&from_position(&x, from)?, &attended)?;
            (x, normed) = next.add(&x, &block.feed_forward(&normed)?)?;
        }
        Ok(normed)
    }
}

/// (B, T, …) -> (B, T - from, …), the later positions.
fn from_position(x: &Tensor, from: i64) -> Result<Tensor> {
    Ok(if from == 0 { x.shallow_clone() } else { x.f_narrow(1, from, x.size()[1] - from)? })
}

/// The parameters of one pre-norm block.
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

    /// Of normed states (B, T, H) -> (B, T - from, H).
    fn attention(
        &self,
        x_BTH: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
        from: i64,
    ) -> Result<Tensor> {
        let BlockConfig { heads, kv_heads, .. } = self.config;
        let qkv_BTM = x_BTH.f_linear(&self.qkv, self.qkv_bias.as_ref())?;
        let y_BTM = if cache.is_none() && self.qk_norm.is_none() && is_short(&qkv_BTM) {
            attend_short(&qkv_BTM, rope, mask, (heads, kv_heads), from)?
        } else {
            from_position(&self.attend(&qkv_BTM, rope, mask, cache)?, from)?
        };
        Ok(y_BTM.f_linear(&self.out, None::<Tensor>)?)
    }

    /// Heads turned and put to [`attend`]: (B, T, (N + 2 K) D) -> (B, T, N D).
    fn attend(
        &self,
        qkv_BTM: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
    ) -> Result<Tensor> {
        let BlockConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (batch, length) = (qkv_BTM.size()[0], qkv_BTM.size()[1]);
        let (q_BTND, k_BTKD, v_BTKD) = match &self.qk_norm {
            None if gpu_kernels::take(qkv_BTM) => {
                let [cos, sin] = &rope.half;
                torch_ext::cuda::fused::turn(qkv_BTM, [cos, sin], (heads, kv_heads))?
            }
            norms => turned_apart(qkv_BTM, rope, (heads, kv_heads), norms.as_ref())?,
        };
        let (q_BNTD, k_BKTD) = (q_BTND.f_transpose(1, 2)?, k_BTKD.f_transpose(1, 2)?);
        let v_BKTD = v_BTKD.f_transpose(1, 2)?;
        let y_BNTD = match cache {
            None => attend(&q_BNTD, &k_BKTD, &v_BKTD, mask)?,
            Some(cache) => {
                let (k_BKSD, v_BKSD) = cache.append(&k_BKTD, &v_BKTD)?;
                attend(&q_BNTD, &k_BKSD, &v_BKSD, mask)?
            }
        };
        Ok(y_BNTD.f_transpose(1, 2)?.f_reshape([batch, length, heads * head_dim])?)
    }

    pub(crate) fn feed_forward(&self, x_BTH: &Tensor) -> Result<Tensor> {
        let inner = swiglu(&x_BTH.f_linear(&self.gate_up, None::<Tensor>)?)?;
        Ok(inner.f_linear(&self.down, None::<Tensor>)?)
    }
}

/// Queries, keys and values, (B, T, heads, D) each.
pub(crate) type Apart = (Tensor, Tensor, Tensor);

/// Of (B, T, (N + 2 K) D): queries and keys normed where there are norms,
/// and turned.
pub(crate) fn turned_apart(
    qkv_BTM: &Tensor,
    rope: &Rotation,
    (heads, kv_heads): (i64, i64),
    norms: Option<&[RmsNorm; 2]>,
) -> Result<Apart> {
    let all = heads + 2 * kv_heads;
    let (batch, length, head_dim) = (qkv_BTM.size()[0], qkv_BTM.size()[1], qkv_BTM.size()[2] / all);
    let qkv = qkv_BTM.f_view([batch, length, all, head_dim])?;
    let (qk, v_BTKD) = split(&qkv, [heads + kv_heads, kv_heads], 2)?;
    let qk = match norms {
        None => rope.apply(&qk)?,
        Some([q_norm, k_norm]) => {
            let (q_BTND, k_BTKD) = split(&qk, [heads, kv_heads], 2)?;
            rope.apply(&Tensor::f_cat(&[q_norm.forward(&q_BTND)?, k_norm.forward(&k_BTKD)?], 2)?)?
        }
    };
    let (q_BTND, k_BTKD) = split(&qk, [heads, kv_heads], 2)?;
    Ok((q_BTND, k_BTKD, v_BTKD))
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
    use crate::parity::{Case, check, random};
    use tch::{Device, Kind};

    /// The kernel for short texts against the composition, for every kind of mask, shared keys, and late positions.
    #[test]
    fn short_attention_equals_the_composition() {
        tch::manual_seed(4);
        for (batch, length, heads, kv_heads, head_dim) in [
            (3, 20, 6, 6, 64),
            (2, 9, 4, 2, 8),
            (2, 17, 4, 1, 6),
            (1, 1, 2, 2, 2),
            (2, 64, 2, 1, 32),
            (0, 5, 2, 2, 8),
        ] {
            let config = BlockConfig {
                hidden: 8,
                heads,
                kv_heads,
                head_dim,
                ffn: 8,
                rms_norm_eps: 1e-5,
                rope_theta: 1e2,
                qkv_bias: false,
                qk_norm: false,
            };
            let block_of =
                |kind| Block::new(&config, 1, "", &mut ParamStore::inference(Device::Cpu, kind)).unwrap();
            let frequencies = rope::frequencies(head_dim, config.rope_theta).unwrap();
            let keep_BT = Tensor::ones([batch, length], (Kind::Bool, Device::Cpu));
            if batch > 1 && length > 1 {
                let _ = keep_BT.get(1).narrow(0, length / 2, length - length / 2).fill_(0);
            }
            let qkv = random(&[batch, length, (heads + 2 * kv_heads) * head_dim]) * 1.5;
            for attend in [Attend::Causal, Attend::Full, Attend::Keys(&keep_BT)] {
                for from in [0, length / 3] {
                    check(&Case {
                        inputs: &[qkv.shallow_clone()],
                        kernel: &|t| {
                            let rope =
                                Rope::new(frequencies.shallow_clone(), t[0].kind(), Device::Cpu).unwrap();
                            let mask = Mask::new(attend, &t[0]).unwrap();
                            let rotation = rope.at(0, length).unwrap();
                            vec![attend_short(&t[0], &rotation, &mask, (heads, kv_heads), from).unwrap()]
                        },
                        composed: &|t| {
                            let rope =
                                Rope::new(frequencies.shallow_clone(), t[0].kind(), Device::Cpu).unwrap();
                            let mask = Mask::new(attend, &t[0]).unwrap();
                            let rotation = rope.at(0, length).unwrap();
                            let y = block_of(t[0].kind()).attend(&t[0], &rotation, &mask, None).unwrap();
                            vec![from_position(&y, from).unwrap()]
                        },
                    });
                }
            }
        }
    }

    #[test]
    fn nan_in_a_query_or_value_is_not_hidden() {
        let rope = Rope::new(rope::frequencies(8, 1e2).unwrap(), Kind::Float, Device::Cpu).unwrap();
        for at in [0, 8, 16] {
            let qkv = random(&[1, 5, 24]);
            let _ = qkv.get(0).get(2).narrow(0, at, 1).fill_(f64::NAN);
            let mask = Mask::new(Attend::Causal, &qkv).unwrap();
            let y = attend_short(&qkv, &rope.at(0, 5).unwrap(), &mask, (1, 1), 0).unwrap();
            assert!(y.get(0).get(2).isnan().any().int64_value(&[]) == 1, "{at}");
        }
    }
}
