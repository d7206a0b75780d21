//! How probable texts that are there already are, token by token, and what else could stand in each place.
#![allow(non_snake_case)]

use tch::{Kind, Tensor};

use super::source::{Checked, Source};
use super::{GenerateOptions, host_i64};
use crate::{Decoder, DecoderConfig, Error, Result};

/// What a decoder makes of a text: natural log-probabilities, each given all tokens before it. Place `T`, behind the last
/// of the `T` tokens, is that of EOS.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// (T + 1) of the token that stands in each place.
    pub own: Vec<f32>,
    /// (T) of the token that stands in the next place, in this one.
    pub next: Vec<f32>,
    /// (T + 1) the most probable tokens of each place, best first.
    pub best: Vec<Vec<(i64, f32)>>,
}

impl Reading {
    /// Natural log-probability of the whole text, EOS included.
    pub fn log_prob(&self) -> f64 {
        self.own.iter().map(|&log_prob| f64::from(log_prob)).sum()
    }
}

/// Reads one text (tokens without BOS and EOS) for each vector of a source, with the `best` most probable tokens of each
/// place. Of the options, noise and length count, and the batch bounds what is read together; there is no guidance.
///
/// # Errors
/// Those of [`super::generate_from`]; [`Error::SourceLength`] where there are not as many texts as vectors.
pub fn read(
    decoder: &Decoder,
    source: &Source<'_>,
    texts: &[&[u32]],
    best: usize,
    options: &GenerateOptions,
) -> Result<Vec<Reading>> {
    options.check(decoder.config())?;
    let checked = source.check(decoder, options)?;
    if texts.len() != checked.len() {
        return Err(Error::SourceLength { what: "texts", found: texts.len(), vectors: checked.len() });
    }
    // texts of one length stand together, so that little is computed for nothing
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&text| checked.before[text].len() + texts[text].len());
    let mut readings: Vec<Option<Reading>> = vec![None; texts.len()];
    let most = (MOST_SCORES / decoder.config().vocab as usize).max(1);
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        let mut places = 0;
        let fits = rest.iter().take(options.batch.max(1)).take_while(|&&text| {
            places += texts[text].len() + 1;
            places <= most
        });
        let (chunk, others) = rest.split_at(fits.count().max(1));
        let read = tch::no_grad(|| read_chunk(decoder, &checked, texts, chunk, best))?;
        chunk.iter().zip(read).for_each(|(&text, reading)| readings[text] = Some(reading));
        rest = others;
    }
    Ok(readings.into_iter().flatten().collect())
}

/// Scores that are in memory at a time (f32): places times tokens.
const MOST_SCORES: usize = 1 << 24;

/// What is read together: one text after the other, each place of which the decoder says something about.
#[derive(Debug, Default)]
struct Inputs {
    /// Rows of tokens, filled up to one width.
    tokens: Vec<i64>,
    /// Where among these stands what a place is predicted from: the token before it.
    places: Vec<i64>,
    /// The token that stands in each place.
    own: Vec<i64>,
    /// The token that stands in the next place.
    next: Vec<i64>,
}

impl Inputs {
    fn new(config: &DecoderConfig, checked: &Checked, texts: &[&[u32]], chunk: &[usize]) -> Self {
        let (bos, eos, pad) = (config.bos_token_id, config.eos_token_id, config.pad_token_id);
        let length = |&text: &usize| checked.before[text].len() + texts[text].len() + 1;
        let width = chunk.iter().map(length).max().unwrap_or(0);
        let mut inputs = Self::default();
        for (row, &text) in chunk.iter().enumerate() {
            let ids = || texts[text].iter().map(|&id| i64::from(id));
            inputs.tokens.extend(checked.before[text].iter().copied().chain([bos]).chain(ids()));
            let end = inputs.tokens.len();
            inputs.places.extend((end - texts[text].len() - 1..end).map(|place| place as i64));
            inputs.tokens.resize((row + 1) * width, pad);
            inputs.own.extend(ids().chain([eos]));
            // behind EOS there is nothing: what is read there is thrown away
            inputs.next.extend(ids().skip(1).chain([eos, eos]).take(texts[text].len() + 1));
        }
        inputs
    }
}

fn read_chunk(
    decoder: &Decoder,
    checked: &Checked,
    texts: &[&[u32]],
    chunk: &[usize],
    best: usize,
) -> Result<Vec<Reading>> {
    let index = |numbers: &[i64]| -> Result<Tensor> {
        Ok(torch_ext::send(&Tensor::f_from_slice(numbers)?, decoder.device())?)
    };
    let inputs = Inputs::new(decoder.config(), checked, texts, chunk);
    let rows: Vec<i64> = chunk.iter().map(|&text| text as i64).collect();
    let tokens_BT = index(&inputs.tokens)?.f_view([chunk.len() as i64, -1])?;
    let h_BTH = decoder.hidden(&checked.condition.select(&index(&rows)?)?, &tokens_BT)?;
    let h_NH = h_BTH.f_reshape([-1, h_BTH.size()[2]])?.f_index_select(0, &index(&inputs.places)?)?;
    let log_probs_NV = decoder.logits(&h_NH)?.f_to_kind(Kind::Float)?.f_log_softmax(-1, Kind::Float)?;
    let of = |ids: &[i64]| -> Result<Vec<f32>> {
        let ids_N1 = index(ids)?.f_unsqueeze(1)?;
        Ok(Vec::try_from(log_probs_NV.f_gather(1, &ids_N1, false)?.f_view([-1])?)?)
    };
    let (own, next) = (of(&inputs.own)?, of(&inputs.next)?);
    let candidates = match best.min(decoder.config().vocab as usize) {
        0 => vec![Vec::new(); own.len()],
        kept => most_probable(&log_probs_NV, kept)?,
    };
    let mut start = 0;
    let readings = chunk.iter().map(|&text| {
        let (from, to) = (start, start + texts[text].len() + 1);
        start = to;
        Reading {
            own: own[from..to].to_vec(),
            next: next[from..to - 1].to_vec(),
            best: candidates[from..to].to_vec(),
        }
    });
    Ok(readings.collect())
}

fn most_probable(log_probs_NV: &Tensor, count: usize) -> Result<Vec<Vec<(i64, f32)>>> {
    let (best_NK, ids_NK) = log_probs_NV.f_topk(count as i64, -1, true, true)?;
    let best = Vec::<f32>::try_from(best_NK.f_contiguous()?.f_view([-1])?)?;
    let all: Vec<(i64, f32)> = host_i64(&ids_NK)?.into_iter().zip(best).collect();
    Ok(all.chunks(count).map(<[_]>::to_vec).collect())
}
