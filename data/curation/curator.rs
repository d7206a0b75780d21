//! The filters that look at one document alone, in their order.

use super::config::{CurationConfig, TooLong};
use super::drops::Filter;
use super::duplicates::fingerprint;
use super::exclusion::Exclusion;
use super::near_duplicates::MinHash;
use super::normalize::normalize;
use super::quality::broken_rule;
use crate::Result;
use crate::corpus::Document;

/// Counts the encoder's tokens of a text, special tokens and prompt included, nothing truncated.
pub type CountTokens<'a> = Box<dyn Fn(&str) -> Result<usize> + Send + Sync + 'a>;

/// Examines documents one at a time; may be shared between threads.
pub struct Curator<'a> {
    config: CurationConfig,
    max_tokens: usize,
    exclusion: Exclusion,
    minhash: Option<MinHash>,
    count: CountTokens<'a>,
}

/// What became of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Keep(Curated),
    /// This filter dropped it.
    Drop(Filter),
}

/// A document that passed the filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curated {
    /// The document, its text normalised and perhaps cut.
    pub document: Document,
    /// The encoder's tokens of the text, special tokens and prompt included.
    pub tokens: usize,
    /// Equal for duplicates, see [`fingerprint`].
    pub key: u128,
    /// Near duplicates have one in common, see [`MinHash::bands`]; empty where near duplicates are kept.
    pub bands: Vec<u64>,
    /// Whether the text was cut to fit the encoder.
    pub cut: bool,
}

impl<'a> Curator<'a> {
    /// `max_tokens` is the most that the encoder reads, special tokens included; `count` counts as the encoder does.
    ///
    /// # Errors
    /// Settings that contradict each other.
    pub fn new(
        config: &CurationConfig,
        max_tokens: usize,
        exclusion: Exclusion,
        count: CountTokens<'a>,
    ) -> Result<Curator<'a>> {
        config.validate()?;
        let max_tokens = config.max_tokens.map_or(max_tokens, |max| max.min(max_tokens));
        let minhash = config.near_duplicates.as_ref().map(MinHash::new).transpose()?;
        Ok(Curator { config: config.clone(), max_tokens, exclusion, minhash, count })
    }

    /// Normalises the text and tries each filter; it depends on this document and the settings alone.
    ///
    /// # Errors
    /// The tokens cannot be counted.
    pub fn examine(&self, document: &Document) -> Result<Verdict> {
        let mut text = normalize(&document.text, self.config.whitespace);
        if text.is_empty() {
            return Ok(Verdict::Drop(Filter::Empty));
        }
        if let Some(filter) = broken_rule(&text, &document.text, &self.config) {
            return Ok(Verdict::Drop(filter));
        }
        let mut key = fingerprint(&text);
        if self.exclusion.contains(key) {
            return Ok(Verdict::Drop(Filter::Excluded));
        }
        let mut tokens = (self.count)(&text)?;
        if tokens < self.config.min_tokens {
            return Ok(Verdict::Drop(Filter::MinTokens));
        }
        let cut = tokens > self.max_tokens;
        if cut {
            let Some((end, count)) = self.fitting_prefix(&text)? else {
                return Ok(Verdict::Drop(Filter::MaxTokens));
            };
            text.truncate(end);
            tokens = count;
            key = fingerprint(&text);
            if self.exclusion.contains(key) {
                return Ok(Verdict::Drop(Filter::Excluded));
            }
        }
        let bands = self.minhash.as_ref().map_or_else(Vec::new, |minhash| minhash.bands(&text));
        let document = Document { text, ..document.clone() };
        Ok(Verdict::Keep(Curated { document, tokens, key, bands, cut }))
    }

    /// End of the longest prefix found that has whole words, fits the encoder and keeps the least lengths, with its
    /// tokens; nothing where texts are not to be cut or none fits.
    fn fitting_prefix(&self, text: &str) -> Result<Option<(usize, usize)>> {
        if self.config.too_long == TooLong::Drop {
            return Ok(None);
        }
        let ends: Vec<usize> = text
            .char_indices()
            .zip(text.chars().skip(1).map(char::is_whitespace))
            .filter(|((_, c), space_follows)| *space_follows && !c.is_whitespace())
            .map(|((at, c), _)| at + c.len_utf8())
            .collect();
        // bisection supposes that more words have no fewer tokens; whatever it takes has been counted and fits
        let (mut fits, mut low, mut high) = (None, 0, ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let tokens = (self.count)(&text[..ends[middle]])?;
            if tokens <= self.max_tokens {
                fits = Some((middle, tokens));
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(fits
            .filter(|&(words, tokens)| words + 1 >= self.config.min_words && tokens >= self.config.min_tokens)
            .map(|(words, tokens)| (ends[words], tokens)))
    }
}
