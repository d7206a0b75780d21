//! How to open an encoder.

use crate::device::{DeviceChoice, Dtype};
use crate::space::Attention;

/// How to open an encoder.
#[derive(Debug, Clone)]
pub struct EncoderOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Format of the matrix products; pooling and what follows is in f32 always.
    pub dtype: Dtype,
    /// Name of the prompt; `None` is the model's default, which mostly is no prompt.
    pub prompt: Option<String>,
    /// Padded tokens in a batch.
    pub batch_tokens: usize,
    /// Cut texts at this many tokens instead of the model's own maximum.
    pub max_tokens: Option<usize>,
    /// Scale vectors to length 1. `None`: yes, whether or not the model has a module that does it.
    pub normalize: Option<bool>,
    /// Numbers in a vector, where the model has a dense head for several sizes.
    pub dim: Option<usize>,
    /// Which tokens see which, where the model's files leave it open. `None`: as they say, see docs/stella.md.
    pub attention: Option<Attention>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            dtype: Dtype::Auto,
            prompt: None,
            batch_tokens: 8192,
            max_tokens: None,
            normalize: None,
            dim: None,
            attention: None,
        }
    }
}
