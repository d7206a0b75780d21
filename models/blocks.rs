//! Llama blocks: RMSNorm, rotary positions, grouped-query attention, SwiGLU.
//!
//! One implementation serves the decoder (causal) and encoders of the Qwen2 family (bidirectional, with biases on
//! query, key and value). Sources: Llama 2 (arXiv 2307.09288), RoFormer (2104.09864), GQA (2305.13245), GLU
//! variants (2002.05202); layout and names as `modeling_llama.py` and `modeling_qwen2.py` of transformers.
#![allow(non_snake_case)]

use crate::Result;
use crate::kv_cache::LayerCache;
use crate::params::{Group, Init, ParamStore};
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

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
}

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
const PRODUCTS_UP_TO_IN_TRAINING: i64 = 256;
/// The same for the forward pass alone.
const PRODUCTS_UP_TO: i64 = 64;

/// Blocks and the final norm.
#[derive(Debug)]
pub struct Stack {
    blocks: Vec<Block>,
    norm: RmsNorm,
    rope: Rope,
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
        let norm = RmsNorm::new(&format!("{prefix}norm.weight"), config, store)?;
        let rope = Rope::new(config, store.compute_kind(), store.device());
        Ok(Self { blocks, norm, rope })
    }

    /// The residual stream after all blocks, before the final norm: (B, T, H) -> (B, T, H).
    pub fn forward(&self, x_BTH: &Tensor, attend: Attend<'_>) -> Tensor {
        let (rope, mask) = (self.rope.at(0, x_BTH.size()[1]), Mask::new(attend, x_BTH));
        self.blocks.iter().fold(x_BTH.shallow_clone(), |x, block| block.forward(&x, &rope, &mask, None))
    }

    /// As [`Stack::forward`] for positions that follow those in the cache, which is extended. With `Causal` the
    /// cache must be empty; one position uses `Full`.
    pub fn forward_cached(&self, x_BTH: &Tensor, attend: Attend<'_>, cache: &mut [LayerCache]) -> Tensor {
        let start = cache.first().map_or(0, LayerCache::len);
        let (rope, mask) = (self.rope.at(start, x_BTH.size()[1]), Mask::new(attend, x_BTH));
        let layers = self.blocks.iter().zip(cache);
        layers.fold(x_BTH.shallow_clone(), |x, (block, cache)| block.forward(&x, &rope, &mask, Some(cache)))
    }

    /// The final norm, any leading shape.
    pub fn norm(&self, x: &Tensor) -> Tensor {
        self.norm.forward(x)
    }
}

/// y = x / sqrt(mean(x^2) + eps) * gain (arXiv 1910.07467).
#[derive(Debug)]
pub struct RmsNorm {
    gain_H: Tensor,
    eps: f64,
}

impl RmsNorm {
    fn new(name: &str, config: &BlockConfig, store: &mut ParamStore) -> Result<Self> {
        let gain_H = store.tensor(name, &[config.hidden], Init::Ones, Group::Gain)?;
        Ok(Self { gain_H, eps: config.rms_norm_eps })
    }

    /// The square sum is taken in f32, the products in the type of `x`. libtorch's `rms_norm` goes through f32
    /// copies of `x` on a CPU, forward and backward: five times the time of this in bf16.
    fn forward(&self, x: &Tensor) -> Tensor {
        let norm = x.norm_scalaropt_dim_dtype(2.0, [-1].as_slice(), true, Kind::Float);
        let width = self.gain_H.size()[0] as f64;
        let scale = (norm.square() / width + self.eps).rsqrt();
        x * scale.to_kind(x.kind()) * &self.gain_H
    }
}

/// Tables of the rotary position embedding, rotate-half form.
#[derive(Debug)]
struct Rope {
    head_dim: i64,
    theta: f64,
    kind: Kind,
    device: Device,
    /// cos and signed sin, (positions, 1, D); grown on demand.
    tables: RefCell<(Tensor, Tensor)>,
}

/// The tables' rows for some positions: (T, 1, D).
struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

impl Rope {
    fn new(config: &BlockConfig, kind: Kind, device: Device) -> Self {
        let (head_dim, theta) = (config.head_dim, config.rope_theta);
        Self {
            head_dim,
            theta,
            kind,
            device,
            tables: RefCell::new(Self::table(head_dim, theta, 64, kind, device)),
        }
    }

    fn table(head_dim: i64, theta: f64, positions: i64, kind: Kind, device: Device) -> (Tensor, Tensor) {
        let options = (Kind::Double, Device::Cpu);
        let exponents = Tensor::arange_start_step(0, head_dim, 2, options) / -(head_dim as f64);
        // f32 angles, as transformers computes them
        let frequencies = (exponents * theta.ln()).exp().to_kind(Kind::Float);
        let half = Tensor::arange(positions, (Kind::Float, Device::Cpu)).outer(&frequencies);
        let (cos, sin) = (half.cos(), half.sin());
        let finish = |t: Tensor| t.unsqueeze(1).to_kind(kind).to_device(device);
        // the sign of rotate-half lies in the sine, so that the rotation of x is x * cos + roll(x) * sin
        (finish(Tensor::cat(&[&cos, &cos], -1)), finish(Tensor::cat(&[&sin.neg(), &sin], -1)))
    }

    fn at(&self, start: i64, length: i64) -> Rotation {
        let mut tables = self.tables.borrow_mut();
        let have = tables.0.size()[0];
        if start + length > have {
            let positions = (start + length).max(2 * have);
            *tables =
                tch::no_grad(|| Self::table(self.head_dim, self.theta, positions, self.kind, self.device));
        }
        Rotation { cos: tables.0.narrow(0, start, length), sin: tables.1.narrow(0, start, length) }
    }
}

impl Rotation {
    /// (B, T, heads, D) -> the same, each pair (i, i + D/2) turned by its position's angle.
    fn apply(&self, x_BTND: &Tensor) -> Tensor {
        let half = x_BTND.size()[3] / 2;
        (x_BTND * &self.cos).addcmul(&x_BTND.roll([half], [-1]), &self.sin)
    }
}

/// What is added to attention scores, made once for all layers.
enum Mask {
    /// Nothing hidden.
    None,
    /// (T, T), 0 or -inf.
    Causal(Tensor),
    /// (B, 1, 1, T), 0 or -inf.
    Keys(Tensor),
}

impl Mask {
    fn new(attend: Attend<'_>, x_BTH: &Tensor) -> Self {
        let (length, options) = (x_BTH.size()[1], (x_BTH.kind(), x_BTH.device()));
        match attend {
            Attend::Full => Self::None,
            Attend::Causal if length == 1 => Self::None,
            Attend::Causal => {
                Self::Causal(Tensor::full([length, length], f64::NEG_INFINITY, options).triu(1))
            }
            Attend::Keys(mask_BT) => {
                let zeros = Tensor::zeros(mask_BT.size(), options);
                let mask = zeros.masked_fill(&mask_BT.logical_not(), f64::NEG_INFINITY);
                Self::Keys(mask.unsqueeze(1).unsqueeze(1))
            }
        }
    }
}

/// One pre-norm block: x += attention(norm(x)); x += feed-forward(norm(x)).
#[derive(Debug)]
struct Block {
    config: BlockConfig,
    norm1: RmsNorm,
    /// (N D + 2 K D, H): query, key, value
    qkv: Tensor,
    qkv_bias: Option<Tensor>,
    /// (H, N D)
    out: Tensor,
    norm2: RmsNorm,
    /// (2 F, H): gate, up
    gate_up: Tensor,
    /// (H, F)
    down: Tensor,
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
        let norm1 = RmsNorm::new(&name("input_layernorm.weight"), c, store)?;
        let qkv = store.fused(&parts(&rows("weight")), Some(c.hidden), inner, Group::Matrix)?;
        let qkv_bias = if c.qkv_bias {
            Some(store.fused(&parts(&rows("bias")), None, Init::Zeros, Group::Gain)?)
        } else {
            None
        };
        let out = store.tensor(&name("self_attn.o_proj.weight"), &[c.hidden, q], residual, Group::Matrix)?;
        let norm2 = RmsNorm::new(&name("post_attention_layernorm.weight"), c, store)?;
        let gate_up = ["gate", "up"].map(|p| (name(&format!("mlp.{p}_proj.weight")), c.ffn));
        let gate_up = store.fused(&parts(&gate_up), Some(c.hidden), inner, Group::Matrix)?;
        let down =
            store.tensor(&name("mlp.down_proj.weight"), &[c.hidden, c.ffn], residual, Group::Matrix)?;
        Ok(Self { config: config.clone(), norm1, qkv, qkv_bias, out, norm2, gate_up, down })
    }

    fn forward(
        &self,
        x_BTH: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let x = x_BTH + self.attention(&self.norm1.forward(x_BTH), rope, mask, cache);
        &x + self.feed_forward(&self.norm2.forward(&x))
    }

    fn attention(
        &self,
        x_BTH: &Tensor,
        rope: &Rotation,
        mask: &Mask,
        cache: Option<&mut LayerCache>,
    ) -> Tensor {
        let BlockConfig { heads, kv_heads, head_dim, .. } = self.config;
        let (batch, length) = (x_BTH.size()[0], x_BTH.size()[1]);
        let qkv = x_BTH.linear(&self.qkv, self.qkv_bias.as_ref());
        let qkv = qkv.view([batch, length, heads + 2 * kv_heads, head_dim]);
        let qk = rope.apply(&qkv.narrow(2, 0, heads + kv_heads));
        let q_BNTD = qk.narrow(2, 0, heads).transpose(1, 2);
        let k_BKTD = qk.narrow(2, heads, kv_heads).transpose(1, 2);
        let v_BKTD = qkv.narrow(2, heads + kv_heads, kv_heads).transpose(1, 2);
        let y_BNTD = match cache {
            None => attend(&q_BNTD, &k_BKTD, &v_BKTD, mask),
            Some(cache) => {
                let (k_BKSD, v_BKSD) = cache.append(&k_BKTD, &v_BKTD);
                attend(&q_BNTD, &k_BKSD, &v_BKSD, mask)
            }
        };
        y_BNTD.transpose(1, 2).reshape([batch, length, heads * head_dim]).linear(&self.out, None::<Tensor>)
    }

    fn feed_forward(&self, x_BTH: &Tensor) -> Tensor {
        let gate_up = x_BTH.linear(&self.gate_up, None::<Tensor>);
        let (gate, up) =
            (gate_up.narrow(-1, 0, self.config.ffn), gate_up.narrow(-1, self.config.ffn, self.config.ffn));
        (gate.silu() * up).linear(&self.down, None::<Tensor>)
    }
}

/// softmax(q k^T / sqrt(D) + mask) v for (B, N, T, D) queries against (B, K, S, D) keys and values.
fn attend(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Tensor {
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
fn attend_by_products(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Tensor {
    let shape = q_BNTD.size();
    let (batch, heads, queries, dim) = (shape[0], shape[1], shape[2], shape[3]);
    let (kv_heads, keys) = (k_BKSD.size()[1], k_BKSD.size()[2]);
    let (groups, rows) = (heads / kv_heads, batch * kv_heads);
    let stacked = [rows, groups * queries, dim];
    let q = q_BNTD.reshape(stacked);
    let k = k_BKSD.reshape([rows, keys, dim]).transpose(1, 2);
    let scale = (dim as f64).powf(-0.5);
    let (kind, device) = (q.kind(), q.device());
    let scores = match mask {
        Mask::None => Tensor::zeros([1], (kind, device)).baddbmm(&q, &k, 0.0, scale),
        Mask::Causal(mask_TS) if groups == 1 => mask_TS.baddbmm(&q, &k, 1.0, scale),
        Mask::Causal(mask_TS) => mask_TS.repeat([groups, 1]).baddbmm(&q, &k, 1.0, scale),
        Mask::Keys(mask_B11S) => {
            let mask = mask_B11S.expand([batch, kv_heads, 1, keys], false).reshape([rows, 1, keys]);
            mask.baddbmm(&q, &k, 1.0, scale)
        }
    };
    let y = scores.softmax(-1, kind).bmm(&v_BKSD.reshape([rows, keys, dim]));
    y.view([batch, heads, queries, dim])
}

/// libtorch's fused attention: flash, memory-efficient or cuDNN, as the device offers.
fn attend_fused(q_BNTD: &Tensor, k_BKSD: &Tensor, v_BKSD: &Tensor, mask: &Mask) -> Tensor {
    let grouped = q_BNTD.size()[1] != k_BKSD.size()[1];
    let (mask, causal) = match mask {
        Mask::None => (None, false),
        Mask::Causal(_) => (None, true),
        Mask::Keys(mask) => (Some(mask), false),
    };
    Tensor::scaled_dot_product_attention(q_BNTD, k_BKSD, v_BKSD, mask, 0.0, causal, None, grouped)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
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
                let mask = Mask::new(attend, &x_BTH);
                close(&attend_by_products(&q, &k, &v, &mask), &attend_fused(&q, &k, &v, &mask), 1e-5);
            }
        }
    }

    #[test]
    fn rms_norm_equals_libtorch() {
        tch::manual_seed(2);
        let x = Tensor::randn([5, 7, 16], (Kind::Float, Device::Cpu)) * 3.0;
        let gain_H = Tensor::randn([16], (Kind::Float, Device::Cpu));
        let norm = RmsNorm { gain_H: gain_H.shallow_clone(), eps: 1e-2 };
        close(&norm.forward(&x), &x.rms_norm([16], Some(&gain_H), 1e-2), 1e-5);
        let bf16 = RmsNorm { gain_H: gain_H.to_kind(Kind::BFloat16), eps: 1e-2 };
        close(&bf16.forward(&x.to_kind(Kind::BFloat16)).to_kind(Kind::Float), &norm.forward(&x), 0.1);
    }

    #[test]
    fn rms_norm_of_zeros_has_a_finite_gradient() {
        let x = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let norm = RmsNorm { gain_H: Tensor::ones([4], (Kind::Float, Device::Cpu)), eps: 1e-5 };
        norm.forward(&x).sum(Kind::Float).backward();
        assert!(bool::try_from(x.grad().isfinite().all()).unwrap());
    }

    #[test]
    fn rope_grows_and_depends_on_distance_only() {
        let config = BlockConfig {
            hidden: 8,
            heads: 1,
            kv_heads: 1,
            head_dim: 8,
            ffn: 8,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            qkv_bias: false,
        };
        let rope = Rope::new(&config, Kind::Float, Device::Cpu);
        let x = Tensor::randn([1, 1, 1, 8], (Kind::Float, Device::Cpu));
        let y = Tensor::randn([1, 1, 1, 8], (Kind::Float, Device::Cpu));
        let dot = |p: i64, q: i64| (rope.at(p, 1).apply(&x) * rope.at(q, 1).apply(&y)).sum(Kind::Float);
        close(&dot(3, 1), &dot(203, 201), 1e-4);
        close(&rope.at(0, 1).apply(&x), &x, 1e-7);
    }
}
