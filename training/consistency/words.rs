//! The encoder's words by the decoder's ids.
#![allow(non_snake_case)]

use models::{Embed as _, Encoder, Frame, Vocabulary};
use tch::{Device, Kind, Tensor};

use crate::prepare::Prepared;
use crate::{Error, Result};

/// Rows of the encoder's table of words in the order of the decoder's ids, and what stands around every text.
pub(super) struct Words {
    /// (V, H) f32; rows of ids without a word (BOS, EOS, PAD) are never used.
    pub(super) rows_VH: Tensor,
    /// (V) f32: 0 for words, -inf for what is none.
    pub(super) mask_V: Tensor,
    /// One an encoder.
    pub(super) frames: Vec<FrameRows>,
}

/// Rows of the table for the tokens around a text.
pub(super) struct FrameRows {
    /// (before + after, H) f32.
    pub(super) rows_FH: Tensor,
    pub(super) before: usize,
    pub(super) after: usize,
}

/// Texts whose tokens are compared with the encoder's before a training.
const COMPARED: usize = 256;

impl Words {
    /// Of encoders that share one table.
    pub(super) fn of(encoders: &[Encoder], prepared: &Prepared) -> Result<Self> {
        let ids = encoder_ids(encoders, &prepared.vocabulary, prepared.config.vocab)?;
        let frames = encoders.iter().map(|encoder| Ok(encoder.frame()?)).collect::<Result<Vec<Frame>>>()?;
        for (encoder, frame) in encoders.iter().zip(&frames) {
            require_same_tokens(encoder, frame, &ids, prepared)?;
        }
        let Some(first) = encoders.first() else {
            return Err(Error::OtherWords { reason: "the recipe has no encoder of the pair set".into() });
        };
        let rows: Vec<i64> = ids.iter().map(|id| id.map_or(0, i64::from)).collect();
        let mask: Vec<f32> =
            ids.iter().map(|id| if id.is_some() { 0.0 } else { f32::NEG_INFINITY }).collect();
        let frame_rows = |frame: &Frame| {
            let ids: Vec<i64> = frame.before.iter().chain(&frame.after).map(|&id| i64::from(id)).collect();
            let (before, after) = (frame.before.len(), frame.after.len());
            Ok(FrameRows { rows_FH: first.words(&ids)?, before, after })
        };
        Ok(Self {
            rows_VH: first.words(&rows)?,
            mask_V: Tensor::f_from_slice(&mask)?.f_to_device(first.device())?,
            frames: frames.iter().map(frame_rows).collect::<Result<_>>()?,
        })
    }
}

/// The encoder's id of each of the decoder's tokens; none for what is no word.
fn encoder_ids(encoders: &[Encoder], vocabulary: &Vocabulary, size: i64) -> Result<Vec<Option<u32>>> {
    let special = [vocabulary.bos, vocabulary.eos, vocabulary.pad];
    let known = |token: &str| encoders.first().and_then(|encoder| encoder.tokenizer().token_to_id(token));
    let of = |id: u32| match vocabulary.tokenizer().id_to_token(id) {
        Some(token) if !special.contains(&id) => match known(&token) {
            Some(known) => Ok(Some(known)),
            None => Err(Error::OtherWords { reason: format!("the encoder has no token {token:?}") }),
        },
        _ => Ok(None),
    };
    (0..size as u32).map(of).collect()
}

/// Checks on training texts that frame and tokens are together what the encoder reads.
fn require_same_tokens(
    encoder: &Encoder,
    frame: &Frame,
    ids: &[Option<u32>],
    prepared: &Prepared,
) -> Result<()> {
    let (tokens, pairs) = (&prepared.train, &prepared.pairs);
    let stride = tokens.len().div_ceil(COMPARED).max(1);
    let picked: Vec<u32> = (0..tokens.len() as u32).step_by(stride).collect();
    let texts: Vec<&str> = picked.iter().map(|&text| pairs.text(tokens.row(text) as usize)).collect();
    let mut differing = Vec::new();
    for ((&number, text), whole) in picked.iter().zip(&texts).zip(encoder.tokenize(&texts)?) {
        let own: Vec<u32> = tokens.targets(number).filter_map(|id| ids[id as usize]).collect();
        let built = [frame.before.as_slice(), &own, &frame.after].concat();
        let is_cut = built.len() > encoder.max_tokens();
        if !is_cut && built != whole {
            differing.push(*text);
        }
    }
    // a few texts may hold what the cut vocabulary writes otherwise
    match differing.first().filter(|_| 20 * differing.len() > texts.len()) {
        None => Ok(()),
        Some(text) => Err(Error::OtherWords {
            reason: format!(
                "under the prompt {:?} the encoder splits {} of {} training texts otherwise, such as {text:?}",
                encoder.space().prompt.name,
                differing.len(),
                texts.len()
            ),
        }),
    }
}

impl FrameRows {
    /// Numbers of the rows of texts of `lengths` words in the order [words of all texts, frame, one row of zeros], each
    /// text within its frame and padded to one width: (B T) and the mask (B, T), where one is needed.
    pub(super) fn places(&self, lengths: &[usize], device: Device) -> Result<(Tensor, Option<Tensor>)> {
        let words: usize = lengths.iter().sum();
        let frame = self.before + self.after;
        let longest = lengths.iter().copied().max().unwrap_or(0) + frame;
        let mut places = Vec::with_capacity(lengths.len() * longest);
        let mut mask = Vec::with_capacity(lengths.len() * longest);
        let mut start = 0;
        for &length in lengths {
            let used = length + frame;
            places.extend((words..words + self.before).map(|at| at as i64));
            places.extend((start..start + length).map(|at| at as i64));
            places.extend((words + self.before..words + frame).map(|at| at as i64));
            places.extend((used..longest).map(|_| (words + frame) as i64));
            mask.extend((0..longest).map(|at| at < used));
            start += length;
        }
        let shape = [lengths.len() as i64, longest as i64];
        let places_R = Tensor::f_from_slice(&places)?.f_to_device(device)?;
        let ragged = mask.contains(&false);
        let mask_BT = Tensor::f_from_slice(&mask)?.f_view(shape)?.f_to_device(device)?;
        Ok((places_R, ragged.then_some(mask_BT)))
    }

    /// Rows of texts within their frame, (B, T, H), from those of their words one text after the other, (M, H) f32.
    pub(super) fn around(&self, words_MH: &Tensor, lengths: &[usize]) -> Result<(Tensor, Option<Tensor>)> {
        let hidden = words_MH.size()[1];
        let zero_1H = Tensor::f_zeros([1, hidden], (Kind::Float, words_MH.device()))?;
        let all_RH = Tensor::f_cat(&[words_MH, &self.rows_FH, &zero_1H], 0)?;
        let (places_R, mask_BT) = self.places(lengths, words_MH.device())?;
        let rows_BTH = all_RH.f_index_select(0, &places_R)?.f_view([lengths.len() as i64, -1, hidden])?;
        Ok((rows_BTH, mask_BT))
    }
}
