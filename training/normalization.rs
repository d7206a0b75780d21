//! Center and spread of each number of the training vectors, with which the decoder's input is normalised.

use std::sync::Arc;

use data::pairs::PairSet;
use models::ParamStore;
use tch::Tensor;

use crate::Result;
use crate::prepare::Prepared;
use crate::recipe::{InputNormalization, Recipe};

/// Vectors that are looked at, of all prompts together.
const MOST_VECTORS: usize = 100_000;

/// Numbers of a vector that are looked at together: what bounds the memory.
const COLUMNS: usize = 32;

/// Widths of the quartiles of a normal distribution times this are its standard deviation.
const QUARTILES_TO_DEVIATION: f64 = 0.7413;

/// A spread below this share of the typical one counts as this: a number that never changes must not become infinite.
const LEAST_SPREAD: f64 = 1e-3;

/// Fits the input normalisation that a recipe asks for to the training vectors and puts it into the buffers of the
/// decoder in `store`; nothing where it asks for none. The same on all ranks, as their pairs are.
///
/// # Errors
/// Buffers that the store lacks; libtorch's own.
pub(crate) fn fit_input(recipe: &Recipe, prepared: &Prepared, store: &ParamStore) -> Result<()> {
    let how = recipe.decoder.input_normalization;
    if how == InputNormalization::None {
        return Ok(());
    }
    let rows = sample(prepared, MOST_VECTORS);
    let (mean, scale) = fit(&prepared.pairs, &rows, how);
    store.set_buffer("projector.input.mean", &Tensor::f_from_slice(&mean)?)?;
    Ok(store.set_buffer("projector.input.scale", &Tensor::f_from_slice(&scale)?)?)
}

/// Rows of evenly drawn training texts, each under all prompts, at most `most`. Their order is a shuffle already.
fn sample(prepared: &Prepared, most: usize) -> Vec<u32> {
    let prompts = prepared.pairs.space().prompts().count().max(1);
    let rows: Vec<u32> = (0..prepared.train.len() as u32).map(|text| prepared.train.row(text)).collect();
    let stride = rows.len().div_ceil(prompts).div_ceil((most / prompts).max(1)).max(1);
    rows.chunks(prompts).step_by(stride).flatten().copied().collect()
}

/// (mean, scale) of each number: x becomes (x - mean) scale.
fn fit(pairs: &Arc<PairSet>, rows: &[u32], how: InputNormalization) -> (Vec<f32>, Vec<f32>) {
    let dim = pairs.dim();
    let mut vector = vec![0f32; dim];
    let (mut centers, mut spreads) = (Vec::with_capacity(dim), Vec::with_capacity(dim));
    for start in (0..dim).step_by(COLUMNS) {
        let end = dim.min(start + COLUMNS);
        let mut columns = vec![Vec::with_capacity(rows.len()); end - start];
        for &row in rows {
            pairs.vector_into(row as usize, &mut vector);
            columns.iter_mut().zip(&vector[start..end]).for_each(|(column, &x)| column.push(x));
        }
        for column in &mut columns {
            let (center, spread) = center_and_spread(column, how);
            centers.push(center as f32);
            spreads.push(spread);
        }
    }
    (centers, scales(&spreads))
}

/// Mean and standard deviation; or, robust against outliers, median and what the quartiles' distance says of it (Barrault
/// et al., "Large Concept Models", arXiv 2412.08821, section 2.2.1). Where the quartiles nearly meet, as most values are
/// alike, the standard deviation says how far the others lie.
fn center_and_spread(values: &mut [f32], how: InputNormalization) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let deviation = (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count).sqrt();
    if how != InputNormalization::Robust {
        return (mean, deviation);
    }
    values.sort_unstable_by(f32::total_cmp);
    let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(values, share));
    let spread = QUARTILES_TO_DEVIATION * (high - low);
    (median, if spread < 0.01 * deviation { deviation } else { spread })
}

/// Between the two nearest of sorted values, as numpy's `quantile` has it; 0 of none.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let low = place as usize;
    let [a, b] = [low, last.min(low + 1)].map(|at| f64::from(sorted[at]));
    a + (b - a) * (place - low as f64)
}

/// What gives spreads the size 1, but for those that are next to nothing.
fn scales(spreads: &[f64]) -> Vec<f32> {
    let squares = spreads.iter().map(|spread| spread * spread).sum::<f64>();
    let typical = (squares / spreads.len().max(1) as f64).sqrt();
    let scale = |spread: &f64| if typical > 0.0 { 1.0 / spread.max(LEAST_SPREAD * typical) } else { 1.0 };
    spreads.iter().map(|spread| scale(spread) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // numpy.quantile([-2, 0.5, 1, 4, 9], [0.25, 0.5, 0.75, 0.1]) and of [1, 2, 4, 8]
        let sorted = [-2.0, 0.5, 1.0, 4.0, 9.0];
        assert_eq!([0.25, 0.5, 0.75].map(|share| quantile(&sorted, share)), [0.5, 1.0, 4.0]);
        assert!((quantile(&sorted, 0.1) + 1.0).abs() < 1e-12);
        assert_eq!([0.25, 0.5, 0.75].map(|share| quantile(&[1.0, 2.0, 4.0, 8.0], share)), [1.75, 3.0, 5.0]);
        assert_eq!((quantile(&[3.0], 0.75), quantile(&[], 0.5)), (3.0, 0.0));
    }

    #[test]
    fn outliers_move_the_standard_form_and_not_the_robust_one() {
        let mut values: Vec<f32> = (0..1001).map(|i| (i as f32 - 500.0) / 100.0).collect();
        let robust = center_and_spread(&mut values.clone(), InputNormalization::Robust);
        let standard = center_and_spread(&mut values.clone(), InputNormalization::Standard);
        assert!(robust.0.abs() < 1e-9 && (robust.1 - 0.7413 * 5.0).abs() < 1e-6, "{robust:?}");
        // of equally spaced values: the width 10 over the root of 12, and a little
        assert!(standard.0.abs() < 1e-9 && (standard.1 - 2.8896).abs() < 1e-4, "{standard:?}");
        values.push(1e4);
        let moved = center_and_spread(&mut values.clone(), InputNormalization::Standard);
        let kept = center_and_spread(&mut values, InputNormalization::Robust);
        assert!(moved.1 > 100.0 && (kept.1 - robust.1).abs() < 0.01, "{moved:?} {kept:?}");
    }

    #[test]
    fn a_number_without_spread_stays_finite() {
        let mut alike = vec![0.25f32; 50];
        for how in [InputNormalization::Standard, InputNormalization::Robust] {
            assert_eq!(center_and_spread(&mut alike, how), (0.25, 0.0));
        }
        // most are alike: the quartiles meet, the standard deviation does not
        alike.extend([1.25, 2.25]);
        assert!(center_and_spread(&mut alike, InputNormalization::Robust).1 > 0.1);
        let scales = scales(&[0.5, 0.0, 0.25]);
        assert_eq!((scales[0], scales[2]), (2.0, 4.0));
        assert!(scales[1].is_finite() && scales[1] > 1e3, "{scales:?}");
        assert_eq!(super::scales(&[0.0, 0.0]), [1.0, 1.0]);
    }
}
