//! The decoder's tokens: a byte-level BPE trained on the corpus, the encoder's own tokens cut to the corpus, or those of
//! a pre-trained model, whole or cut.
//!
//! Which tokens begin, end and fill a text is in `tokenizer.json` itself: in the template of its post-processor and its
//! padding, else by the names [`BOS`], [`EOS`] and [`PAD`].

mod cut;
mod special;

use crate::{DecoderConfig, Error, Result, files};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PaddingParams, Tokenizer, TokenizerImpl};

pub use cut::{cut_from_encoder, cut_from_pretrained};
pub use special::Marks;

/// Text of the token before every text.
pub const BOS: &str = "<bos>";
/// Text of the token after every text.
pub const EOS: &str = "<eos>";
/// Text of the token that fills short rows.
pub const PAD: &str = "<pad>";

/// Texts to token ids and back.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Of the file, where it has one: what is encoded here is not padded.
    padding: Option<PaddingParams>,
    /// Id of the token before every text.
    pub bos: u32,
    /// Id of the token after every text.
    pub eos: u32,
    /// Id of the token that fills short rows.
    pub pad: u32,
    size: usize,
}

impl Vocabulary {
    fn new(mut tokenizer: Tokenizer, path: &Path) -> Result<Self> {
        let padding = tokenizer.get_padding().cloned();
        let names = special::of_template(&tokenizer).unwrap_or_else(Marks::own);
        let id = |token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| Error::Tokenizer {
                path: path.to_owned(),
                reason: format!("it has no token {token}, which a decoder needs"),
            })
        };
        let (bos, eos, pad) = (id(&names.bos)?, id(&names.eos)?, id(&names.pad)?);
        let size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        // "<eos>" inside a text is text, not the end of it
        tokenizer.set_encode_special_tokens(true);
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(tokenize_error)?;
        Ok(Self { tokenizer, padding, bos, eos, pad, size })
    }

    /// Opens a `tokenizer.json` that says which tokens begin, end and fill a text.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Tokenizer`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&fs_err::read(path)?, path)
    }

    /// As [`Vocabulary::open`] from the bytes of a file that errors call `path`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |reason: tokenizers::Error| Error::Tokenizer {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        Self::new(Tokenizer::from_bytes(bytes).map_err(bad)?, path)
    }

    /// The vocabulary of a pre-trained model: its `tokenizer.json`, in which `marks` become the tokens that begin, end and
    /// fill a text.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn of_pretrained(bytes: &[u8], path: &Path, marks: &Marks) -> Result<Self> {
        let bad = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(|error| bad(error.to_string()))?;
        let mut root = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        marks.put(&mut root, |token| tokenizer.token_to_id(token).unwrap_or(0).into());
        Self::parse(root.to_string().as_bytes(), path)
    }

    /// The tokens that begin, end and fill a text.
    pub fn marks(&self) -> Marks {
        Marks { bos: self.token(self.bos), eos: self.token(self.eos), pad: self.token(self.pad) }
    }

    /// Writes `tokenizer.json`, atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let json = self.to_json()?;
        files::write_atomically(path, |file| Ok(file.write_all(&json)?))
    }

    /// What [`Vocabulary::save`] writes.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut whole = self.tokenizer.clone();
        whole.with_padding(self.padding.clone());
        Ok(whole.to_string(true).map_err(tokenize_error)?.into_bytes())
    }

    /// One more than the highest id: the rows that an embedding table needs.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The tokenizer under it.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The text of one token; empty for an id that it does not have.
    pub fn token(&self, id: u32) -> String {
        self.tokenizer.id_to_token(id).unwrap_or_default()
    }

    /// Token ids of a text, without BOS and EOS.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_fast(text, false).map_err(tokenize_error)?.get_ids().to_vec())
    }

    /// The text of token ids. Those that `tokenizer.json` calls special are left out: BOS, EOS and PAD, and what it calls so
    /// besides, such as an unknown token.
    ///
    /// # Errors
    /// [`Error::Tokenize`] for an id that the vocabulary does not have.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.size) {
            return Err(Error::Tokenize(format!(
                "id {id} is not below the vocabulary's size, {}",
                self.size
            )));
        }
        self.tokenizer.decode(ids, true).map_err(tokenize_error)
    }

    /// Checks that a decoder has a row for every token and knows the special ones by the same ids.
    ///
    /// # Errors
    /// [`Error::TokenizerFit`] or [`Error::Tokenizer`], with `path` as the tokenizer's.
    pub fn require_fit(&self, config: &DecoderConfig, path: &Path) -> Result<()> {
        if self.size as i64 > config.vocab {
            let id = self.size as u32 - 1;
            let token = self.token(id);
            return Err(Error::TokenizerFit { path: path.to_owned(), token, id, rows: config.vocab });
        }
        let pairs = [
            (self.bos, config.bos_token_id),
            (self.eos, config.eos_token_id),
            (self.pad, config.pad_token_id),
        ];
        for (here, there) in pairs {
            if i64::from(here) != there {
                let token = self.token(here);
                let reason = format!("token {token} has id {here}, the decoder was made for {there}");
                return Err(Error::Tokenizer { path: path.to_owned(), reason });
            }
        }
        Ok(())
    }
}

/// Trains a byte-level BPE (GPT-2's split, all 256 bytes in the alphabet, so that any text can be written) of at most
/// `size` tokens. The special tokens come first.
///
/// # Errors
/// [`Error::Tokenizer`] for a size below 259 and for what the trainer says.
pub fn train_bpe(texts: impl Iterator<Item = String> + Send, size: usize) -> Result<Vocabulary> {
    let path = PathBuf::from("the vocabulary to be trained");
    let smallest = 256 + 3;
    if size < smallest {
        let reason = format!("{size} tokens are too few: the bytes and special tokens alone are {smallest}");
        return Err(Error::Tokenizer { path, reason });
    }
    let byte_level = ByteLevel::new(false, true, true);
    let special = [BOS, EOS, PAD].map(|token| AddedToken::from(token, true));
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(size)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    type Bare = tokenizers::normalizers::NormalizerWrapper;
    let mut tokenizer: TokenizerImpl<BPE, Bare, ByteLevel, ByteLevel, ByteLevel> =
        TokenizerImpl::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
    tokenizer.train(&mut trainer, texts).map_err(tokenize_error)?;
    let json = tokenizer.to_string(false).map_err(tokenize_error)?;
    Vocabulary::parse(json.as_bytes(), &path)
}

fn tokenize_error(error: tokenizers::Error) -> Error {
    Error::Tokenize(error.to_string())
}
