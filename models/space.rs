//! The identity of a vector. It travels with every artefact, and vectors of two spaces never mix.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// Everything that decides which numbers a text becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Space {
    /// Hub repository (`organisation/name`) or the folder's name.
    pub encoder: String,
    /// Commit of the hub repository, where it is known.
    pub revision: Option<String>,
    /// `blake3:HEX` over the weights, the dense head included.
    pub weights_digest: String,
    /// What stands before every text.
    pub prompt: Prompt,
    /// How the hidden states of a text become one vector.
    pub pooling: Pooling,
    /// Folder of the dense head, where there is one.
    pub dense: Option<String>,
    /// Numbers in a vector.
    pub dim: usize,
    /// Whether vectors are scaled to length 1.
    pub normalize: bool,
    /// Tokens of a text that are read, special tokens and prompt included; a longer text is cut.
    pub max_tokens: usize,
}

/// A text that stands before every text that is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// Its name in `config_sentence_transformers.json`, or `none`.
    pub name: String,
    /// The text itself, to the byte.
    pub text: String,
}

impl Prompt {
    /// No prompt at all.
    pub fn none() -> Self {
        Self { name: "none".into(), text: String::new() }
    }
}

/// How the hidden states of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over the tokens.
    Mean,
    /// The state of the first token.
    Cls,
    /// The state of the last token that is no padding.
    LastToken,
}

impl Pooling {
    /// The word used in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::LastToken => "last_token",
        }
    }
}

impl Space {
    /// Checks that two artefacts are of the same space: same weights, prompt text, pooling, dense head, dimension and
    /// normalisation. The names of encoder, revision and prompt are labels and do not count; neither does the maximum
    /// length, which changes no vector of a text that fits.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] with both spaces and the fields that differ.
    pub fn require_same(&self, other: &Space, this_what: &str, other_what: &str) -> Result<()> {
        let differs = [
            ("weights_digest", self.weights_digest != other.weights_digest),
            ("prompt", self.prompt.text != other.prompt.text),
            ("pooling", self.pooling != other.pooling),
            ("dense", self.dense != other.dense),
            ("dim", self.dim != other.dim),
            ("normalize", self.normalize != other.normalize),
        ];
        let fields: Vec<_> =
            differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
        if fields.is_empty() {
            return Ok(());
        }
        Err(Error::SpaceMismatch {
            this_what: this_what.to_owned(),
            this: self.to_string(),
            other_what: other_what.to_owned(),
            other: other.to_string(),
            fields,
        })
    }

    /// Twelve hexadecimal digits that are the same for the same space, for display.
    pub fn id(&self) -> String {
        let identity = serde_json::json!([
            self.weights_digest,
            self.prompt.text,
            self.pooling.name(),
            self.dense,
            self.dim,
            self.normalize
        ]);
        blake3::hash(identity.to_string().as_bytes()).to_hex()[..12].to_owned()
    }

    /// Reads a `space.json`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Json`].
    pub fn read(path: &Path) -> Result<Self> {
        files::read_json(path)
    }

    /// Writes a `space.json` atomically.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        files::write_json(path, self)
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.encoder)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{}", revision.get(..12).unwrap_or(revision))?;
        }
        let digest = self.weights_digest.get(..19).unwrap_or(&self.weights_digest);
        write!(f, " (weights {digest}, prompt {}", self.prompt.name)?;
        if !self.prompt.text.is_empty() {
            write!(f, " {:?}", self.prompt.text)?;
        }
        write!(
            f,
            ", pooling {}, dense {}, {} numbers, {})",
            self.pooling.name(),
            self.dense.as_deref().unwrap_or("none"),
            self.dim,
            if self.normalize { "normalised" } else { "not normalised" }
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space {
            encoder: "org/name".into(),
            revision: Some("0123456789abcdef".into()),
            weights_digest: "blake3:00112233445566778899".into(),
            prompt: Prompt::none(),
            pooling: Pooling::Mean,
            dense: None,
            dim: 384,
            normalize: true,
            max_tokens: 256,
        }
    }

    #[test]
    fn labels_do_not_count_but_identity_does() {
        let mut other = space();
        other.encoder = "folder".into();
        other.revision = None;
        other.max_tokens = 128;
        other.prompt.name = "document".into();
        space().require_same(&other, "the pairs", "the encoder").unwrap();
        assert_eq!(space().id(), other.id());

        other.prompt.text = "query: ".into();
        other.dim = 256;
        let error = space().require_same(&other, "the pairs", "the encoder").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("(prompt, dim)"), "{message}");
        assert!(message.contains("the pairs: org/name@0123456789ab"), "{message}");
        assert!(message.contains("the encoder: folder") && message.contains("query: "), "{message}");
        assert!(error.hint().is_some());
        assert_ne!(space().id(), other.id());
    }

    #[test]
    fn written_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("space.json");
        space().write(&path).unwrap();
        assert_eq!(Space::read(&path).unwrap(), space());
        let text = fs_err::read_to_string(&path).unwrap();
        assert!(text.contains("\"pooling\": \"mean\""), "{text}");
        fs_err::write(&path, text.replace("\"dim\"", "\"dims\"")).unwrap();
        assert!(Space::read(&path).unwrap_err().to_string().contains("dims"));
    }
}
