//! Neighbours: texts that are one token away from a candidate, the likeliest of them for the decoder.
//!
//! The decoder reads a candidate as it stands and says of each place what else it would have expected there: another
//! token, one more, or the next one at once. The changes that gain most in their place are then read in full, since what
//! follows must go with them. What a candidate has wrong is often a single word; and since each neighbour differs from
//! it in one place, what each change does to the vector is known, which recombination makes use of.
#![allow(non_snake_case)]

use std::collections::HashSet;

use tch::Tensor;

use super::Search;
use super::candidates::Candidates;
use super::propose::{Decode, Fresh, Round, targets};
use crate::Result;
use crate::generate::{Reading, Source, read};
use crate::inverter::Inverted;

/// Tokens that are tried in each place.
const TRIED: usize = 4;

/// Changes that are read in full, of each that is wanted.
const READ: usize = 3;

/// A text that is one token away from a hypothesis.
struct Neighbour {
    /// Position of the hypothesis among those that were read.
    of: usize,
    ids: Vec<u32>,
    text: String,
}

impl Search<'_> {
    /// Adds up to `count` neighbours of each hypothesis that its text has not met yet, the likeliest first.
    pub(super) fn neighbours(
        &self,
        at: &Round<'_>,
        decodes: &[Decode],
        count: usize,
        fresh: &mut Fresh,
    ) -> Result<()> {
        let (decoder, generate) = (&self.inverter.decoder, &self.options.generate);
        let ids = at.known(decodes).map(|(_, text)| self.inverter.vocabulary.encode(text));
        let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
        let target_ND = targets(at.v_ND, decodes)?;
        let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let readings = read(decoder, &Source::vectors(&target_ND), &texts, TRIED, generate)?;
        let mut promising: Vec<Neighbour> = Vec::new();
        for (of, (decode, reading)) in decodes.iter().zip(&readings).enumerate() {
            let candidates = &at.texts[decode.text].candidates;
            promising.extend(self.promising(of, &ids[of], reading, READ * count, candidates)?);
        }
        let rows: Vec<i64> = promising.iter().map(|neighbour| neighbour.of as i64).collect();
        let rows = Tensor::f_from_slice(&rows)?.f_to_device(target_ND.device())?;
        let texts: Vec<&[u32]> = promising.iter().map(|neighbour| neighbour.ids.as_slice()).collect();
        let target_ND = target_ND.f_index_select(0, &rows)?;
        let readings = read(decoder, &Source::vectors(&target_ND), &texts, 0, generate)?;
        let mut own: Vec<Vec<(f64, Inverted)>> = vec![Vec::new(); decodes.len()];
        for (Neighbour { of, ids, text }, reading) in promising.into_iter().zip(readings) {
            let (log_prob, tokens) = (reading.log_prob(), ids.len());
            let nothing = Inverted::nothing();
            let inverted = Inverted { text, log_prob: Some(log_prob), tokens, finished: true, ..nothing };
            own[of].push((log_prob, inverted));
        }
        for (decode, mut own) in decodes.iter().zip(own) {
            own.sort_by(|a, b| b.0.total_cmp(&a.0));
            let best = own.into_iter().take(count).map(|(_, inverted)| inverted);
            fresh.entry(decode.text).or_default().extend(best);
        }
        Ok(())
    }

    /// The changes of a hypothesis that gain most in their place, up to `count` new texts.
    fn promising(
        &self,
        of: usize,
        ids: &[u32],
        reading: &Reading,
        count: usize,
        candidates: &Candidates,
    ) -> Result<Vec<Neighbour>> {
        let config = self.inverter.decoder.config();
        let most = self.options.generate.max_tokens.min(config.max_tokens as usize);
        let marks = [config.bos_token_id, config.eos_token_id, config.pad_token_id];
        let mut made = HashSet::new();
        let mut found = Vec::new();
        for change in changes(reading, &marks, self.inverter.vocabulary.size()) {
            // with EOS it must fit
            if matches!(change, Change::Insert(..)) && ids.len() + 2 > most {
                continue;
            }
            let ids = change.apply(ids);
            let text = self.inverter.vocabulary.decode(&ids)?;
            if !candidates.has(&text) && made.insert(text.clone()) {
                found.push(Neighbour { of, ids, text });
                if found.len() == count {
                    break;
                }
            }
        }
        Ok(found)
    }
}

/// One token more, less or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Replace(usize, u32),
    Insert(usize, u32),
    Delete(usize),
}

impl Change {
    fn apply(self, ids: &[u32]) -> Vec<u32> {
        let mut ids = ids.to_vec();
        match self {
            Self::Replace(place, token) => ids[place] = token,
            Self::Insert(place, token) => ids.insert(place, token),
            Self::Delete(place) => {
                ids.remove(place);
            }
        }
        ids
    }
}

/// All changes, those first whose token is the more probable in its place, against the one that stands there. Marks, such as
/// BOS, and what lies behind the vocabulary's last token are no text.
fn changes(reading: &Reading, marks: &[i64], vocabulary: usize) -> Vec<Change> {
    let mut found: Vec<(f32, Change)> = Vec::new();
    for (place, (own, best)) in reading.own.iter().zip(&reading.best).enumerate() {
        let is_end = place + 1 == reading.own.len();
        for &(token, log_prob) in best {
            let (gain, id) = (log_prob - own, token as u32);
            // the token that stands there gains nothing
            if marks.contains(&token) || token >= vocabulary as i64 || gain == 0.0 {
                continue;
            }
            found.push((gain, Change::Insert(place, id)));
            if !is_end {
                found.push((gain, Change::Replace(place, id)));
            }
        }
        if let Some(next) = reading.next.get(place) {
            found.push((next - own, Change::Delete(place)));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, change)| change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_by_what_they_gain_in_their_place() {
        // "a b": 7 would rather stand in the place of b, and then the end
        let reading = Reading {
            own: vec![-0.1, -3.0, -0.2],
            next: vec![-4.0, -1.5],
            best: vec![vec![(5, -0.1), (6, -3.1)], vec![(7, -0.2), (9, -1.0), (40, -1.1)], vec![(9, -0.2)]],
        };
        let found = changes(&reading, &[9], 40);
        assert_eq!(found[..2], [Change::Insert(1, 7), Change::Replace(1, 7)]);
        assert_eq!(
            found[2..],
            [Change::Delete(1), Change::Insert(0, 6), Change::Replace(0, 6), Change::Delete(0)]
        );
        assert_eq!(Change::Insert(1, 7).apply(&[5, 8]), [5, 7, 8]);
        assert_eq!(Change::Replace(1, 7).apply(&[5, 8]), [5, 7]);
        assert_eq!(Change::Delete(0).apply(&[5, 8]), [8]);
    }
}
