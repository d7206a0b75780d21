//! Cosine between an input vector and the vector of the text that was decoded from it.

/// The cosine of two vectors of the same length, in double precision whatever their norms; 0 when one is zero.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let (mut dot, mut a_squared, mut b_squared) = (0.0, 0.0, 0.0);
    for (&x, &y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), f64::from(y));
        dot += x * y;
        a_squared += x * x;
        b_squared += y * y;
    }
    let norms = (a_squared * b_squared).sqrt();
    if norms == 0.0 { 0.0 } else { (dot / norms).clamp(-1.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_does_not_count() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!(cosine(&[0.0, 0.0], &[0.0, 3.0]), 0.0);
        assert_eq!(cosine(&[1e-30, 0.0], &[-1e-30, 0.0]), -1.0);
    }
}
