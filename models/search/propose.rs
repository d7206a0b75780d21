//! What a search decodes: first guesses, and refinements of the best hypotheses.
#![allow(non_snake_case)]

use std::collections::BTreeMap;

use tch::{Kind, Tensor};

use super::{Search, Text};
use crate::Result;
use crate::generate::{GenerateOptions, Hypotheses, Source, Strategy};
use crate::inverter::Inverted;

/// One thing to decode: a first guess at a text, or a hypothesis of it that is refined.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decode {
    pub(super) text: usize,
    pub(super) parent: Option<usize>,
    /// Its place among those of the text, the best first.
    pub(super) place: usize,
    /// How often the hypothesis has been refined before.
    visit: u32,
}

/// Where a search stands.
pub(super) struct Round<'a> {
    pub(super) v_ND: &'a Tensor,
    pub(super) texts: &'a [Text],
    pub(super) round: usize,
    /// Number of the first text.
    pub(super) first: u64,
}

impl Round<'_> {
    /// Vector and text of each hypothesis.
    pub(super) fn known(&self, decodes: &[Decode]) -> impl Iterator<Item = (&[f32], &str)> {
        decodes.iter().filter_map(|decode| Some(self.texts[decode.text].candidates.get(decode.parent?)))
    }
}

/// New candidates of each text, in the order in which they are worth encoding.
pub(super) type Fresh = BTreeMap<usize, Vec<Inverted>>;

/// How far beyond the target a guess may be at, in distances from hypothesis to target.
const FARTHEST: f64 = 1.0;

/// By how much of that it is farther at each further visit of a hypothesis.
const FARTHER: f64 = 0.5;

/// Cosine that a refinement must have the better chance to gain to be made once more, from the same hypothesis.
const FATIGUE: f64 = 0.02;

impl Search<'_> {
    /// What is decoded in a round: every open text, or its best hypotheses.
    pub(super) fn decodes(&self, texts: &[Text], open: &[usize], round: usize) -> Vec<Decode> {
        if round == 0 {
            return open.iter().map(|&text| Decode { text, parent: None, place: 0, visit: 0 }).collect();
        }
        // what is drawn, how far beyond the target it is guessed, and which neighbours are new differ from visit to visit;
        // all else is the same again
        let differs = self.options.each.samples + self.options.beyond + self.options.neighbours > 0;
        let fatigue = differs.then_some(FATIGUE);
        let of_text = |&text: &usize| {
            let parents = texts[text].candidates.parents(self.options.parents, fatigue);
            let decode = |(place, parent)| {
                let visit = texts[text].candidates.visits(parent);
                Decode { text, parent: Some(parent), place, visit }
            };
            parents.into_iter().enumerate().map(decode).collect::<Vec<_>>()
        };
        open.iter().flat_map(of_text).collect()
    }

    /// First guesses at the texts of `decodes`; `first` is the number of the first text.
    pub(super) fn guess(&self, v_ND: &Tensor, decodes: &[Decode], first: u64) -> Result<Fresh> {
        let numbers = numbers(decodes, 0, first);
        let target_ND = targets(v_ND, decodes)?;
        let source = Source { numbers: Some(&numbers), ..Source::vectors(&target_ND) };
        let mut strategies = self.options.strategies(&self.options.first);
        if self.options.first.beam != 1 {
            // so that a search is never worse than one guess; mostly it is among the beams
            strategies.insert(0, Strategy::Greedy);
        }
        let mut fresh = Fresh::new();
        for strategy in strategies {
            self.decode(&source, strategy, decodes, &mut fresh)?;
        }
        Ok(fresh)
    }

    /// Better texts than the hypotheses of `decodes`: refinements, beams before samples, then guesses beyond the target.
    pub(super) fn improve(&self, at: &Round<'_>, decodes: &[Decode]) -> Result<Fresh> {
        let mut fresh = Fresh::new();
        // beams of a hypothesis are the same at each visit
        let again = self.options.each.samples > 0;
        let chosen = decodes.iter().copied().filter(|decode| again || decode.visit == 0);
        self.refine(at, &chosen.collect::<Vec<_>>(), &mut fresh)?;
        let best: Vec<Decode> = decodes.iter().copied().filter(|decode| decode.place == 0).collect();
        if self.options.neighbours > 0 && !best.is_empty() {
            self.neighbours(at, &best, self.options.neighbours, &mut fresh)?;
        }
        if self.options.beyond == 0 || decodes.is_empty() {
            return Ok(fresh);
        }
        let target_ND = targets(at.v_ND, decodes)?;
        let hypothesis_ND = hypotheses(at, decodes)?;
        for step in 1..=self.options.beyond {
            let share = FARTHEST * step as f64 / self.options.beyond as f64;
            let share_of = |decode: &Decode| (share * (1.0 + FARTHER * f64::from(decode.visit))) as f32;
            let shares: Vec<f32> = decodes.iter().map(share_of).collect();
            let beyond_ND = beyond(&target_ND, &hypothesis_ND, &shares)?;
            self.decode(&Source::vectors(&beyond_ND), Strategy::Greedy, decodes, &mut fresh)?;
        }
        Ok(fresh)
    }

    fn refine(&self, at: &Round<'_>, decodes: &[Decode], fresh: &mut Fresh) -> Result<()> {
        let strategies = self.options.strategies(&self.options.each);
        if strategies.is_empty() || decodes.is_empty() {
            return Ok(());
        }
        let numbers = numbers(decodes, at.round, at.first);
        let target_ND = targets(at.v_ND, decodes)?;
        let hypothesis_ND = hypotheses(at, decodes)?;
        let ids = at.known(decodes).map(|(_, text)| self.inverter.vocabulary.encode(text));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let hypotheses = Hypotheses { v_ND: &hypothesis_ND, ids: &ids };
        let source = Source { v_ND: &target_ND, hypotheses: Some(hypotheses), numbers: Some(&numbers) };
        for strategy in strategies {
            self.decode(&source, strategy, decodes, fresh)?;
        }
        Ok(())
    }

    fn decode(
        &self,
        source: &Source<'_>,
        strategy: Strategy,
        decodes: &[Decode],
        fresh: &mut Fresh,
    ) -> Result<()> {
        let options = GenerateOptions { strategy, ..self.options.generate.clone() };
        let found = self.inverter.invert_from(source, &options)?;
        for (decode, candidates) in decodes.iter().zip(found) {
            fresh.entry(decode.text).or_default().extend(candidates);
        }
        Ok(())
    }
}

/// The vectors whose texts are wanted, one a decode.
pub(super) fn targets(v_ND: &Tensor, decodes: &[Decode]) -> Result<Tensor> {
    let rows: Vec<i64> = decodes.iter().map(|decode| decode.text as i64).collect();
    Ok(v_ND.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(v_ND.device())?)?)
}

/// Numbers that what is drawn follows from: each decode of a search has one of its own.
fn numbers(decodes: &[Decode], round: usize, first: u64) -> Vec<u64> {
    let number = |decode: &Decode| {
        let text = first + decode.text as u64;
        (text << 24) | ((round as u64) << 12) | decode.place as u64
    };
    decodes.iter().map(number).collect()
}

/// The vectors of the hypotheses, one a decode that has one.
fn hypotheses(at: &Round<'_>, decodes: &[Decode]) -> Result<Tensor> {
    let flat: Vec<f32> = at.known(decodes).flat_map(|(vector, _)| vector).copied().collect();
    let dim = at.v_ND.size()[1];
    Ok(Tensor::f_from_slice(&flat)?.f_view([-1, dim])?.f_to_device(at.v_ND.device())?)
}

/// Vectors beyond the targets, seen from the hypotheses, by these shares of the distance, of the targets' lengths: (N,
/// dim) f32. What a guess at the target left out, they lay stress on.
fn beyond(target_ND: &Tensor, hypothesis_ND: &Tensor, shares: &[f32]) -> Result<Tensor> {
    let length = |x_ND: &Tensor| x_ND.f_norm_scalaropt_dim(2.0, [1].as_slice(), true);
    let target_ND = target_ND.f_to_kind(Kind::Float)?;
    let share_N1 = Tensor::f_from_slice(shares)?.f_unsqueeze(1)?.f_to_device(target_ND.device())?;
    let far_ND = target_ND.f_add(&target_ND.f_sub(hypothesis_ND)?.f_mul(&share_N1)?)?;
    Ok(far_ND.f_mul(&length(&target_ND)?.f_div(&length(&far_ND)?.f_clamp_min(1e-12)?)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn beyond_lies_on_the_far_side_of_the_target_at_its_length() {
        let target_ND = Tensor::from_slice(&[3f32, 0., 0., 0., 3., 0.]).view([2, 3]);
        let hypothesis_ND = Tensor::from_slice(&[2f32, 1., 0., 0., 3., 0.]).view([2, 3]);
        let at = |share: f32| beyond(&target_ND, &hypothesis_ND, &[share, share]).unwrap();
        let numbers = |x: &Tensor| Vec::<f32>::try_from(x.reshape([-1])).unwrap();
        let (near, far) = (numbers(&at(0.5)), numbers(&at(2.0)));
        // away from the hypothesis' second number, the more the farther; a hypothesis at the target moves nothing
        assert!(near[1] < -0.1 && far[1] < near[1], "{near:?} {far:?}");
        assert_eq!(far[3..], [0.0, 3.0, 0.0]);
        assert!(
            numbers(&at(2.0).norm_scalaropt_dim(2.0, [1].as_slice(), false))
                .iter()
                .all(|n| (n - 3.0).abs() < 1e-5)
        );
        assert_eq!(numbers(&at(0.0)), numbers(&target_ND));
    }
}
