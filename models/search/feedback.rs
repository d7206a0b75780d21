//! Feedback: guesses whose errors add up.
//!
//! A trail is a vector that is decoded greedily round after round. Each time, what the guess left out of the target is
//! added to it: u <- u + gain (v - v of the guess). Where the decoder goes wrong in the same way again and again, its
//! input is moved until it does not, as an integral controller does; guesses beyond the target (`propose.rs`) see the
//! error of one candidate alone. A refining decoder is not needed.
#![allow(non_snake_case)]

use tch::Tensor;

use super::propose::Fresh;
use super::{Search, Text};
use crate::Result;
use crate::generate::{GenerateOptions, Source, Strategy};

/// Gains of a text's trails lie between these, evenly on a logarithmic scale; a single one has the root of their product.
const GAINS: [f64; 2] = [0.4, 1.6];

/// A vector that is decoded again and again.
#[derive(Debug)]
pub(super) struct Trail {
    vector: Vec<f32>,
    /// What it was decoded to.
    text: String,
}

impl Trail {
    /// Adds what the guess left out, and scales to the target's length.
    fn step(&mut self, target: &[f32], guess: &[f32], gain: f64) {
        for ((number, target), guess) in self.vector.iter_mut().zip(target).zip(guess) {
            *number += (gain * f64::from(target - guess)) as f32;
        }
        let scale = length(target) / length(&self.vector).max(1e-12);
        self.vector.iter_mut().for_each(|number| *number = (f64::from(*number) * scale) as f32);
    }
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt()
}

/// Gain of a trail among `count`.
fn gain(place: usize, count: usize) -> f64 {
    let at = if count == 1 { 0.5 } else { place as f64 / (count - 1) as f64 };
    GAINS[0] * (GAINS[1] / GAINS[0]).powf(at)
}

impl Search<'_> {
    /// The next guesses of the open texts' trails. They begin at the target, with the greedy guess at it.
    pub(super) fn feedback(
        &self,
        targets: &[Vec<f32>],
        texts: &mut [Text],
        open: &[usize],
        fresh: &mut Fresh,
    ) -> Result<()> {
        let count = self.options.feedback;
        let (mut steps, mut flat): (Vec<(usize, usize)>, Vec<f32>) = (Vec::new(), Vec::new());
        for &number in open {
            let Text { candidates, trails, .. } = &mut texts[number];
            if trails.is_empty() {
                let greedy = candidates.get(0).1.to_owned();
                trails.extend(
                    (0..count).map(|_| Trail { vector: targets[number].clone(), text: greedy.clone() }),
                );
            }
            for (place, trail) in trails.iter_mut().enumerate() {
                let Some(guess) = candidates.vector_of(&trail.text) else { continue };
                trail.step(&targets[number], guess, gain(place, count));
                flat.extend(&trail.vector);
                steps.push((number, place));
            }
        }
        if steps.is_empty() {
            return Ok(());
        }
        let device = self.inverter.store.device();
        let u_ND = Tensor::f_from_slice(&flat)?.f_view([steps.len() as i64, -1])?.f_to_device(device)?;
        let options = GenerateOptions { strategy: Strategy::Greedy, ..self.options.generate.clone() };
        let found = self.inverter.invert_from(&Source::vectors(&u_ND), &options)?;
        for ((number, place), mut guesses) in steps.into_iter().zip(found) {
            if let Some(guess) = guesses.pop() {
                texts[number].trails[place].text.clone_from(&guess.text);
                fresh.entry(number).or_default().push(guess);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_again_weighs_more_each_time() {
        let target = [0.6f32, 0.8, 0.0];
        let mut trail = Trail { vector: target.to_vec(), text: String::new() };
        let guess = [1.0f32, 0.0, 0.0];
        let mut shares = Vec::new();
        for _ in 0..4 {
            trail.step(&target, &guess, 0.5);
            assert!((length(&trail.vector) - 1.0).abs() < 1e-6);
            shares.push(trail.vector[0]);
        }
        // what the guess has too much of becomes less and less
        assert!(shares.windows(2).all(|pair| pair[1] < pair[0]) && shares[0] < 0.6, "{shares:?}");
        let still = trail.vector.clone();
        // a guess at the target moves nothing
        trail.step(&target, &target, 0.5);
        assert!(trail.vector.iter().zip(&still).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn gains_are_spread() {
        assert!((gain(0, 1) - 0.8).abs() < 1e-12);
        assert_eq!((gain(0, 3), gain(2, 3)), (0.4, 1.6));
        assert!((gain(1, 3) - 0.8).abs() < 1e-12);
    }
}
