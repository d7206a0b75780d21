//! What an encoder wants before a text, by name.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::space::{Prompt, prompt_meant};

/// STELLA's prompts for queries, to the byte as its model card has them; a document has none.
const STELLA: [(&str, &str); 2] = [
    (
        "s2p_query",
        "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: ",
    ),
    ("s2s_query", "Instruct: Retrieve semantically similar text.\nQuery: "),
];

/// The prompts of an encoder.
#[derive(Debug)]
pub(super) struct Prompts {
    named: BTreeMap<String, String>,
    /// The one that is used where none is asked for.
    default: Option<String>,
}

impl Prompts {
    /// The prompts of `config_sentence_transformers.json`. Where a model of STELLA's architectures comes without any,
    /// STELLA's are known: copies of it often lack the file.
    pub(super) fn new(
        mut named: BTreeMap<String, String>,
        default: Option<String>,
        stellas_architecture: bool,
    ) -> Self {
        if stellas_architecture && named.is_empty() {
            for (name, text) in STELLA {
                named.insert(name.to_owned(), text.to_owned());
            }
        }
        Self { named, default }
    }

    /// The prompt of a name; `none`, or no name where the model has no default, is the empty one. A name that stands
    /// before an underscore in exactly one prompt will do (`s2p` for `s2p_query`).
    ///
    /// # Errors
    /// [`Error::UnknownPrompt`] with the names there are.
    pub(super) fn find(&self, encoder: &str, name: Option<&str>) -> Result<Prompt> {
        let Some(name) = name.or(self.default.as_deref()) else { return Ok(Prompt::none()) };
        let meant = prompt_meant(name, self.named.keys().map(String::as_str));
        match meant.and_then(|meant| self.named.get_key_value(meant)) {
            Some((name, text)) => Ok(Prompt { name: name.clone(), text: text.clone() }),
            None if name == "none" => Ok(Prompt::none()),
            None => Err(Error::UnknownPrompt {
                encoder: encoder.to_owned(),
                name: name.to_owned(),
                known: std::iter::once("none".to_owned()).chain(self.named.keys().cloned()).collect(),
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stellas_prompts_are_known_without_its_file() {
        let prompts = Prompts::new(BTreeMap::new(), None, true);
        let text = |name: &str| prompts.find("e", Some(name)).unwrap().text;
        assert_eq!(
            text("s2p"),
            "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: "
        );
        assert_eq!(text("s2s_query"), "Instruct: Retrieve semantically similar text.\nQuery: ");
        assert_eq!(text("none"), "");
        assert_eq!(prompts.find("e", None).unwrap(), Prompt::none());
        let error = prompts.find("e", Some("s2")).unwrap_err().to_string();
        assert!(error.contains("none, s2p_query, s2s_query"), "{error}");
        assert!(Prompts::new(BTreeMap::new(), None, false).find("e", Some("s2p")).is_err());
    }

    #[test]
    fn the_file_has_the_first_word() {
        let own = BTreeMap::from([("s2p_query".to_owned(), "find: ".to_owned())]);
        let prompts = Prompts::new(own, None, true);
        assert_eq!(prompts.find("e", Some("s2p")).unwrap().text, "find: ");
        assert!(prompts.find("e", Some("s2s")).is_err(), "a model with prompts of its own is not STELLA");
        let two = BTreeMap::from(["q_a", "q_b"].map(|name| (name.to_owned(), String::new())));
        assert!(Prompts::new(two, None, false).find("e", Some("q")).is_err(), "two names would do");
    }
}
