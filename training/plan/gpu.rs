//! The GPUs that a plan is reckoned for, by their data sheets.

use std::fmt;
use std::str::FromStr;

use models::Dtype;
use serde::Serialize;
use tch::Kind;

/// A GPU whose memory and speed are known from NVIDIA's data sheets (H100 and H200 Tensor Core GPU, SXM).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gpu {
    /// H200 SXM, 141 GB.
    #[default]
    H200,
    /// H100 SXM, 80 GB.
    H100,
}

impl Gpu {
    /// All of them, the largest first.
    pub const ALL: [Self; 2] = [Self::H200, Self::H100];

    /// Bytes of its memory; the data sheet's GB are taken as 10^9 bytes.
    pub fn memory(self) -> u64 {
        match self {
            Self::H200 => 141_000_000_000,
            Self::H100 => 80_000_000_000,
        }
    }

    /// Operations a second at most, of dense matrix products: 989 TFLOP/s in bf16 (the data sheets' 1,979 are with
    /// sparsity), 67 TFLOP/s in f32, which libtorch does not replace by TF32 unless told to. Both GPUs have one chip.
    pub fn peak(self, kind: Kind) -> f64 {
        if kind == Kind::Float { 67e12 } else { 989e12 }
    }

    /// The type of the matrix products on it.
    pub(super) fn kind(dtype: Dtype) -> Kind {
        if dtype == Dtype::F32 { Kind::Float } else { Kind::BFloat16 }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H200 => "H200",
            Self::H100 => "H100",
        })
    }
}

impl FromStr for Gpu {
    type Err = models::Error;

    fn from_str(word: &str) -> models::Result<Self> {
        Self::ALL.into_iter().find(|gpu| gpu.to_string().eq_ignore_ascii_case(word)).ok_or_else(|| {
            models::Error::Parse { what: "gpu", value: word.to_owned(), expected: "h200 or h100" }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for gpu in Gpu::ALL {
            let word = serde_json::to_value(gpu).unwrap();
            assert_eq!(word.as_str().unwrap().parse::<Gpu>().unwrap(), gpu);
        }
        assert!("h300".parse::<Gpu>().unwrap_err().to_string().contains("h200"));
    }
}
