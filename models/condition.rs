//! What texts are decoded from.
#![allow(non_snake_case)]

use tch::{Device, Tensor};

use crate::Result;

/// Target vectors, and where guesses are refined the vectors of those.
#[derive(Debug)]
pub struct Condition {
    /// The vectors whose texts are wanted, (B, dim) f32.
    pub v_BD: Tensor,
    /// The vectors of the hypotheses that are refined, (B, dim) f32; `None` for first guesses.
    pub hypothesis_BD: Option<Tensor>,
    /// How noisy each target is: the standard deviation of what was added to each of its numbers, (B) f32; `None` where
    /// all are clean.
    pub noise_B: Option<Tensor>,
    /// Tokens of each text, EOS not counted, (B) f32; 0 where that is left open, `None` where it is for all.
    pub length_B: Option<Tensor>,
    /// Rows whose target is withheld, (B) bool, as for guidance; `None` for none.
    pub withheld_B: Option<Tensor>,
}

impl Condition {
    /// First guesses at vectors (B, dim).
    pub fn first(v_BD: &Tensor) -> Self {
        Self {
            v_BD: v_BD.shallow_clone(),
            hypothesis_BD: None,
            noise_B: None,
            length_B: None,
            withheld_B: None,
        }
    }

    /// Refinements of hypotheses with vectors (B, dim).
    pub fn refinement(v_BD: &Tensor, hypothesis_BD: Tensor) -> Self {
        Self { hypothesis_BD: Some(hypothesis_BD), ..Self::first(v_BD) }
    }

    /// Number of texts.
    pub fn len(&self) -> i64 {
        self.v_BD.size().first().copied().unwrap_or(0)
    }

    /// Whether there is nothing to decode.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same on a device; no copy where it is there already.
    ///
    /// # Errors
    /// libtorch's own (out of memory), here and in all that follows.
    pub fn to_device(&self, device: Device) -> Result<Self> {
        self.map(|tensor| Ok(torch_ext::send(tensor, device)?))
    }

    /// `length` rows from `start` on (views).
    ///
    /// # Errors
    /// libtorch's own: rows that are not there.
    pub fn narrow(&self, start: i64, length: i64) -> Result<Self> {
        self.map(|tensor| Ok(tensor.f_narrow(0, start, length)?))
    }

    /// The rows of these numbers (i64), in their order.
    ///
    /// # Errors
    /// libtorch's own: rows that are not there.
    pub fn select(&self, rows: &Tensor) -> Result<Self> {
        self.map(|tensor| Ok(tensor.f_index_select(0, rows)?))
    }

    fn map(&self, of: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let optional = |tensor: &Option<Tensor>| tensor.as_ref().map(&of).transpose();
        Ok(Self {
            v_BD: of(&self.v_BD)?,
            hypothesis_BD: optional(&self.hypothesis_BD)?,
            noise_B: optional(&self.noise_B)?,
            length_B: optional(&self.length_B)?,
            withheld_B: optional(&self.withheld_B)?,
        })
    }
}
