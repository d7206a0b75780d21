//! What parameters are before training.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use crate::Result;

/// How a parameter is filled before training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Normal with mean 0 and this standard deviation.
    Normal(f64),
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

/// Values that one thread makes at a time; even, as they come in pairs.
const PIECE: usize = 1 << 16;

impl Init {
    /// Values in f32 on the CPU, stacked from parts of so many rows; those of a part depend on the seed and its name
    /// alone.
    pub(crate) fn seeded(self, parts: &[(&str, i64)], shape: &[i64], seed: u64) -> Result<Tensor> {
        let options = (Kind::Float, Device::Cpu);
        let std = match self {
            Init::Zeros => return Ok(Tensor::f_zeros(shape, options)?),
            Init::Ones => return Ok(Tensor::f_ones(shape, options)?),
            Init::Normal(std) => std as f32,
        };
        let total: i64 = shape.iter().product();
        let rows: i64 = parts.iter().map(|(_, rows)| rows).sum();
        let mut values = vec![0.0; total as usize];
        let mut rest = values.as_mut_slice();
        for (name, own) in parts {
            let (part, behind) = rest.split_at_mut((total / rows.max(1) * own) as usize);
            normal(part, std, &stream(seed, name));
            rest = behind;
        }
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    }

    /// Values that are made where they will be, by libtorch's own generator.
    pub(crate) fn on_device(self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        Ok(match self {
            Init::Normal(std) => Tensor::f_randn(shape, (kind, device))?.f_mul_scalar_(std)?,
            Init::Zeros => Tensor::f_zeros(shape, (kind, device))?,
            Init::Ones => Tensor::f_ones(shape, (kind, device))?,
        })
    }
}

/// The random stream of one parameter.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let digest = blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize();
    ChaCha8Rng::from_seed(*digest.as_bytes())
}

/// Normal values by the Box-Muller transform: two numbers of the stream make two values, on all threads.
fn normal(values: &mut [f32], std: f32, stream: &ChaCha8Rng) {
    values.par_chunks_mut(PIECE).enumerate().for_each(|(number, piece)| {
        let mut random = stream.clone();
        random.set_word_pos((number * PIECE) as u128);
        // (0, 1]: the logarithm of 0 never occurs
        let mut uniform = || ((random.next_u32() >> 8) + 1) as f32 / (1u32 << 24) as f32;
        for pair in piece.chunks_mut(2) {
            let (radius, angle) = ((-2.0 * uniform().ln()).sqrt() * std, std::f32::consts::TAU * uniform());
            pair[0] = radius * angle.cos();
            if let Some(second) = pair.get_mut(1) {
                *second = radius * angle.sin();
            }
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn threads_change_no_value() {
        let count = 2 * PIECE as i64 + 3;
        let all = Init::Normal(0.5).seeded(&[("w", count)], &[count], 7).unwrap();
        let mut random = stream(7, "w");
        let mut uniform = || ((random.next_u32() >> 8) + 1) as f32 / (1u32 << 24) as f32;
        let all = Vec::<f32>::try_from(&all).unwrap();
        for pair in all.chunks(2) {
            let (radius, angle) = ((-2.0 * uniform().ln()).sqrt() * 0.5, std::f32::consts::TAU * uniform());
            assert_eq!(pair[0], radius * angle.cos());
            assert!(pair.get(1).is_none_or(|second| *second == radius * angle.sin()));
        }
        let mean = all.iter().sum::<f32>() / count as f32;
        let square = all.iter().map(|value| value * value).sum::<f32>() / count as f32;
        assert!(mean.abs() < 0.01 && (square - 0.25).abs() < 0.01, "{mean} {square}");
    }
}
