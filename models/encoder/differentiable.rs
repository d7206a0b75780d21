//! The encoder as a function that has a gradient: from rows of its table of words to vectors.
#![allow(non_snake_case)]

use tch::{Kind, Tensor};

use super::Encoder;
use crate::embed::Embed as _;
use crate::error::{Error, Result};

/// Ids that stand around the tokens of every text: special tokens, and the prompt's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Before the text.
    pub before: Vec<u32>,
    /// After it.
    pub after: Vec<u32>,
}

impl Encoder {
    /// What stands around every text under this prompt. Where the tokenizer joins the prompt's end with a text's first
    /// word (a space in a byte-level BPE), [`Encoder::tokenize`] gives other ids than the frame and the text by itself.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn frame(&self) -> Result<Frame> {
        let special = &self.network.tokens.special;
        let id = |token: &String| {
            let id = self.tokenizer().token_to_id(token);
            id.ok_or_else(|| Error::Tokenize(format!("there is no id for the special token {token}")))
        };
        let ids = |tokens: &[String]| tokens.iter().map(id).collect::<Result<Vec<u32>>>();
        let prompt = self.network.tokens.counter(&self.space.prompt.text);
        let prompt = self.tokenizer().encode_fast(prompt.prepared(""), false);
        let prompt = prompt.map_err(|error| Error::Tokenize(error.to_string()))?;
        let before = [ids(&special.before)?.as_slice(), prompt.get_ids()].concat();
        Ok(Frame { before, after: ids(&special.after)? })
    }

    /// Rows of the table of words, `[N, H]` f32 on the encoder's device.
    ///
    /// # Errors
    /// libtorch's own (an id outside of the table).
    pub fn words(&self, ids: &[i64]) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let words_VH = self.network.backbone.words();
        let ids_N = Tensor::f_from_slice(ids)?.f_to_device(words_VH.device())?;
        Ok(words_VH.f_index_select(0, &ids_N)?.f_to_kind(Kind::Float)?)
    }

    /// The vectors, `[B, dim]` f32 on the encoder's device, of texts given by rows of the table of words, `[B, T, H]` with
    /// frame and padding on the right; the mask `[B, T]` (bool, true for tokens) only where some row is padded. Mixtures of
    /// rows are taken too. Gradients flow to the rows and to nothing else. For the rows of a text's own tokens it is what
    /// [`crate::Embed::embed`] gives, but for a RoBERTa and a text that holds its padding token: that a row is its, nobody
    /// sees.
    ///
    /// # Errors
    /// libtorch's own, also for more tokens than a table of positions has rows for.
    pub fn embed_words(&self, words_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        self.vectors(&self.network.backbone.hidden_of_words(words_BTH, mask_BT)?, mask_BT)
    }
}
