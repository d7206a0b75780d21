//! Texts on the whole way: text -> vector -> text' -> vector'.
#![allow(non_snake_case)]

use std::collections::HashMap;
use std::time::Instant;

use models::Embed;
use models::generate::GenerateOptions;
use tch::Tensor;

use crate::Result;
use crate::round_trip::{ENCODE_CHUNK, Invert, Progress, decode, embed};
use crate::strategy::mean;

/// What carries texts there and back.
pub struct Traveller<'a> {
    /// Text -> vector, for texts and for what came back.
    pub encoder: &'a dyn Embed,
    /// Vector -> text.
    pub inverter: &'a dyn Invert,
    /// How the decoder chooses tokens; a search has its own way.
    pub generate: &'a GenerateOptions,
}

/// Both ends of the way, a row a text.
#[derive(Debug)]
pub struct Journey {
    /// Vectors of the texts, (N, dim).
    pub from_ND: Tensor,
    /// What was read out of these vectors.
    pub texts: Vec<String>,
    /// Vectors of that, (N, dim).
    pub to_ND: Tensor,
    /// Re-encodings a text, in the mean.
    pub encodings: f64,
    /// Seconds that the decoding took.
    pub seconds: f64,
}

impl Traveller<'_> {
    /// Takes texts there and back; of equal ones one makes the way for all.
    ///
    /// # Errors
    /// What the encoder or the decoder says.
    pub fn travel(&self, texts: &[String], progress: &mut Progress<'_>) -> Result<Journey> {
        let mut numbers: HashMap<&str, i64> = HashMap::new();
        let mut different: Vec<String> = Vec::new();
        let mut rows: Vec<i64> = Vec::with_capacity(texts.len());
        for text in texts {
            let number = *numbers.entry(text).or_insert_with(|| {
                different.push(text.clone());
                different.len() as i64 - 1
            });
            rows.push(number);
        }
        let chunk = ENCODE_CHUNK * self.inverter.shares();
        let from_ND = embed(self.encoder, &different, chunk, "encode", progress)?;
        let start = Instant::now();
        let inverted = decode(self.inverter, &from_ND, self.generate, progress)?;
        let seconds = start.elapsed().as_secs_f64();
        let encodings = mean(inverted.iter().map(|text| text.encodings as f64));
        let decoded: Vec<String> = inverted.into_iter().map(|text| text.text).collect();
        let to_ND = embed(self.encoder, &decoded, chunk, "reencode", progress)?;
        let index = Tensor::f_from_slice(&rows)?;
        Ok(Journey {
            from_ND: from_ND.f_index_select(0, &index)?,
            texts: rows.iter().map(|&row| decoded[row as usize].clone()).collect(),
            to_ND: to_ND.f_index_select(0, &index)?,
            encodings,
            seconds,
        })
    }
}
