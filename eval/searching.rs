//! A decoder that searches: it encodes its candidates again and keeps the nearest.
#![allow(non_snake_case)]

use models::generate::GenerateOptions;
use models::{Embed, Inverted, Inverter, Search, SearchOptions, Space};
use tch::Tensor;

use crate::result::DecoderRecord;
use crate::round_trip::Invert;

/// An [`Inverter`] with an encoder and a way to search.
pub struct Searching<'a> {
    inverter: &'a Inverter,
    encoder: &'a dyn Embed,
    options: SearchOptions,
}

impl<'a> Searching<'a> {
    /// Puts them together.
    ///
    /// # Errors
    /// Those of [`Search::new`].
    pub fn new(
        inverter: &'a Inverter,
        encoder: &'a dyn Embed,
        options: SearchOptions,
    ) -> models::Result<Self> {
        Search::new(inverter, encoder, &options)?;
        Ok(Self { inverter, encoder, options })
    }
}

impl Invert for Searching<'_> {
    fn space(&self) -> &Space {
        &self.inverter.space
    }

    /// The search's own options say how tokens are chosen; those given are not looked at.
    fn invert(&self, v_ND: &Tensor, first: u64, _: &GenerateOptions) -> models::Result<Vec<Inverted>> {
        Search::new(self.inverter, self.encoder, &self.options)?.run(v_ND, first, &mut |_| {})
    }

    fn search(&self) -> Option<&SearchOptions> {
        Some(&self.options)
    }

    fn record(&self) -> DecoderRecord {
        self.inverter.record()
    }

    fn dtype(&self) -> String {
        Invert::dtype(self.inverter)
    }
}
