//! The last choice: among the nearest candidates, the one that the decoder would write.
//!
//! An encoder hardly minds a word too many or in a wrong place, so that the nearest of a hundred candidates is often no
//! sentence, and nearly always too long. The decoder minds. By Bayes' rule a text x is as likely as p(x | v), the decoder's
//! probability, times how likely its vector would lie so far from the target. How exact a search can be differs from text
//! to text; for an error of unknown size the second factor is a power of the distance, which makes the score of a text
//!
//!   -ln(1 - cosine) + weight ln p(x | v)
//!
//! Where a text is found but for a word, much probability outweighs little distance; the text itself, at a distance of
//! nothing, outweighs all. The weight was tuned on texts that were neither trained on nor reported (docs/experiments.md).
#![allow(non_snake_case)]

use tch::Tensor;

use super::{Search, Text};
use crate::Result;
use crate::generate::{Source, read};

/// The share of a text's candidates that the decoder reads, the nearest ones; reading one costs what encoding it does.
const READ: f64 = 0.25;

/// How many of them it reads at least, and at most.
const FEWEST: usize = 4;
const MOST: usize = 32;

/// What encoders in bf16 tell apart: distances below it are one.
const RESOLUTION: f64 = 1e-4;

impl Search<'_> {
    /// Chooses the text to return for each of `texts` that has several candidates.
    pub(super) fn choose(&self, v_ND: &Tensor, texts: &mut [Text]) -> Result<()> {
        let (mut places, mut ids): (Vec<(usize, usize)>, Vec<Vec<u32>>) = (Vec::new(), Vec::new());
        for (number, text) in texts.iter().enumerate() {
            let count = (text.candidates.len() as f64 * READ) as usize;
            let nearest = text.candidates.best(count.clamp(FEWEST, MOST));
            // a single one has no rival; one that is found wins anyway
            if nearest.len() < 2 || text.candidates.best_cosine() >= 1.0 - self.options.epsilon {
                continue;
            }
            for candidate in nearest {
                places.push((number, candidate));
                ids.push(self.inverter.vocabulary.encode(text.candidates.get(candidate).1)?);
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let rows: Vec<i64> = places.iter().map(|&(number, _)| number as i64).collect();
        let target_ND = v_ND.f_index_select(0, &Tensor::f_from_slice(&rows)?.f_to_device(v_ND.device())?)?;
        let borrowed: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let (decoder, options) = (&self.inverter.decoder, &self.options.generate);
        let readings = read(decoder, &Source::vectors(&target_ND), &borrowed, 0, options)?;
        let mut best: Vec<Option<f64>> = vec![None; texts.len()];
        for ((number, candidate), reading) in places.into_iter().zip(readings) {
            let candidates = &mut texts[number].candidates;
            let log_prob = reading.log_prob();
            let score = score(candidates.cosine(candidate), log_prob, self.options.prior);
            // the nearest comes first: of equals it stays
            if best[number].is_none_or(|best| score > best) {
                best[number] = Some(score);
                candidates.choose(candidate, log_prob);
            }
        }
        Ok(())
    }
}

fn score(cosine: f64, log_prob: f64, weight: f64) -> f64 {
    weight * log_prob - ((1.0 - cosine).max(0.0) + RESOLUTION).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probability_outweighs_little_distance_and_the_text_itself_all() {
        let weight = 0.01;
        // a word too many brings it nearer by a tenth, and costs 20 nats
        assert!(score(0.90, -30.0, weight) > score(0.91, -50.0, weight));
        assert!(score(0.90, -30.0, weight) < score(0.95, -50.0, weight));
        // the text itself, however odd
        assert!(score(1.0, -300.0, weight) > score(0.99, -10.0, weight));
        assert!(score(1.0 + 1e-12, -3.0, weight).is_finite());
    }
}
