//! What more compute would give: a power law through the ends of several trainings.

use serde::Serialize;

/// A number that falls with compute x as `floor + scale * x^-exponent` (Hestness et al., arXiv 1712.00409; Kaplan et
/// al., arXiv 2001.08361): a loss, or what a score lacks of the highest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PowerLaw {
    /// What no compute goes below.
    pub floor: f64,
    /// What is above the floor at x = 1.
    pub scale: f64,
    /// How fast it falls.
    pub exponent: f64,
    /// Root mean square of the differences from the points.
    pub rms: f64,
}

/// Exponents that are tried.
const EXPONENTS: std::ops::RangeInclusive<u32> = 1..=400;

/// Their distance.
const EXPONENT_STEP: f64 = 0.005;

impl PowerLaw {
    /// The law with the least squares through (x, y), x > 0: of each exponent the best floor (0 or above) and scale, of all
    /// exponents the best. `None` for fewer than three different x, or where y does not fall.
    pub fn fit(points: &[(f64, f64)]) -> Option<Self> {
        let mut different: Vec<f64> = points.iter().map(|&(x, _)| x).collect();
        different.sort_by(f64::total_cmp);
        different.dedup();
        if different.len() < 3 || different[0] <= 0.0 {
            return None;
        }
        let laws = EXPONENTS.map(|step| Self::with_exponent(points, f64::from(step) * EXPONENT_STEP));
        laws.filter(|law| law.scale > 0.0).min_by(|a, b| a.rms.total_cmp(&b.rms))
    }

    fn with_exponent(points: &[(f64, f64)], exponent: f64) -> Self {
        let count = points.len() as f64;
        let powers = || points.iter().map(|&(x, y)| (x.powf(-exponent), y));
        let (mean_u, mean_y) =
            (powers().map(|(u, _)| u).sum::<f64>() / count, powers().map(|(_, y)| y).sum::<f64>() / count);
        let covariance: f64 = powers().map(|(u, y)| (u - mean_u) * (y - mean_y)).sum();
        let variance: f64 = powers().map(|(u, _)| (u - mean_u).powi(2)).sum();
        let scale = covariance / variance;
        let floor = mean_y - scale * mean_u;
        let (floor, scale) = if floor >= 0.0 {
            (floor, scale)
        } else {
            let (products, squares): (f64, f64) =
                powers().fold((0.0, 0.0), |(uy, uu), (u, y)| (uy + u * y, uu + u * u));
            (0.0, products / squares)
        };
        let squares: f64 = powers().map(|(u, y)| (floor + scale * u - y).powi(2)).sum();
        Self { floor, scale, exponent, rms: (squares / count).sqrt() }
    }

    /// What it says of an x.
    pub fn at(&self, x: f64) -> f64 {
        self.floor + self.scale * x.powf(-self.exponent)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_law_is_found_again(floor in 0.0..3.0f64, scale in 0.5..5.0f64, exponent in 0.1..1.5f64) {
            let law = PowerLaw { floor, scale, exponent, rms: 0.0 };
            let points: Vec<(f64, f64)> = [4.0, 8.0, 16.0, 32.0, 64.0].map(|x| (x, law.at(x))).to_vec();
            let found = PowerLaw::fit(&points).unwrap();
            for x in [4.0, 64.0, 256.0] {
                prop_assert!((found.at(x) - law.at(x)).abs() < 0.02, "{found:?} {law:?}");
            }
        }
    }

    #[test]
    fn a_law_needs_three_points_that_fall() {
        assert!(PowerLaw::fit(&[(1.0, 3.0), (2.0, 2.0)]).is_none());
        assert!(PowerLaw::fit(&[(1.0, 3.0), (1.0, 2.9), (2.0, 2.0)]).is_none());
        assert!(PowerLaw::fit(&[(1.0, 1.0), (2.0, 2.0), (4.0, 3.0)]).is_none());
        assert!(PowerLaw::fit(&[(0.0, 3.0), (2.0, 2.0), (4.0, 1.0)]).is_none());
        // the floor of what falls without an end in sight is 0, not less
        let straight = PowerLaw::fit(&[(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]).unwrap();
        assert!(straight.floor >= 0.0);
    }
}
