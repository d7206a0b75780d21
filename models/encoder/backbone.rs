//! What every transformer inside an encoder can do, and what it is made from.
#![allow(non_snake_case)]

use std::path::Path;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::error::Result;
use crate::space::{Attention, Pooling};
use crate::weights::Weights;

/// Token ids to hidden states.
pub(super) trait Backbone {
    /// Its sizes.
    fn dimensions(&self) -> Dimensions;

    /// Which tokens see which.
    fn attention(&self) -> Attention {
        Attention::Bidirectional
    }

    /// Operations of the matrix products for one text of so many tokens: two a weight and token, and those of queries with
    /// keys and of scores with values.
    fn flops(&self, tokens: usize) -> f64;

    /// The table of words, `[V, H]` in the file's own format.
    fn words(&self) -> &Tensor;

    /// Last hidden states `[B, T, H]` in the compute format, of rows of the table of words `[B, T, H]` in any format, padded
    /// on the right. The mask (bool, true for tokens) is given only where some row is padded. Where gradients are wanted of
    /// the rows, they flow through.
    fn hidden_of_words(&self, words_BTH: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor>;

    /// As [`Self::hidden_of_words`] of ids `[B, T]` (i64).
    fn hidden(&self, ids_BT: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        self.hidden_of_words(&Tensor::f_embedding(self.words(), ids_BT, -1, false, false)?, mask_BT)
    }

    /// The position of each token of a text, where these are not 0, 1, 2, … as they mostly are.
    fn odd_positions(&self, _ids: &[u32]) -> Option<Vec<i64>> {
        None
    }

    /// As [`Self::hidden`] for tokens at positions `[B, T]` (i64), those of [`Self::odd_positions`] among them.
    fn hidden_at(&self, ids_BT: &Tensor, _positions_BT: &Tensor, mask_BT: Option<&Tensor>) -> Result<Tensor> {
        self.hidden(ids_BT, mask_BT)
    }
}

/// Sizes of a backbone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dimensions {
    /// Numbers in a hidden state.
    pub(super) hidden: i64,
    /// Rows of the embedding table.
    pub(super) vocab: i64,
    /// The longest text, in tokens, that there are positions for.
    pub(super) positions: usize,
}

/// What a backbone is made from.
pub(super) struct Source<'a> {
    /// `config.json`.
    pub(super) config: &'a Path,
    pub(super) weights: Rc<Weights>,
    pub(super) device: Device,
    /// Format of the matrix products.
    pub(super) kind: Kind,
    /// How its states will be pooled; it tells which attention is meant where nothing else does.
    pub(super) pooling: Pooling,
    /// The attention asked for.
    pub(super) attention: Option<Attention>,
}

/// [`Backbone::flops`] of layers that are alike: `weights` of one layer's matrices, `width` of all its query heads.
pub(super) fn layer_flops(layers: i64, weights: i64, width: i64, tokens: usize) -> f64 {
    let (layers, weights, width, tokens) = (layers as f64, weights as f64, width as f64, tokens as f64);
    layers * (2.0 * weights * tokens + 4.0 * width * tokens * tokens)
}
