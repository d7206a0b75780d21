//! What can go wrong between this project and libtorch.

use std::path::PathBuf;
use std::time::Duration;

use crate::c10d::fault::{Absence, RankFault, ranks_of, seconds};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation that libtorch refused, or that was refused before it could harm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch threw an exception; `message` is its first line and the ones that explain it.
    #[error("libtorch refused {op}: {message}")]
    Torch {
        /// The operation, by libtorch's name.
        op: &'static str,
        /// What the exception said.
        message: String,
    },
    /// The arguments of an operation do not fit together.
    #[error("{op}: {message}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// Which argument and why.
        message: String,
    },
    /// NCCL or CUDA graphs were asked for where they are not there.
    #[error("{reason}")]
    NoCuda {
        /// Why not.
        reason: crate::cuda::NoCuda,
    },
    /// A collective of tensors on a GPU before the processes were joined there.
    #[error("{op}: the tensor is on {device:?}, and the processes are joined on the CPU only")]
    NotAttached {
        /// The collective.
        op: &'static str,
        /// Where the tensor is.
        device: tch::Device,
    },
    /// A file could not be opened or mapped into memory.
    #[error("{}: cannot be mapped into memory: {source}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A tensor would reach past the end of its file.
    #[error("{}: a tensor of {needed} bytes at byte {offset} ends past the file's {length} bytes", path.display())]
    OutOfBounds {
        /// The file.
        path: PathBuf,
        /// Where the tensor begins, in bytes.
        offset: usize,
        /// How many bytes the tensor takes.
        needed: usize,
        /// How many bytes the file has.
        length: usize,
    },
    /// One of torchrun's variables says what cannot be.
    #[error("the variable {name}{}: {reason}", if value.is_empty() { String::new() } else { format!(" is {value:?}") })]
    LaunchVariable {
        /// Its name.
        name: &'static str,
        /// Its value; empty where it is not set.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store through which processes find each other does not answer.
    #[error("the store at {address} does not answer: {message}")]
    Store {
        /// Host and port.
        address: String,
        /// What c10d said.
        message: String,
    },
    /// Some processes did not come to the meeting at the start.
    #[error("{} of {size} did not come to {address} within {}", ranks_of(ranks), seconds(waited))]
    NotJoined {
        /// Those that did not.
        ranks: Vec<usize>,
        /// Number of processes.
        size: usize,
        /// Where the store is.
        address: String,
        /// How long they were waited for.
        waited: Duration,
    },
    /// A collective, or a wait for others, failed by some of the ranks.
    #[error("{0}")]
    Ranks(Box<RankFault>),
    /// A collective failed, and all ranks are there.
    #[error("{op} {number} failed: {message}")]
    Collective {
        /// The collective.
        op: &'static str,
        /// Which one it was, counted from 1.
        number: u64,
        /// What c10d said.
        message: String,
    },
}

/// What libtorch says where the machine itself has no memory left.
const NO_MEMORY_OF_CPU: &str = "can't allocate memory";

/// Whether libtorch's words are those of a device, or a machine, without memory left.
pub fn is_out_of_memory(message: &str) -> bool {
    message.contains("out of memory") || message.contains(NO_MEMORY_OF_CPU)
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Torch { message, .. } if message.contains(NO_MEMORY_OF_CPU) => Some(
                "the machine has no memory left: lower the batch size, or end what else needs it".to_owned(),
            ),
            Self::Torch { message, .. } if is_out_of_memory(message) => Some(
                "the device is out of memory: lower the batch size, or choose another device with --device"
                    .to_owned(),
            ),
            Self::Torch { message, .. } if message.contains("CUDA") || message.contains("NVIDIA") => Some(
                "`inverse-stella doctor` tells what it sees of CUDA; --device cpu goes without".to_owned(),
            ),
            Self::Torch { message, .. } if message.contains("NaN or infinity") => {
                Some("the weights hold NaN or overflow: take another checkpoint, or fetch them again".to_owned())
            }
            Self::NoCuda { reason } => Some(reason.hint().to_owned()),
            Self::NotAttached { .. } => Some("World::attach_cuda comes first, on all ranks".to_owned()),
            Self::Map { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path".to_owned())
            }
            Self::OutOfBounds { .. } => {
                Some("the file is cut short or damaged: copy or download it again".to_owned())
            }
            Self::LaunchVariable { .. } => Some(
                "start the processes with `inverse-stella launch --processes N -- …` or with torchrun, or unset RANK and \
                 WORLD_SIZE to run alone"
                    .to_owned(),
            ),
            Self::Store { .. } => Some(
                "rank 0 serves it: check that rank 0 runs, MASTER_ADDR and MASTER_PORT, and that no other program has the \
                 port"
                    .to_owned(),
            ),
            Self::NotJoined { .. } => Some(
                "see what those ranks wrote: they may have ended early, or look for another MASTER_ADDR and MASTER_PORT"
                    .to_owned(),
            ),
            Self::Ranks(fault) if fault.how != Absence::Late => Some(
                "see what that rank wrote last; a training goes on from its last checkpoint with --resume, on any number \
                 of processes"
                    .to_owned(),
            ),
            Self::Ranks(_) => Some(
                "it is slower than the time-out allows, or does other work than the others: all ranks need the same \
                 arguments and the same data"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_gets_a_hint_on_a_gpu_and_on_a_cpu() {
        let hint = |message: &str| Error::Torch { op: "empty", message: message.to_owned() }.hint();
        assert!(hint("CUDA out of memory. Tried to allocate 2 GiB").unwrap().contains("the device"));
        let on_cpu =
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12";
        assert!(hint(on_cpu).unwrap().contains("the machine"));
        assert_eq!(hint("shapes do not fit"), None);
    }
}
