//! Flags of the verbs that open an encoder by itself.

use anyhow::Result;
use clap::Args;
use models::{Attention, DeviceChoice, Dtype, Encoder, EncoderOptions};

/// Which encoder, and how it is opened.
#[derive(Debug, Args)]
pub(crate) struct EncoderFlags {
    /// A sentence-transformers folder, or a hub name with an optional @revision
    #[arg(long, value_name = "DIR|HUB")]
    pub(crate) encoder: String,
    /// What stands before every text, by the encoder's name for it: none, s2p, s2s (STELLA's), … [default: the encoder's own]
    #[arg(long, value_name = "NAME")]
    prompt: Option<String>,
    /// Numbers in a vector, for encoders with several dense heads (STELLA: 256 to 8192) [default: the encoder's own]
    #[arg(long, value_name = "N")]
    dim: Option<usize>,
    /// Vectors as the last layer gives them, not scaled to length 1
    #[arg(long)]
    no_normalize: bool,
    /// bidirectional or causal, whatever the encoder's files say; for a Qwen only [default: as they say]
    #[arg(long, value_name = "KIND", value_parser = attention)]
    attention: Option<Attention>,
    /// Numbers to compute with: auto (bf16 where the hardware has it), f32, bf16 or f16
    #[arg(long, value_name = "DTYPE", default_value = "f32")]
    dtype: Dtype,
    /// auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Tokens in a batch, padding included
    #[arg(long, value_name = "N", default_value_t = EncoderOptions::default().batch_tokens)]
    batch_tokens: usize,
    /// Cut texts at this many tokens, special ones and prompt included [default: the encoder's maximum]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
}

impl EncoderFlags {
    /// Opens the encoder.
    pub(crate) fn open(&self) -> Result<Encoder> {
        let options = EncoderOptions {
            device: self.device,
            dtype: self.dtype,
            prompt: self.prompt.clone(),
            batch_tokens: self.batch_tokens,
            max_tokens: self.max_tokens,
            normalize: self.no_normalize.then_some(false),
            dim: self.dim,
            attention: self.attention,
        };
        Ok(Encoder::open(&self.encoder, &options)?)
    }
}

fn attention(word: &str) -> std::result::Result<Attention, String> {
    [Attention::Bidirectional, Attention::Causal]
        .into_iter()
        .find(|attention| attention.name() == word)
        .ok_or_else(|| "expected bidirectional or causal".to_owned())
}
