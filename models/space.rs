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
    /// What stands before every text. A pair set, and a decoder, may know several prompts; this is the first.
    pub prompt: Prompt,
    /// The others. One text has one vector under each; an encoder and a file of vectors have one prompt only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_prompts: Vec<Prompt>,
    /// What the tokenizer puts around a text by itself; not recorded by older artefacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub special_tokens: Option<SpecialTokens>,
    /// Which tokens of a text see which.
    #[serde(default)]
    pub attention: Attention,
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

/// The prompt that `word` means: the one of that name, or the only one whose name begins with it and an underscore
/// (`s2p` for `s2p_query`).
pub fn prompt_meant<'a>(word: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let exact = names.clone().find(|name| *name == word);
    let mut longer = names.filter(|name| name.strip_prefix(word).is_some_and(|rest| rest.starts_with('_')));
    exact.or_else(|| longer.next().filter(|_| longer.next().is_none()))
}

/// Tokens that a tokenizer puts around every text: `[CLS]` and `[SEP]`, or an end of text. They are pooled with the
/// others, so a tokenizer without them gives other vectors from the same weights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Before the text (and its prompt).
    pub before: Vec<String>,
    /// After it.
    pub after: Vec<String>,
}

/// Which tokens of a text see which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attention {
    /// Every token sees all.
    #[default]
    Bidirectional,
    /// A token sees itself and those before it.
    Causal,
}

impl Attention {
    /// The word used in files and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bidirectional => "bidirectional",
            Self::Causal => "causal",
        }
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
    /// All prompts, the first one first.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> + Clone {
        std::iter::once(&self.prompt).chain(&self.other_prompts)
    }

    /// The same space with several prompts.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] where the spaces differ in more than their prompt.
    pub fn union(spaces: &[&Space]) -> Result<Option<Space>> {
        let Some((first, others)) = spaces.split_first() else { return Ok(None) };
        let mut union = (*first).clone();
        for other in others {
            let fields = first.differences_but_prompts(other);
            first.refuse(other, "the first encoder", "another", fields)?;
            for prompt in other.prompts() {
                if union.prompts().all(|known| known.text != prompt.text) {
                    union.other_prompts.push(prompt.clone());
                }
            }
        }
        Ok(Some(union))
    }

    /// Checks that two artefacts are of the same space: same weights, prompt texts, special tokens, attention, pooling,
    /// dense head, dimension and normalisation. The names of encoder, revision and prompts are labels and do not count;
    /// neither does the maximum length, which changes no vector of a text that fits.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] with both spaces and the fields that differ.
    pub fn require_same(&self, other: &Space, this_what: &str, other_what: &str) -> Result<()> {
        self.refuse(other, this_what, other_what, self.differences(other))
    }

    /// Whether [`require_same`](Self::require_same) finds nothing: vectors of the two may be compared.
    pub fn is_same(&self, other: &Space) -> bool {
        self.differences(other).is_empty()
    }

    /// As [`require_same`](Self::require_same), but the other may know more prompts: vectors under one of its prompts
    /// are vectors that a decoder of several reads.
    ///
    /// # Errors
    /// [`Error::SpaceMismatch`] with both spaces and the fields that differ.
    pub fn require_within(&self, wider: &Space, this_what: &str, other_what: &str) -> Result<()> {
        let mut fields = self.differences_but_prompts(wider);
        if !self.prompts_within(wider) {
            fields.insert(0, "prompt");
        }
        self.refuse(wider, this_what, other_what, fields)
    }

    fn prompts_within(&self, wider: &Space) -> bool {
        self.prompts().all(|prompt| wider.prompts().any(|known| known.text == prompt.text))
    }

    fn differences(&self, other: &Space) -> Vec<&'static str> {
        let mut fields = self.differences_but_prompts(other);
        if !(self.prompts_within(other) && other.prompts_within(self)) {
            fields.insert(0, "prompt");
        }
        fields
    }

    fn differences_but_prompts(&self, other: &Space) -> Vec<&'static str> {
        // what one of the two has not recorded cannot differ
        let special_tokens = self.special_tokens.as_ref().zip(other.special_tokens.as_ref());
        let differs = [
            ("weights_digest", self.weights_digest != other.weights_digest),
            ("special_tokens", special_tokens.is_some_and(|(a, b)| a != b)),
            ("attention", self.attention != other.attention),
            ("pooling", self.pooling != other.pooling),
            ("dense", self.dense != other.dense),
            ("dim", self.dim != other.dim),
            ("normalize", self.normalize != other.normalize),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    fn refuse(
        &self,
        other: &Space,
        this_what: &str,
        other_what: &str,
        fields: Vec<&'static str>,
    ) -> Result<()> {
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

    /// Twelve hexadecimal digits that are the same for the same space, for display. What asks whether two spaces are one
    /// asks [`is_same`](Self::is_same): one that has not recorded its special tokens has other digits than one that has.
    pub fn id(&self) -> String {
        let mut prompts: Vec<_> = self.prompts().map(|prompt| prompt.text.as_str()).collect();
        prompts.sort_unstable();
        let identity = serde_json::json!([
            self.weights_digest,
            prompts,
            self.special_tokens,
            self.attention.name(),
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
        write!(f, " (weights {digest}")?;
        for prompt in self.prompts() {
            write!(f, ", prompt {}", prompt.name)?;
            if !prompt.text.is_empty() {
                write!(f, " {:?}", prompt.text)?;
            }
        }
        if let Some(SpecialTokens { before, after }) = &self.special_tokens {
            write!(f, ", {}text{}", before.concat(), after.concat())?;
        }
        write!(
            f,
            ", {} attention, pooling {}, dense {}, {} numbers, {})",
            self.attention.name(),
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
            other_prompts: vec![],
            special_tokens: None,
            attention: Attention::Bidirectional,
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
    fn vectors_under_one_prompt_lie_within_a_space_of_several() {
        let under = |name: &str| {
            let prompt = Prompt { name: name.into(), text: format!("{name}: ") };
            Space { prompt, ..space() }
        };
        let (query, passage) = (under("query"), under("passage"));
        let both = Space::union(&[&query, &passage, &query]).unwrap().unwrap();
        assert_eq!(
            both.prompts().map(|prompt| prompt.name.as_str()).collect::<Vec<_>>(),
            ["query", "passage"]
        );
        passage.require_within(&both, "the vectors", "the decoder").unwrap();
        let error = passage.require_same(&both, "the vectors", "the decoder").unwrap_err().to_string();
        assert!(error.contains("(prompt)") && error.contains("passage: "), "{error}");
        assert!(space().require_within(&both, "the vectors", "the decoder").is_err());
        let turned = Space::union(&[&passage, &query]).unwrap().unwrap();
        turned.require_same(&both, "a", "b").unwrap();
        assert_eq!(turned.id(), both.id());
        let other = Space { dim: 7, ..under("other") };
        assert!(Space::union(&[&query, &other]).unwrap_err().to_string().contains("(dim)"));
    }

    #[test]
    fn an_end_of_text_or_a_causal_mask_is_another_space() {
        let with = |after: &[&str]| Space {
            special_tokens: Some(SpecialTokens {
                before: vec![],
                after: after.iter().map(|token| (*token).to_owned()).collect(),
            }),
            ..space()
        };
        let error = with(&["</s>"]).require_same(&with(&[]), "a", "b").unwrap_err().to_string();
        assert!(error.contains("(special_tokens)") && error.contains("text</s>"), "{error}");
        with(&["</s>"]).require_same(&space(), "a", "b").unwrap();
        assert!(with(&["</s>"]).is_same(&space()) && with(&["</s>"]).id() != space().id());
        assert!(!with(&["</s>"]).is_same(&with(&[])));
        let causal = Space { attention: Attention::Causal, ..space() };
        assert!(causal.require_same(&space(), "a", "b").unwrap_err().to_string().contains("(attention)"));
        assert_ne!(causal.id(), space().id());
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
