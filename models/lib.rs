//! The networks of the project: the encoder (text to vector), the decoder (vector to text), and what both need:
//! spaces, weights on disk, devices.

pub mod attention;
pub mod blocks;
pub mod causal_config;
pub mod condition;
pub mod decoder;
pub mod decoder_config;
pub mod device;
pub mod embed;
pub mod encoder;
pub mod error;
pub mod export;
pub mod files;
pub mod flops;
pub mod generate;
pub mod gpu_kernels;
pub mod hub;
mod init;
pub mod inverter;
pub mod kv_cache;
mod norm;
pub mod params;
#[cfg(test)]
mod parity;
pub mod pretrained;
pub mod projector;
mod rope;
mod save_tensors;
pub mod search;
pub mod space;
mod swiglu;
pub mod vocabulary;
pub mod weights;

pub use causal_config::CausalConfig;
pub use condition::Condition;
pub use decoder::Decoder;
pub use decoder_config::DecoderConfig;
pub use device::{DeviceChoice, Dtype};
pub use embed::{Embed, TokenCounter};
pub use encoder::{Encoder, EncoderOptions, Frame};
pub use error::{Error, Result};
pub use export::{ExportOptions, check_golden, write_export};
pub use flops::Flops;
pub use generate::{GenerateOptions, Generated, Hypotheses, Source, Strategy, generate, generate_from};
pub use gpu_kernels::{GpuKernels, gpu_kernels};
pub use inverter::{Inverted, Inverter, Origin, OriginKind};
pub use params::ParamStore;
pub use pretrained::{Pretrained, StartedFrom};
pub use save_tensors::save_tensors;
pub use search::{Decodes, Search, SearchOptions};
pub use space::{Attention, Pooling, Prompt, Space, SpecialTokens};
pub use vocabulary::Vocabulary;
pub use weights::Weights;
