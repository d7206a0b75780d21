//! What can go wrong between this project and libtorch.

use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

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
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Torch { message, .. } if message.contains("out of memory") => Some(
                "the device is out of memory: lower the batch size, or choose another device with --device"
                    .to_owned(),
            ),
            Self::Torch { message, .. } if message.contains("CUDA") => Some(
                "`inverse-stella doctor` tells what it sees of CUDA; --device cpu goes without".to_owned(),
            ),
            Self::Map { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path".to_owned())
            }
            Self::OutOfBounds { .. } => {
                Some("the file is cut short or damaged: copy or download it again".to_owned())
            }
            _ => None,
        }
    }
}
