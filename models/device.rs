//! Where to compute, and in which number format.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::error::{Error, Result};

/// Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The choice of one of several processes on a machine: where it is left open and there are GPUs, the GPU of the
    /// process's own number, so that no two share one.
    pub fn of_process(self, local_rank: usize) -> Self {
        if self != Self::Auto || local_rank == 0 {
            return self;
        }
        torch_ext::load_cuda();
        if tch::Cuda::is_available() { Self::Cuda(local_rank) } else { self }
    }

    /// The device itself.
    ///
    /// # Errors
    /// [`Error::Device`] where the GPU asked for is not there.
    pub fn resolve(self) -> Result<Device> {
        if self == Self::Cpu {
            return Ok(Device::Cpu);
        }
        let library = torch_ext::load_cuda();
        let found = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        match self {
            Self::Cuda(n) if (n as i64) < found => Ok(Device::Cuda(n)),
            Self::Cuda(_) => {
                let reason = if found > 0 {
                    format!("this machine has {found} CUDA devices")
                } else {
                    format!("no CUDA device is to be had ({library:?})")
                };
                Err(Error::Device { choice: self.to_string(), reason })
            }
            _ if found > 0 => Ok(Device::Cuda(0)),
            _ => Ok(Device::Cpu),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        let number = |word: &str| word.strip_prefix("cuda:").and_then(|n| n.parse().ok());
        match word {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => number(word).map(Self::Cuda).ok_or_else(|| Error::Parse {
                what: "device",
                value: word.to_owned(),
                expected: "auto, cpu, cuda or cuda:N",
            }),
        }
    }
}

/// The number format of a computation: `auto`, `f32`, `bf16` or `f16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Dtype {
    /// bf16 where the hardware multiplies matrices in it (a GPU, or a CPU with AMX or AVX-512 BF16), else f32.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit floating point.
    F16,
}

impl Dtype {
    /// The format to compute in on a device.
    pub fn resolve(self, device: Device) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
            Self::F16 => Kind::Half,
            Self::Auto if matches!(device, Device::Cuda(_)) => Kind::BFloat16,
            Self::Auto => {
                let cpu = torch_ext::cpu_bf16();
                if cpu.amx_tile || cpu.avx512_bf16 { Kind::BFloat16 } else { Kind::Float }
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for Dtype {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            _ => Err(Error::Parse {
                what: "dtype",
                value: word.to_owned(),
                expected: "auto, f32, bf16 or f16",
            }),
        }
    }
}

/// The word for a format of numbers: `f32`, `bf16`, `f16`, `f64`, or `another`.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "f32",
        Kind::BFloat16 => "bf16",
        Kind::Half => "f16",
        Kind::Double => "f64",
        _ => "another",
    }
}

/// The word for a device: `cpu` or `cuda:N`.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cpu => "cpu".to_owned(),
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

macro_rules! string_serde {
    ($type:ty) => {
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(word: String) -> Result<Self> {
                word.parse()
            }
        }
    };
}
string_serde!(DeviceChoice);
string_serde!(Dtype);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for word in ["auto", "cpu", "cuda:3"] {
            assert_eq!(word.parse::<DeviceChoice>().unwrap().to_string(), word);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for word in ["auto", "f32", "bf16", "f16"] {
            let dtype: Dtype = serde_json::from_str(&format!("\"{word}\"")).unwrap();
            assert_eq!(serde_json::to_string(&dtype).unwrap(), format!("\"{word}\""));
        }
        assert!("gpu".parse::<DeviceChoice>().unwrap_err().to_string().contains("cuda:N"));
        assert!("fp8".parse::<Dtype>().is_err());
        assert!("cuda:-1".parse::<DeviceChoice>().is_err());
    }

    #[test]
    fn explicit_choices_resolve_to_themselves() {
        assert_eq!(DeviceChoice::Cpu.resolve().unwrap(), Device::Cpu);
        assert_eq!(Dtype::F16.resolve(Device::Cpu), Kind::Half);
        let missing = DeviceChoice::Cuda(4096).resolve().unwrap_err();
        assert!(missing.to_string().contains("cuda:4096"), "{missing}");
    }
}
