//! Greedy decoding on tensors that stay where they are, so that a step can be one CUDA graph.
//!
//! A graph replays kernels with the shapes and addresses of its recording, and nothing in it may wait for the CPU. So
//! the cache has its full capacity from the start, a position is a number on the device, keys behind it are masked, the
//! chosen token is read by the next step from where this one wrote it, and rows that have ended go on unread. All of it
//! runs without graphs on a CPU too, where its texts are held to those of [`super::generate`].
//!
//! A step reads the keys of a window, the smallest of some sizes that holds all positions, each with a graph of its own:
//! short texts do not pay for the longest.
#![allow(non_snake_case)]

use super::source::check_vectors;
use super::{Generated, host_f64, host_i64, without_order};
use crate::blocks::Block;
use crate::rope::turned;
use crate::{Condition, Decoder, Error, Result};
use tch::{Device, Kind, Tensor};
use torch_ext::CudaGraph;

/// Steps between two looks at the tokens: each look makes the CPU wait for the GPU.
const LOOK_EVERY: i64 = 8;
/// The smallest window; each next one is twice as large, up to the capacity.
const SMALLEST_WINDOW: i64 = 64;
/// Runs before a recording, in which libraries choose their kernels and allocate.
const WARM_UP: usize = 2;

/// Rows that are decoded together, again and again.
#[derive(Debug)]
pub struct StaticRows<'a> {
    // dropped before the tensors that they use
    graphs: Vec<(i64, CudaGraph)>,
    decoder: &'a Decoder,
    rows: i64,
    /// Positions: prefix, BOS and all tokens but the last, behind which nothing is chosen.
    capacity: i64,
    /// Read by the next step, (R) i64.
    token_R: Tensor,
    /// Where it stands, (R) i64.
    position_R: Tensor,
    /// The token chosen at each position, and its log-probability: (R, S) i64 and f32.
    chosen_RS: Tensor,
    log_prob_RS: Tensor,
    /// Of each layer, (R, K, S, D).
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    /// cos and signed sin of all positions, (S, D).
    rotation: [Tensor; 2],
    /// 0, 1, …, (S) i64
    slots_S: Tensor,
}

impl<'a> StaticRows<'a> {
    /// Room for `rows` texts of up to `max_tokens` tokens. With `graphs`, which need a GPU, steps are recorded here.
    ///
    /// # Errors
    /// [`Error::GenerateOption`] for less than one row, libtorch's own (out of memory); for graphs [`torch_ext::Error`]'s
    /// `NoCuda` where there are none, and `Argument` where the decoder is on no GPU.
    pub fn new(decoder: &'a Decoder, rows: i64, max_tokens: i64, graphs: bool) -> Result<Self> {
        if rows < 1 {
            return Err(Error::GenerateOption { option: "rows", problem: "must be at least 1".to_owned() });
        }
        let (c, kind, device) = (decoder.config(), decoder.kind(), decoder.device());
        let capacity = c.prefix_tokens + max_tokens.clamp(1, c.max_tokens);
        let zeros = |shape: &[i64], kind| Tensor::f_zeros(shape, (kind, device));
        // zeros: what is masked is multiplied by 0, which must not be 0 * NaN
        let cache = || -> Result<Vec<Tensor>> {
            (0..c.layers).map(|_| Ok(zeros(&[rows, c.kv_heads, capacity, c.head_dim], kind)?)).collect()
        };
        let [cos, sin] = decoder.stack.rope.half_angles(capacity)?;
        let table = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
            Ok(Tensor::f_cat(&[a, b], -1)?.f_to_kind(kind)?.f_to_device(device)?)
        };
        let mut made = Self {
            graphs: Vec::new(),
            decoder,
            rows,
            capacity,
            token_R: zeros(&[rows], Kind::Int64)?,
            position_R: zeros(&[rows], Kind::Int64)?,
            chosen_RS: zeros(&[rows, capacity], Kind::Int64)?,
            log_prob_RS: zeros(&[rows, capacity], Kind::Float)?,
            keys: cache()?,
            values: cache()?,
            rotation: [table(&cos, &cos)?, table(&sin.f_neg()?, &sin)?],
            slots_S: Tensor::f_arange(capacity, (Kind::Int64, device))?,
        };
        if graphs {
            made.record()?;
        }
        Ok(made)
    }

    /// Number of rows.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// Whether steps were recorded.
    pub fn has_graphs(&self) -> bool {
        !self.graphs.is_empty()
    }

    /// Decodes 1 to as many vectors as there are rows: (N, dim), any float type and device, in their order.
    ///
    /// # Errors
    /// [`Error::RowsOfVectors`] for none or too many, [`Error::VectorShape`] and [`Error::VectorNotFinite`] for vectors
    /// that cannot be, libtorch's own.
    pub fn decode(&mut self, v_ND: &Tensor) -> Result<Vec<Generated>> {
        tch::no_grad(|| {
            let v_ND = check_vectors(self.decoder, v_ND)?;
            let texts = v_ND.size()[0];
            if texts < 1 || texts > self.rows {
                return Err(Error::RowsOfVectors { found: texts, rows: self.rows });
            }
            self.begin(&v_ND)?;
            let first = self.decoder.config().prefix_tokens;
            for position in first + 1..self.capacity {
                if (position - first) % LOOK_EVERY == 0 && self.all_ended(texts, first, position)? {
                    return self.read(texts, first, position);
                }
                self.step_at(position)?;
            }
            self.read(texts, first, self.capacity)
        })
    }

    /// Prefix and BOS of all rows, and their first tokens. Rows without a vector repeat the last one.
    fn begin(&mut self, v_ND: &Tensor) -> Result<()> {
        let (decoder, device) = (self.decoder, self.decoder.device());
        let (count, prefix) = (v_ND.size()[0], decoder.config().prefix_tokens);
        let row_R = Tensor::f_arange(self.rows, (Kind::Int64, device))?.f_clamp_max(count - 1)?;
        let v_RD = v_ND.f_index_select(0, &row_R)?;
        let bos_R1 = Tensor::f_full([self.rows, 1], decoder.config().bos_token_id, (Kind::Int64, device))?;
        let x_RTH = Tensor::f_cat(&[decoder.prefix(&Condition::first(&v_RD))?, decoder.embed(&bos_R1)?], 1)?;
        let position_RT = Tensor::f_arange(prefix + 1, (Kind::Int64, device))?
            .f_unsqueeze(0)?
            .f_expand([self.rows, -1], false)?;
        let _ = self.position_R.f_fill_(prefix)?;
        let y_RTH = self.forward(&x_RTH, &position_RT, prefix + 1)?;
        self.choose(&y_RTH)
    }

    /// The step whose token stands at `position` (the same for all rows), by its graph where there is one.
    fn step_at(&mut self, position: i64) -> Result<()> {
        match self.graphs.iter().find(|(window, _)| position < *window) {
            Some((_, graph)) => Ok(graph.replay()?),
            None => self.step(self.window(position)),
        }
    }

    /// Reads the tokens that were chosen last and chooses the next. All that it says to the GPU is the same every time.
    fn step(&mut self, window: i64) -> Result<()> {
        let x_R1H = self.decoder.embed(&self.token_R.f_unsqueeze(1)?)?;
        let y_R1H = self.forward(&x_R1H, &self.position_R.f_unsqueeze(1)?, window)?;
        self.choose(&y_R1H)
    }

    /// The most probable token behind the last position; its number, its log-probability and its position are kept.
    fn choose(&mut self, y_RTH: &Tensor) -> Result<()> {
        let h_RH = self.decoder.stack.norm.forward(&y_RTH.f_select(1, -1)?)?;
        let logits_RV = self.decoder.logits(&h_RH)?.f_to_kind(Kind::Float)?;
        let token_R1 = logits_RV.f_argmax(1, true)?;
        let log_prob_R1 =
            logits_RV.f_gather(1, &token_R1, false)?.f_sub(&logits_RV.f_logsumexp([1].as_slice(), true)?)?;
        let position_R1 = self.position_R.f_unsqueeze(1)?;
        let _ = self.chosen_RS.f_scatter_(1, &position_R1, &token_R1)?;
        let _ = self.log_prob_RS.f_scatter_(1, &position_R1, &log_prob_R1)?;
        self.token_R.f_copy_(&token_R1.f_squeeze_dim(1)?)?;
        // behind the last position nothing is read any more, but it must exist
        let _ = self.position_R.f_add_scalar_(1)?.f_clamp_max_(self.capacity - 1)?;
        Ok(())
    }

    /// The residual stream after all blocks for (R, T, H) states at positions (R, T), against the first `window` slots
    /// of the cache, in which their keys and values are put.
    fn forward(&self, x_RTH: &Tensor, position_RT: &Tensor, window: i64) -> Result<Tensor> {
        let (rows, length) = (self.rows, x_RTH.size()[1]);
        let at = |table: &Tensor| -> Result<Tensor> {
            Ok(table.f_index_select(0, &position_RT.f_reshape([-1])?)?.f_view([rows, length, 1, -1])?)
        };
        let rotation = [at(&self.rotation[0])?, at(&self.rotation[1])?];
        let slot_S = self.slots_S.f_narrow(0, 0, window)?;
        let hidden_RTS = slot_S.f_gt_tensor(&position_RT.f_unsqueeze(2)?)?;
        let mut x_RTH = x_RTH.shallow_clone();
        for (layer, block) in self.decoder.stack.blocks.iter().enumerate() {
            let normed = block.norm1.forward(&x_RTH)?;
            let y = self.attention(layer, block, &normed, &rotation, position_RT, &hidden_RTS)?;
            let x = x_RTH.f_add(&y)?;
            x_RTH = x.f_add(&block.feed_forward(&block.norm2.forward(&x)?)?)?;
        }
        Ok(x_RTH)
    }

    fn attention(
        &self,
        layer: usize,
        block: &Block,
        x_RTH: &Tensor,
        [cos, sin]: &[Tensor; 2],
        position_RT: &Tensor,
        hidden_RTS: &Tensor,
    ) -> Result<Tensor> {
        let c = self.decoder.config();
        let (heads, kv_heads, dim) = (c.heads, c.kv_heads, c.head_dim);
        let (rows, length, window) = (self.rows, x_RTH.size()[1], hidden_RTS.size()[2]);
        let qkv = x_RTH.f_linear(&block.qkv, block.qkv_bias.as_ref())?;
        let qkv = qkv.f_view([rows, length, heads + 2 * kv_heads, dim])?;
        let qk = qkv.f_narrow(2, 0, heads + kv_heads)?;
        let qk = turned(&qk, cos, sin)?;
        let slot =
            position_RT.f_view([rows, 1, length, 1])?.f_expand([rows, kv_heads, length, dim], false)?;
        let keep = |cache: &Tensor, new_RTKD: &Tensor| -> Result<Tensor> {
            let _ = cache.shallow_clone().f_scatter_(2, &slot, &new_RTKD.f_transpose(1, 2)?)?;
            Ok(cache.f_narrow(2, 0, window)?)
        };
        let k_RKSD = keep(&self.keys[layer], &qk.f_narrow(2, heads, kv_heads)?)?;
        let v_RKSD = keep(&self.values[layer], &qkv.f_narrow(2, heads + kv_heads, kv_heads)?)?;
        // heads that share keys are stacked along the queries, so that keys are read once
        let groups = heads / kv_heads;
        let q =
            qk.f_narrow(2, 0, heads)?.f_transpose(1, 2)?.f_reshape([rows, kv_heads, groups * length, dim])?;
        let scores = q.f_matmul(&k_RKSD.f_transpose(2, 3)?)?.f_mul_scalar((dim as f64).powf(-0.5))?;
        let scores = scores.f_view([rows, kv_heads, groups, length, window])?;
        let hidden = hidden_RTS.f_view([rows, 1, 1, length, window])?;
        let weights = scores.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_softmax(-1, scores.kind())?;
        let y = weights.f_view([rows, kv_heads, groups * length, window])?.f_matmul(&v_RKSD)?;
        let y_RTM = y.f_view([rows, heads, length, dim])?.f_transpose(1, 2)?.f_reshape([
            rows,
            length,
            heads * dim,
        ])?;
        Ok(y_RTM.f_linear(&block.out, None::<Tensor>)?)
    }

    /// Slots that a step at `position` has to look at.
    fn window(&self, position: i64) -> i64 {
        let mut window = SMALLEST_WINDOW;
        while window <= position {
            window *= 2;
        }
        window.min(self.capacity)
    }

    /// Records a graph for every window.
    fn record(&mut self) -> Result<()> {
        let device = self.decoder.device();
        let mut window = self.window(0);
        loop {
            tch::no_grad(|| (0..WARM_UP).try_for_each(|_| self.step(window)))?;
            let (graph, ()) = tch::no_grad(|| CudaGraph::capture(device, || self.step(window)))?;
            self.graphs.push((window, graph));
            if window == self.capacity {
                return Ok(());
            }
            window = self.window(window);
        }
    }

    /// Whether every text has an end among the tokens chosen so far.
    fn all_ended(&self, texts: i64, first: i64, end: i64) -> Result<bool> {
        let eos = self.decoder.config().eos_token_id;
        let chosen = self.chosen_RS.f_narrow(0, 0, texts)?.f_narrow(1, first, end - first)?;
        let ended_R = chosen.f_eq(eos)?.f_any_dim(1, false)?;
        Ok(ended_R.f_all()?.f_to_device(Device::Cpu)?.f_int64_value(&[])? != 0)
    }

    /// The texts, from the tokens at positions `first` to `end`.
    fn read(&self, texts: i64, first: i64, end: i64) -> Result<Vec<Generated>> {
        let eos = self.decoder.config().eos_token_id;
        let part = |tensor: &Tensor| tensor.f_narrow(0, 0, texts)?.f_narrow(1, first, end - first);
        let (tokens, log_probs) = (host_i64(&part(&self.chosen_RS)?)?, host_f64(&part(&self.log_prob_RS)?)?);
        let length = (end - first) as usize;
        let rows = tokens.chunks(length).zip(log_probs.chunks(length));
        let texts: Vec<Generated> = rows.map(|(tokens, log_probs)| text_of(tokens, log_probs, eos)).collect();
        // what follows an end is not part of the sum, and may be anything
        match texts.iter().position(|text| !text.log_prob.is_finite()) {
            Some(row) => Err(without_order(row)),
            None => Ok(texts),
        }
    }
}

fn text_of(tokens: &[i64], log_probs: &[f64], eos: i64) -> Generated {
    let ended = tokens.iter().position(|&token| token == eos);
    let length = ended.unwrap_or(tokens.len());
    Generated {
        ids: tokens[..length].iter().map(|&token| token as u32).collect(),
        log_prob: log_probs.iter().take(length + usize::from(ended.is_some())).sum(),
        finished: ended.is_some(),
    }
}
