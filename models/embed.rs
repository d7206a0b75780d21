//! What a thing that turns texts into vectors can do.

use tch::Tensor;

use crate::error::Result;
use crate::space::Space;

/// Text to vector. The encoder is one; tests have others.
pub trait Embed {
    /// The space that the vectors are of.
    fn space(&self) -> &Space;

    /// The tokenizer, without truncation and padding.
    fn tokenizer(&self) -> &tokenizers::Tokenizer;

    /// Tokens of a text that are read, special tokens and prompt included.
    fn max_tokens(&self) -> usize;

    /// Tokens of a text with special tokens and prompt, before any truncation.
    ///
    /// # Errors
    /// [`crate::Error::Tokenize`].
    fn count_tokens(&self, text: &str) -> Result<usize>;

    /// The vectors of texts, `[N, dim]`, f32 on the CPU, in the order given. A text over
    /// [`max_tokens`](Self::max_tokens) is cut as sentence-transformers cuts it.
    ///
    /// # Errors
    /// [`crate::Error::Tokenize`], [`crate::Error::Torch`] or [`crate::Error::NonFinite`].
    fn embed(&self, texts: &[&str]) -> Result<Tensor>;
}
