//! What texts are decoded from, and what stands before their first token.
#![allow(non_snake_case)]

use super::GenerateOptions;
use crate::condition::Condition;
use crate::{Decoder, Error, Result};
use tch::{Kind, Tensor};

/// Texts to decode again, one for each vector: what was guessed, and where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Hypotheses<'a> {
    /// Their vectors, (N, dim), any float type.
    pub v_ND: &'a Tensor,
    /// Their tokens, without BOS and EOS. More than the decoder's `max_tokens` are cut off.
    pub ids: &'a [Vec<u32>],
}

/// What texts are decoded from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The vectors whose texts are wanted, (N, dim), any float type and device.
    pub v_ND: &'a Tensor,
    /// What is refined; `None` for first guesses.
    pub hypotheses: Option<Hypotheses<'a>>,
    /// A number for each vector, which what is drawn for it follows from; `None` for its position.
    pub numbers: Option<&'a [u64]>,
}

impl<'a> Source<'a> {
    /// First guesses at vectors (N, dim).
    pub fn vectors(v_ND: &'a Tensor) -> Self {
        Self { v_ND, hypotheses: None, numbers: None }
    }

    /// Checks it against a decoder and puts it in the decoder's terms.
    pub(super) fn check(&self, decoder: &Decoder, options: &GenerateOptions) -> Result<Checked> {
        let v_ND = check_vectors(decoder, self.v_ND)?;
        let count = v_ND.size()[0] as usize;
        let length = |what: &'static str, found: usize| match found == count {
            true => Ok(()),
            false => Err(Error::SourceLength { what, found, vectors: count }),
        };
        let mut before: Vec<Vec<i64>> = vec![Vec::new(); count];
        let mut hypothesis_BD = None;
        if let Some(Hypotheses { v_ND, ids }) = self.hypotheses {
            length("hypotheses", ids.len())?;
            let v_ND = check_vectors(decoder, v_ND)?;
            length("vectors of hypotheses", v_ND.size()[0] as usize)?;
            let most = decoder.config().max_tokens as usize;
            before = ids.iter().map(|ids| ids.iter().take(most).map(|&id| id.into()).collect()).collect();
            hypothesis_BD = Some(v_ND);
        }
        if let Some(numbers) = self.numbers {
            length("numbers", numbers.len())?;
        }
        let numbers = self.numbers.map_or_else(|| (0..count as u64).collect(), <[u64]>::to_vec);
        let mut condition = Condition { hypothesis_BD, ..Condition::first(&v_ND) };
        let for_all = |number: f64| -> Result<Option<Tensor>> {
            Ok(Some(Tensor::f_full([count as i64], number, (Kind::Float, decoder.device()))?))
        };
        if options.noise > 0.0 {
            condition.noise_B = for_all(options.noise)?;
        }
        if let Some(length) = options.length {
            condition.length_B = for_all(length as f64)?;
        }
        Ok(Checked { condition, before, numbers })
    }
}

/// A source whose parts fit together and are where the decoder is.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) condition: Condition,
    /// The tokens of each text's hypothesis.
    pub(super) before: Vec<Vec<i64>>,
    /// What is drawn for a text follows from its number.
    pub(super) numbers: Vec<u64>,
}

impl Checked {
    /// Number of texts.
    pub(super) fn len(&self) -> usize {
        self.before.len()
    }

    /// Positions before the first token of a text, BOS included.
    pub(super) fn positions(&self, text: usize, decoder: &Decoder) -> usize {
        let refining = self.condition.hypothesis_BD.is_some();
        decoder.config().prefix_positions(refining) as usize + self.before[text].len() + 1
    }

    /// Input embeddings of the beginnings of `length` texts from `start` on.
    pub(super) fn beginnings(&self, decoder: &Decoder, start: usize, length: usize) -> Result<Beginnings> {
        let rows: Vec<usize> = (start..start + length).collect();
        self.beginnings_of(decoder, &rows, false)
    }

    /// Those of the given texts, in that order; `withheld` leaves their vectors out.
    pub(super) fn beginnings_of(
        &self,
        decoder: &Decoder,
        texts: &[usize],
        withheld: bool,
    ) -> Result<Beginnings> {
        let device = decoder.device();
        let index = |numbers: &[i64]| -> Result<Tensor> {
            Ok(torch_ext::send(&Tensor::f_from_slice(numbers)?, device)?)
        };
        let rows: Vec<i64> = texts.iter().map(|&text| text as i64).collect();
        let mut condition = self.condition.select(&index(&rows)?)?;
        if withheld {
            condition.withheld_B = Some(Tensor::f_ones([rows.len() as i64], (Kind::Bool, device))?);
        }
        let prefix_BPH = decoder.prefix(&condition)?;
        let (prefix, hidden) = (prefix_BPH.size()[1], prefix_BPH.size()[2]);
        let bos = decoder.config().bos_token_id;
        let tokens: Vec<i64> =
            texts.iter().flat_map(|&text| self.before[text].iter().copied().chain([bos])).collect();
        // all prefixes, and behind them all tokens: each text takes its own of both
        let all_RH =
            Tensor::f_cat(&[prefix_BPH.f_reshape([-1, hidden])?, decoder.embed(&index(&tokens)?)?], 0)?;
        let (mut order, mut starts) = (Vec::with_capacity(tokens.len()), vec![0]);
        let mut token = prefix * texts.len() as i64;
        for (number, &text) in texts.iter().enumerate() {
            let own = number as i64 * prefix;
            order.extend(own..own + prefix);
            let length = self.before[text].len() as i64 + 1;
            order.extend(token..token + length);
            token += length;
            starts.push(order.len() as i64);
        }
        Ok(Beginnings { x_RH: all_RH.f_index_select(0, &index(&order)?)?, starts })
    }
}

/// Input embeddings of what stands before texts: prefix, hypothesis, BOS.
#[derive(Debug)]
pub(super) struct Beginnings {
    /// (R, H), one text after the other, in the compute type
    pub(super) x_RH: Tensor,
    /// Where each begins, and the end of the last.
    starts: Vec<i64>,
}

impl Beginnings {
    /// Number of texts.
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Positions of a text.
    pub(super) fn length(&self, text: usize) -> usize {
        (self.starts[text + 1] - self.starts[text]) as usize
    }

    /// Rows of a text.
    pub(super) fn rows(&self, text: usize) -> std::ops::Range<i64> {
        self.starts[text]..self.starts[text + 1]
    }

    /// The texts from `from` up to `to`.
    pub(super) fn part(&self, from: usize, to: usize) -> Result<Self> {
        let (start, end) = (self.starts[from], self.starts[to]);
        let starts = self.starts[from..=to].iter().map(|at| at - start).collect();
        Ok(Self { x_RH: self.x_RH.f_narrow(0, start, end - start)?, starts })
    }

    /// Texts of one length as (B, S, H).
    pub(super) fn stacked(&self) -> Result<Tensor> {
        let hidden = self.x_RH.size()[1];
        Ok(self.x_RH.f_view([self.len() as i64, -1, hidden])?)
    }
}

/// The vectors, in f32 on the decoder's device.
pub(super) fn check_vectors(decoder: &Decoder, v_ND: &Tensor) -> Result<Tensor> {
    let (found, dim) = (v_ND.size(), decoder.config().dim);
    if found.len() != 2 || found[1] != dim {
        return Err(Error::VectorShape { found, dim });
    }
    // an f64 may be beyond f32
    let v_ND = v_ND.f_to_kind(Kind::Float)?;
    let finite_N = v_ND.f_isfinite()?.f_all_dim(1, false)?;
    if found[0] > 0 && finite_N.f_logical_not()?.f_any()?.f_int64_value(&[])? != 0 {
        let index = finite_N.f_to_kind(Kind::Int64)?.f_argmin(0, false)?.f_int64_value(&[])? as usize;
        return Err(Error::VectorNotFinite { index });
    }
    Ok(v_ND.f_to_device(decoder.device())?)
}
