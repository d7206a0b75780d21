//! What a recipe says about curation.

use serde::{Deserialize, Serialize};

use super::near_duplicates::NearDuplicatesConfig;
use crate::{Error, Result};

/// The filters and their limits: `[curation]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CurationConfig {
    /// What becomes of white space within a text.
    pub whitespace: Whitespace,
    /// The fewest words.
    pub min_words: usize,
    /// The most words; absent: no limit but that of the tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_words: Option<usize>,
    /// The fewest tokens of the encoder, special tokens and prompt included.
    pub min_tokens: usize,
    /// The most tokens of the encoder, special tokens and prompt included; absent, or larger than it: the encoder's
    /// own maximum. A text is never longer than what its vector was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// What becomes of a longer text.
    pub too_long: TooLong,
    /// The least share of letters among the characters that are not white space.
    pub min_letters: f64,
    /// The longest run of one character that is neither a digit nor white space.
    pub max_repeated_characters: usize,
    /// The largest share of words that repeat the word before them, or of a text's words that are one and the same,
    /// for texts of eight words and more.
    pub max_repeated_words: f64,
    /// The largest share of lines that repeat an earlier line of the text, for texts of three lines and more.
    pub max_repeated_lines: f64,
    /// Whether licence headers, copyright lines, bare links and the like are dropped.
    pub boilerplate: bool,
    /// Whether of equal texts (but for case, punctuation and white space) the first alone is kept.
    pub exact_duplicates: bool,
    /// Whether, and how, of nearly equal texts one alone is kept; absent: they are all kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub near_duplicates: Option<NearDuplicatesConfig>,
}

/// What becomes of white space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whitespace {
    /// Every run of it becomes one space: a text is one line.
    #[default]
    Collapse,
    /// Runs within a line become one space, line breaks stay, empty lines go.
    KeepLines,
}

/// What becomes of a text with more tokens than the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// It is dropped.
    #[default]
    Drop,
    /// It is cut after the last word that fits; the vector is then made from what is left.
    Cut,
}

impl Default for CurationConfig {
    fn default() -> CurationConfig {
        CurationConfig {
            whitespace: Whitespace::Collapse,
            min_words: 3,
            max_words: None,
            min_tokens: 4,
            max_tokens: None,
            too_long: TooLong::Drop,
            min_letters: 0.5,
            max_repeated_characters: 8,
            max_repeated_words: 0.5,
            max_repeated_lines: 0.3,
            boilerplate: true,
            exact_duplicates: true,
            near_duplicates: None,
        }
    }
}

impl CurationConfig {
    /// Refuses limits that contradict each other.
    ///
    /// # Errors
    /// The first such setting, by its key.
    pub fn validate(&self) -> Result<()> {
        let wrong = |key: &str, value: String, reason: &str| {
            Err(Error::Setting { key: format!("curation.{key}"), value, reason: reason.into() })
        };
        for (key, share) in [
            ("min_letters", self.min_letters),
            ("max_repeated_words", self.max_repeated_words),
            ("max_repeated_lines", self.max_repeated_lines),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return wrong(key, share.to_string(), "a share lies within 0 and 1");
            }
        }
        if let Some(max) = self.max_words.filter(|&max| max < self.min_words.max(1)) {
            return wrong("max_words", max.to_string(), "no text is that short and has min_words too");
        }
        if let Some(max) = self.max_tokens.filter(|&max| max < self.min_tokens.max(1)) {
            return wrong("max_tokens", max.to_string(), "no text is that short and has min_tokens too");
        }
        if self.max_repeated_characters == 0 {
            return wrong("max_repeated_characters", "0".into(), "each character is a run of one");
        }
        self.near_duplicates.as_ref().map_or(Ok(()), NearDuplicatesConfig::validate)
    }
}
