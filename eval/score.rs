//! Scores of two lists of texts, with no model at hand.

use tch::{Device, Kind, Tensor};

use crate::bootstrap::Bootstrap;
use crate::error::{Error, Result};
use crate::metrics::Statistics;
use crate::metrics::cosine::cosine;
use crate::result::Scores;

/// All metrics of hypotheses against their references, with intervals. `cosines`: one for each pair, where known.
///
/// # Errors
/// [`Error::NoTexts`]; [`Error::Unequal`] for lists of different lengths; [`Error::NonFinite`] for a cosine.
pub fn score(
    references: &[String],
    hypotheses: &[String],
    cosines: Option<&[f64]>,
    bootstrap: &Bootstrap,
) -> Result<Scores> {
    Ok(Scores::of(&statistics(references, hypotheses, cosines)?, bootstrap))
}

/// The sufficient statistics of checked lists.
pub(crate) fn statistics(
    references: &[String],
    hypotheses: &[String],
    cosines: Option<&[f64]>,
) -> Result<Statistics> {
    let want = references.len();
    if want == 0 {
        return Err(Error::NoTexts { what: "the references".to_owned() });
    }
    if hypotheses.len() != want {
        return Err(Error::Unequal { what: "hypotheses", got: hypotheses.len(), want });
    }
    if let Some(cosines) = cosines {
        if cosines.len() != want {
            return Err(Error::Unequal { what: "cosines", got: cosines.len(), want });
        }
        if let Some(row) = cosines.iter().position(|cosine| !cosine.is_finite()) {
            return Err(Error::NonFinite { what: "the cosines", row });
        }
    }
    Ok(Statistics::of(references, hypotheses, cosines))
}

/// The cosine of each row of `a_ND` with the same row of `b_ND` (`[N, dim]`, any floating dtype, any device).
///
/// # Errors
/// [`Error::Shape`] where the shapes differ or are not of two dimensions, [`Error::NonFinite`] for NaN or infinity.
#[allow(non_snake_case)]
pub fn cosines(a_ND: &Tensor, b_ND: &Tensor) -> Result<Vec<f64>> {
    let shape = a_ND.size();
    if shape.len() != 2 {
        return Err(Error::Shape {
            what: "the vectors",
            want: vec![shape.first().copied().unwrap_or(0), -1],
            got: shape,
        });
    }
    if b_ND.size() != shape {
        return Err(Error::Shape { what: "the re-encoded vectors", got: b_ND.size(), want: shape });
    }
    let dim = shape[1].max(1) as usize;
    let a = finite(a_ND, dim, "the vectors")?;
    let b = finite(b_ND, dim, "the re-encoded vectors")?;
    Ok(a.chunks_exact(dim).zip(b.chunks_exact(dim)).map(|(a, b)| cosine(a, b)).collect())
}

/// The numbers of a `[N, dim]` tensor, row after row.
pub(crate) fn finite(vectors: &Tensor, dim: usize, what: &'static str) -> Result<Vec<f32>> {
    let flat =
        vectors.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_view([-1])?;
    let numbers = Vec::<f32>::try_from(&flat)?;
    match numbers.iter().position(|number| !number.is_finite()) {
        Some(at) => Err(Error::NonFinite { what, row: at / dim }),
        None => Ok(numbers),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, non_snake_case)]
mod tests {
    use super::*;

    #[test]
    fn cosines_of_rows() {
        let a_ND = Tensor::from_slice(&[1.0f32, 0.0, 3.0, 4.0]).view([2, 2]);
        let b_ND = Tensor::from_slice(&[0.0f64, 2.0, 6.0, 8.0]).view([2, 2]);
        assert_eq!(cosines(&a_ND, &b_ND).unwrap(), [0.0, 1.0]);
        assert!(matches!(cosines(&a_ND, &a_ND.narrow(0, 0, 1)), Err(Error::Shape { .. })));
        let bad_ND = Tensor::from_slice(&[1.0f32, 0.0, f32::NAN, 4.0]).view([2, 2]);
        assert!(matches!(cosines(&a_ND, &bad_ND), Err(Error::NonFinite { row: 1, .. })));
    }

    #[test]
    fn lists_must_fit() {
        let texts = vec!["a".to_owned()];
        let bootstrap = Bootstrap::default();
        assert!(matches!(score(&[], &[], None, &bootstrap), Err(Error::NoTexts { .. })));
        assert!(matches!(score(&texts, &[], None, &bootstrap), Err(Error::Unequal { got: 0, want: 1, .. })));
        assert!(matches!(score(&texts, &texts, Some(&[]), &bootstrap), Err(Error::Unequal { .. })));
        let nan = score(&texts, &texts, Some(&[f64::NAN]), &bootstrap);
        assert!(matches!(nan, Err(Error::NonFinite { row: 0, .. })));
        assert!(nan.unwrap_err().hint().is_some());
    }
}
