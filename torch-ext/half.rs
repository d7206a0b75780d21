//! Half precision to f32, and the processor's hint that memory will be read: what a reader of stored vectors does
//! most.

use half::f16;
use half::slice::HalfFloatSliceExt as _;

/// Widens numbers, 16 at a time where the processor has AVX-512. `into` must be of the same length.
#[inline]
pub fn widen(from: &[f16], into: &mut [f32]) {
    assert_eq!(from.len(), into.len(), "numbers to widen, and room for them");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { widen_by_16(from, into) };
    }
    from.convert_to_f32_slice(into);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_by_16(from: &[f16], into: &mut [f32]) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    let (blocks, rest) = from.as_chunks::<16>();
    let (wide_blocks, wide_rest) = into.as_chunks_mut::<16>();
    for (block, wide) in blocks.iter().zip(wide_blocks) {
        // SAFETY: both are 16 numbers, and the instructions ask for no alignment.
        unsafe {
            let numbers = _mm256_loadu_si256(block.as_ptr().cast::<__m256i>());
            _mm512_storeu_ps(wide.as_mut_ptr(), _mm512_cvtph_ps(numbers));
        }
    }
    rest.convert_to_f32_slice(wide_rest);
}

/// Tells the processor that these bytes will be read soon; they are not touched.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is harmless, and this one lies in the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_has_its_f32() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        for length in [0, 5, 16, 37, all.len()] {
            let mut wide = vec![0.0; length];
            prefetch(&[0; 100]);
            widen(&all[..length], &mut wide);
            for (half, wide) in all.iter().zip(&wide) {
                let expected = half.to_f32();
                assert!(
                    wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(),
                    "{half:?}"
                );
            }
        }
    }
}
