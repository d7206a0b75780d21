//! Where to compute, and in which number format.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};
use torch_ext::c10d::Place;

use crate::error::{Error, Result};

/// Where to compute: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceChoice {
    /// As [`DeviceChoice::Gpu`] where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU, or this process's own where several share a machine.
    Gpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The device itself. Where the GPU is left open, one of several processes under torchrun's variables
    /// ([`Place::read`]) has that of its `LOCAL_RANK`, or the only one that it sees (`CUDA_VISIBLE_DEVICES`).
    ///
    /// # Errors
    /// [`Error::Device`] where the GPU asked for is not there, or a process has none of its own.
    pub fn resolve(self) -> Result<Device> {
        if self == Self::Cpu {
            return Ok(Device::Cpu);
        }
        let library = torch_ext::load_cuda();
        let found = if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 };
        match (self, found) {
            (Self::Auto, ..=0) => Ok(Device::Cpu),
            (_, ..=0) => Err(self.missing(format!("no CUDA device is to be had ({library:?})"))),
            (Self::Cuda(_), _) | (_, 1) => self.among(found as usize, 0, 1),
            _ => {
                let place = Place::read(|name| std::env::var(name).ok())?;
                let (process, processes) = place.map_or((0, 1), |place| (place.local_rank, place.local_size));
                self.among(found as usize, process, processes)
            }
        }
    }

    /// The GPU of process number `process` of `processes` on a machine, which sees `found` of them, at least one.
    fn among(self, found: usize, process: usize, processes: usize) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(n) if n < found => Ok(Device::Cuda(n)),
            Self::Cuda(_) => Err(self.missing(format!("this machine has {found} CUDA devices"))),
            _ if found == 1 => Ok(Device::Cuda(0)),
            _ if process < found => Ok(Device::Cuda(process)),
            _ => Err(self.missing(format!(
                "there is none for process {process} of {processes} on this machine, which has {found} CUDA devices; \
                 start at most so many, or compute on the CPU"
            ))),
        }
    }

    fn missing(self, reason: String) -> Error {
        Error::Device { choice: self.to_string(), reason }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Gpu => f.write_str("cuda"),
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
            "cuda" => Ok(Self::Gpu),
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
        for word in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(word.parse::<DeviceChoice>().unwrap().to_string(), word);
        }
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

    #[test]
    fn each_process_of_a_machine_has_a_gpu_of_its_own() {
        for choice in [DeviceChoice::Auto, DeviceChoice::Gpu] {
            assert_eq!(choice.among(8, 0, 1).unwrap(), Device::Cuda(0));
            assert_eq!(choice.among(4, 3, 4).unwrap(), Device::Cuda(3));
            // a launcher that shows each process its own alone
            assert_eq!(choice.among(1, 3, 4).unwrap(), Device::Cuda(0));
            let refused = choice.among(2, 3, 4).unwrap_err().to_string();
            assert!(refused.contains("process 3 of 4") && refused.contains("2 CUDA devices"), "{refused}");
        }
        assert_eq!(DeviceChoice::Cpu.among(4, 3, 4).unwrap(), Device::Cpu);
        // what was asked for by its number stays
        assert_eq!(DeviceChoice::Cuda(1).among(4, 3, 4).unwrap(), Device::Cuda(1));
        assert!(DeviceChoice::Cuda(4).among(4, 3, 4).is_err());
    }
}
