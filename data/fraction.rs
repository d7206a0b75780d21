//! A hash as a number: what decides by share and never by order.

/// The hash as a number from 0 to 1, without the 1.
pub(crate) fn fraction(hash: &blake3::Hash) -> f64 {
    let number = hash.as_bytes()[..8].iter().fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    // 53 bits: as many as a float holds exactly
    (number >> 11) as f64 / (1u64 << 53) as f64
}
