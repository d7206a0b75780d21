//! The nearest orthogonal matrix, by Newton-Schulz iterations.

use tch::{Kind, Tensor};

use crate::Result;

/// Coefficients of a x + b x^3 + c x^5 (Jordan et al., "Muon", 2024): singular values in (0, 1] come near 1 in five
/// iterations, and stay within 0.68 and 1.13 of where they are.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// A matrix of a smaller norm is divided by this instead, as in torch.optim.Muon.
const LEAST_NORM: f64 = 1e-7;

/// U V^T of each matrix U S V^T, about: (B, rows, columns) f32 -> the same shape in `kind`, in which it is computed.
/// After 5 `iterations` singular values lie between about 0.7 and 1.13, but for those that were very small beside the
/// largest.
///
/// # Errors
/// libtorch's own (out of memory).
pub fn orthogonalize(matrices: &Tensor, iterations: usize, kind: Kind) -> Result<Tensor> {
    let size = matrices.size();
    let is_tall = size[1] > size[2];
    let norms = matrices.f_norm_scalaropt_dim(2.0, [1, 2].as_slice(), true)?.f_clamp_min(LEAST_NORM)?;
    let mut x = matrices.f_div(&norms)?.f_to_kind(kind)?;
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..iterations {
        let transposed = x.f_transpose(1, 2)?;
        // the product with the transpose that is the smaller one; both have the same singular values
        let gram = if is_tall { transposed.f_bmm(&x)? } else { x.f_bmm(&transposed)? };
        let polynomial = gram.f_baddbmm(&gram, &gram, b, c)?;
        x = if is_tall {
            x.f_baddbmm(&x, &polynomial, a, 1.0)?
        } else {
            x.f_baddbmm(&polynomial, &x, a, 1.0)?
        };
    }
    Ok(x)
}
