//! Texts to token ids, as the encoder's own tokenizer has them.

use std::borrow::Cow;
use std::path::Path;

use tokenizers::{Encoding, Tokenizer};

use crate::embed::TokenCounter;
use crate::error::{Error, Result};
use crate::space::SpecialTokens;

/// The tokenizer, and what it puts around a text.
pub(super) struct TextTokens {
    pub(super) tokenizer: Tokenizer,
    lower_case: bool,
    pub(super) special: SpecialTokens,
}

impl TextTokens {
    /// Reads a `tokenizer.json` for an embedding table of `rows` rows.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], or [`Error::TokenizerFit`] for an id that the table has no row for.
    pub(super) fn read(path: &Path, lower_case: bool, rows: i64) -> Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(fs_err::read(path)?)
            .map_err(|error| Error::Tokenizer { path: path.to_owned(), reason: error.to_string() })?;
        let largest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|(_, id)| i64::from(*id) >= rows) {
            return Err(Error::TokenizerFit { path: path.to_owned(), token, id, rows });
        }
        // cutting and padding is done here, to the model's length and to the batch's
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(tokenize_error)?;
        let special = special_tokens(&tokenizer)?;
        Ok(Self { tokenizer, lower_case, special })
    }

    /// Special tokens around one text.
    pub(super) fn special_count(&self) -> usize {
        self.special.before.len() + self.special.after.len()
    }

    /// Counts tokens of texts behind a prompt.
    pub(super) fn counter<'a>(&'a self, prompt: &'a str) -> TokenCounter<'a> {
        TokenCounter { tokenizer: &self.tokenizer, prompt, lower_case: self.lower_case }
    }

    /// Token ids of texts with prompt and special tokens, cut to `max_tokens`.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub(super) fn ids(&self, texts: &[&str], prompt: &str, max_tokens: usize) -> Result<Vec<Vec<u32>>> {
        let counter = self.counter(prompt);
        let prepared: Vec<_> = texts.iter().map(|text| counter.prepared(text)).collect();
        // in parallel; without character offsets, which nothing here needs
        let encodings = self.tokenizer.encode_batch_fast(prepared.iter().map(|text| &**text).collect(), true);
        let cut = |(encoding, text): (Encoding, &Cow<'_, str>)| {
            if encoding.len() <= max_tokens {
                Ok(encoding.get_ids().to_vec())
            } else {
                self.cut(text, max_tokens)
            }
        };
        encodings.map_err(tokenize_error)?.into_iter().zip(&prepared).map(cut).collect()
    }

    /// The ids of a text too long: its first tokens, with the special tokens around them as around any other text.
    fn cut(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>> {
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(tokenize_error)?;
        let room = max_tokens - self.special_count();
        encoding.truncate(room, 0, tokenizers::TruncationDirection::Right);
        Ok(self.tokenizer.post_process(encoding, None, true).map_err(tokenize_error)?.get_ids().to_vec())
    }
}

/// What the tokenizer adds before and after the tokens of a text itself.
fn special_tokens(tokenizer: &Tokenizer) -> Result<SpecialTokens> {
    let tokens = |special| -> Result<Vec<String>> {
        Ok(tokenizer.encode("a", special).map_err(tokenize_error)?.get_tokens().to_vec())
    };
    let (bare, whole) = (tokens(false)?, tokens(true)?);
    let first = (0..=whole.len().saturating_sub(bare.len()))
        .find(|&at| whole[at..].starts_with(&bare))
        .filter(|_| !bare.is_empty())
        .unwrap_or(whole.len());
    let last = (first + bare.len()).min(whole.len());
    Ok(SpecialTokens { before: whole[..first].to_vec(), after: whole[last..].to_vec() })
}

fn tokenize_error(error: tokenizers::Error) -> Error {
    Error::Tokenize(error.to_string())
}
