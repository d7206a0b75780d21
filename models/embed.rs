//! What a thing that turns texts into vectors can do.

use std::borrow::Cow;

use tch::Tensor;
use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::space::Space;

/// Text to vector. The encoder is one; tests have others.
pub trait Embed {
    /// The space that the vectors are of.
    fn space(&self) -> &Space;

    /// The tokenizer, without truncation and padding.
    fn tokenizer(&self) -> &Tokenizer;

    /// Tokens of a text that are read, special tokens and prompt included.
    fn max_tokens(&self) -> usize;

    /// Texts that are best given at a time: so many that like lengths go together.
    fn texts_together(&self) -> usize {
        1024
    }

    /// What counts tokens as this does, and may be shared between threads.
    fn token_counter(&self) -> TokenCounter<'_> {
        TokenCounter { tokenizer: self.tokenizer(), prompt: &self.space().prompt.text, lower_case: false }
    }

    /// Tokens of a text with special tokens and prompt, before any truncation.
    ///
    /// # Errors
    /// [`crate::Error::Tokenize`].
    fn count_tokens(&self, text: &str) -> Result<usize> {
        self.token_counter().count(text)
    }

    /// The vectors of texts, `[N, dim]`, f32 on the CPU, in the order given. A text over
    /// [`max_tokens`](Self::max_tokens) is cut as sentence-transformers cuts it. A text of no tokens, which there is
    /// only where the tokenizer adds no special ones, has the vector zero.
    ///
    /// # Errors
    /// [`crate::Error::Tokenize`], [`crate::Error::Torch`] or [`crate::Error::NonFinite`].
    fn embed(&self, texts: &[&str]) -> Result<Tensor>;
}

/// Counts tokens as an encoder does; unlike the encoder's tensors it may be shared between threads.
#[derive(Clone, Copy, Debug)]
pub struct TokenCounter<'a> {
    /// The tokenizer, without truncation and padding.
    pub tokenizer: &'a Tokenizer,
    /// What is put before every text.
    pub prompt: &'a str,
    /// Whether prompt and text are put in lower case (sentence-transformers' `do_lower_case`).
    pub lower_case: bool,
}

impl TokenCounter<'_> {
    /// What the tokenizer is given for a text: with the prompt, and in lower case where the encoder wants it.
    pub fn prepared<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let whole = match self.prompt {
            "" => Cow::Borrowed(text),
            prompt => Cow::Owned(format!("{prompt}{text}")),
        };
        match self.lower_case {
            // of the whole, as Python does it: a sigma at a word's end becomes another letter than within one
            true => Cow::Owned(whole.to_lowercase()),
            false => whole,
        }
    }

    /// Tokens of a text with special tokens and prompt, before any truncation.
    ///
    /// # Errors
    /// [`crate::Error::Tokenize`].
    pub fn count(&self, text: &str) -> Result<usize> {
        let encoding = self.tokenizer.encode_fast(self.prepared(text), true);
        Ok(encoding.map_err(|error| Error::Tokenize(error.to_string()))?.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokenizers::models::wordpiece::WordPiece;
    use tokenizers::pre_tokenizers::whitespace::Whitespace;

    #[test]
    fn the_count_is_of_the_prompted_text_in_the_encoders_case() {
        let vocabulary = [("[UNK]", 0), ("find", 1), ("river", 2), ("R", 3), ("##iver", 4)]
            .map(|(token, id): (&str, u32)| (token.to_owned(), id));
        let model = WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace {}));
        let counter = |prompt, lower_case| TokenCounter { tokenizer: &tokenizer, prompt, lower_case };
        assert_eq!(counter("", false).count("River").unwrap(), 2);
        assert_eq!(counter("", true).count("River").unwrap(), 1);
        assert_eq!(counter("Find ", true).count("River").unwrap(), 2);
        assert_eq!(counter("Find ", true).prepared("RİVER"), "find ri\u{307}ver");
        assert_eq!(counter("", true).prepared("ΟΔΟΣ ΣΟΦΙΑΣ"), "οδος σοφιας");
    }
}
