//! Near duplicates by MinHash and locality-sensitive hashing.
//!
//! Two texts are compared as sets of shingles (runs of characters of the normal form). The share of equal minima under
//! many hash functions estimates the Jaccard similarity of the sets (Broder, "On the resemblance and containment of
//! documents", 1997). The minima are cut into `b` bands of `r`; texts with similarity `s` share at least one band with
//! probability `1 - (1 - s^r)^b` (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.4). `b` and `r`
//! are chosen so that this curve errs least about the threshold.

use serde::{Deserialize, Serialize};

use super::duplicates::normal_form;
use crate::{Error, Result};

/// `[curation.near_duplicates]` of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicatesConfig {
    /// Jaccard similarity of the shingles from which two texts are near duplicates.
    pub threshold: f64,
    /// Characters of a shingle: 5 suits sentences, 9 and more suits pages.
    pub shingle: usize,
    /// Hash functions: more of them draw the line more sharply and cost more time.
    pub permutations: usize,
}

impl Default for NearDuplicatesConfig {
    fn default() -> NearDuplicatesConfig {
        NearDuplicatesConfig { threshold: 0.8, shingle: 5, permutations: 128 }
    }
}

impl NearDuplicatesConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let wrong = |key: &str, value: String, reason: &str| {
            Err(Error::Setting {
                key: format!("curation.near_duplicates.{key}"),
                value,
                reason: reason.into(),
            })
        };
        if !(self.threshold > 0.0 && self.threshold < 1.0) {
            return wrong("threshold", self.threshold.to_string(), "a similarity lies between 0 and 1");
        }
        if self.shingle == 0 {
            return wrong("shingle", "0".into(), "a shingle needs characters");
        }
        if !(8..=1024).contains(&self.permutations) {
            return wrong(
                "permutations",
                self.permutations.to_string(),
                "8 to 1024 hash functions are of use",
            );
        }
        Ok(())
    }
}

/// The hash functions and the bands.
#[derive(Clone, Debug)]
pub struct MinHash {
    shingle: usize,
    /// Multiplier (odd) and addend of each hash function.
    functions: Vec<(u64, u64)>,
    bands: usize,
    rows: usize,
}

impl MinHash {
    /// The functions are the same on every machine and in every run.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(config: &NearDuplicatesConfig) -> Result<MinHash> {
        config.validate()?;
        let (bands, rows) = bands_for(config.threshold, config.permutations);
        let functions = (0..(bands * rows) as u64).map(|i| (mix(2 * i + 1) | 1, mix(2 * i + 2))).collect();
        Ok(MinHash { shingle: config.shingle, functions, bands, rows })
    }

    /// Number of bands and of minima in a band.
    pub fn layout(&self) -> (usize, usize) {
        (self.bands, self.rows)
    }

    /// The minimum of each hash function over the text's shingles.
    pub fn signature(&self, text: &str) -> Vec<u32> {
        let form = normal_form(text);
        let starts: Vec<usize> = form.char_indices().map(|(at, _)| at).chain([form.len()]).collect();
        let mut minima = vec![u32::MAX; self.functions.len()];
        // a text shorter than a shingle is one
        let last = starts.len().saturating_sub(self.shingle).max(1);
        for i in 0..last {
            let end = starts.get(i + self.shingle).copied().unwrap_or(form.len());
            let hash = fnv(&form.as_bytes()[starts[i]..end]);
            for (minimum, &(a, b)) in minima.iter_mut().zip(&self.functions) {
                // multiply-shift (Dietzfelbinger et al. 1997): the upper half of a x + b
                let value = (hash.wrapping_mul(a).wrapping_add(b) >> 32) as u32;
                *minimum = value.min(*minimum);
            }
        }
        minima
    }

    /// A hash of each band, the band's number in it: texts that share one are near duplicates.
    pub fn bands(&self, text: &str) -> Vec<u64> {
        let signature = self.signature(text);
        let hash = |(number, band): (usize, &[u32])| {
            band.iter().fold(mix(number as u64), |hash, &minimum| mix(hash ^ u64::from(minimum)))
        };
        signature.chunks_exact(self.rows).enumerate().map(hash).collect()
    }
}

/// The estimated Jaccard similarity of two texts, from their signatures.
#[cfg(test)]
fn similarity(a: &[u32], b: &[u32]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

/// Bands and rows with the least area between the curve and the step at the threshold (as datasketch does, false
/// positives and false negatives weighing the same).
fn bands_for(threshold: f64, permutations: usize) -> (usize, usize) {
    const STEPS: usize = 200;
    let mut best = (f64::INFINITY, (1, permutations));
    for rows in 1..=permutations {
        let bands = permutations / rows;
        let error: f64 = (0..STEPS)
            .map(|step| {
                let s = (step as f64 + 0.5) / STEPS as f64;
                let found = 1.0 - (1.0 - s.powi(rows as i32)).powi(bands as i32);
                if s < threshold { found } else { 1.0 - found }
            })
            .sum();
        if error < best.0 {
            best = (error, (bands, rows));
        }
    }
    best.1
}

/// FNV-1a with a final mix.
fn fnv(bytes: &[u8]) -> u64 {
    mix(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn jaccard(a: &str, b: &str, shingle: usize) -> f64 {
        let set = |text: &str| -> HashSet<Vec<char>> {
            normal_form(text).chars().collect::<Vec<_>>().windows(shingle).map(<[char]>::to_vec).collect()
        };
        let (a, b) = (set(a), set(b));
        a.intersection(&b).count() as f64 / a.union(&b).count() as f64
    }

    #[test]
    fn signatures_estimate_the_jaccard_similarity() {
        let minhash =
            MinHash::new(&NearDuplicatesConfig { permutations: 1024, ..Default::default() }).unwrap();
        let a = "A man in a blue shirt is standing on a ladder cleaning a window of the house.";
        for b in [
            a,
            "A man in a blue shirt is standing on a ladder cleaning the window of a house.",
            "A man in a red shirt is sitting on a bench near the window of the house.",
            "Two dogs run over the snow.",
        ] {
            let estimate = similarity(&minhash.signature(a), &minhash.signature(b));
            let exact = jaccard(a, b, 5);
            // four standard errors of the estimate
            assert!((estimate - exact).abs() < 4.0 * (0.25f64 / 900.0).sqrt(), "{estimate} {exact}: {b}");
        }
    }

    #[test]
    fn the_curve_turns_at_the_threshold() {
        for threshold in [0.5, 0.7, 0.8, 0.9] {
            let (bands, rows) = bands_for(threshold, 128);
            assert!(bands * rows <= 128);
            let found = |s: f64| 1.0 - (1.0 - s.powi(rows as i32)).powi(bands as i32);
            assert!(found(threshold - 0.2) < 0.1, "{threshold}: {bands} x {rows}");
            assert!(found((threshold + 0.15).min(0.99)) > 0.9, "{threshold}: {bands} x {rows}");
        }
    }

    #[test]
    fn near_texts_share_a_band_and_others_do_not() {
        let minhash = MinHash::new(&NearDuplicatesConfig::default()).unwrap();
        let shares = |a: &str, b: &str| {
            let a: HashSet<u64> = minhash.bands(a).into_iter().collect();
            minhash.bands(b).iter().any(|band| a.contains(band))
        };
        let long = "The quick brown fox jumps over the lazy dog while seven wizards boil five dozen liquor jugs at home";
        assert!(shares(long, &long.to_uppercase()));
        assert!(shares(long, &format!("{long}s!")));
        assert!(!shares(
            long,
            "A wing in a slipstream was studied in order to find the distribution of the lift"
        ));
        assert!(!minhash.bands("").is_empty());
    }
}
