//! One text under several prompts: a vector under each.

use models::{Embed, Space, TokenCounter};

use super::shard_writer::shortened;
use crate::curation::CountTokens;
use crate::{Error, Result};

/// One encoder under one or several prompts, in the order in which a text's rows will stand.
#[derive(Clone, Copy)]
pub(super) struct Encoders<'a>(&'a [&'a dyn Embed]);

impl<'a> Encoders<'a> {
    /// Takes encoders that differ in their prompts alone.
    ///
    /// # Errors
    /// [`Error::Setting`] for none at all, and for two of one prompt or of one name; [`Error::Models`] where they differ
    /// in more.
    pub(super) fn new(encoders: &'a [&'a dyn Embed]) -> Result<(Encoders<'a>, Space)> {
        let spaces: Vec<&Space> = encoders.iter().map(|encoder| encoder.space()).collect();
        let names: Vec<&str> = spaces.iter().map(|space| space.prompt.name.as_str()).collect();
        let wrong = |reason: String| Error::Setting {
            key: "encoder.prompts".into(),
            value: format!("{names:?}"),
            reason,
        };
        let space = Space::union(&spaces)?;
        let space = space.ok_or_else(|| wrong("a text needs one at least; \"none\" is one".into()))?;
        for (index, one) in spaces.iter().enumerate() {
            for other in &spaces[..index] {
                let (one, other) = (&one.prompt, &other.prompt);
                if one.text == other.text {
                    return Err(wrong(format!("{:?} and {:?} are the same prompt", other.name, one.name)));
                }
                if one.name == other.name {
                    return Err(wrong(format!("two prompts are called {:?}", one.name)));
                }
            }
        }
        Ok((Encoders(encoders), space))
    }

    /// How many there are: rows of a text.
    pub(super) fn len(self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(self) -> impl Iterator<Item = &'a dyn Embed> {
        self.0.iter().copied()
    }

    /// Tokens of a text that all of them read.
    pub(super) fn max_tokens(self) -> usize {
        self.iter().map(|encoder| encoder.max_tokens()).min().unwrap_or(0)
    }

    /// Counts a text's tokens under the prompt that makes it longest, so that what fits is cut under none. It counts as
    /// the encoders do, but on all cores.
    pub(super) fn count_tokens(self) -> CountTokens<'a> {
        let counters: Vec<TokenCounter<'a>> = self.iter().map(|encoder| encoder.token_counter()).collect();
        Box::new(move |text| {
            let mut most = 0;
            for counter in &counters {
                let count = counter.count(text).map_err(|error| match error {
                    models::Error::Tokenize(reason) => {
                        models::Error::Tokenize(format!("{:?}: {reason}", shortened(text)))
                    }
                    other => other,
                })?;
                most = most.max(count);
            }
            Ok(most)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::space::{Pooling, Prompt};
    use tokenizers::Tokenizer;
    use tokenizers::models::wordpiece::WordPiece;
    use tokenizers::pre_tokenizers::whitespace::Whitespace;

    /// Puts texts in lower case before its tokenizer sees them.
    struct LowerCase(Tokenizer, Space);

    impl Embed for LowerCase {
        fn space(&self) -> &Space {
            &self.1
        }

        fn tokenizer(&self) -> &Tokenizer {
            &self.0
        }

        fn max_tokens(&self) -> usize {
            self.1.max_tokens
        }

        fn token_counter(&self) -> TokenCounter<'_> {
            TokenCounter { tokenizer: &self.0, prompt: &self.1.prompt.text, lower_case: true }
        }

        fn embed(&self, _: &[&str]) -> models::Result<tch::Tensor> {
            Ok(tch::Tensor::f_zeros([0, 1], (tch::Kind::Float, tch::Device::Cpu))?)
        }
    }

    fn under(prompt: &str, text: &str) -> LowerCase {
        let vocabulary = [("[UNK]", 0), ("find", 1), ("river", 2), ("R", 3), ("##iver", 4)]
            .map(|(token, id): (&str, u32)| (token.to_owned(), id));
        let model = WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace {}));
        let space = Space {
            encoder: "lower".into(),
            revision: None,
            weights_digest: "blake3:0".into(),
            prompt: Prompt { name: prompt.into(), text: text.into() },
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim: 1,
            normalize: true,
            max_tokens: 8,
        };
        LowerCase(tokenizer, space)
    }

    #[test]
    fn tokens_are_counted_as_the_encoder_counts_them_under_the_longest_prompt() {
        let (query, none) = (under("query", "Find "), under("none", ""));
        for (text, tokens) in [("River", 2), ("river", 2), ("River River", 3)] {
            assert_eq!(query.count_tokens(text).unwrap(), tokens, "{text}");
            assert_eq!(none.count_tokens(text).unwrap(), tokens - 1, "{text}");
            let lists: [&[&dyn Embed]; 3] = [&[&query], &[&query, &none], &[&none, &query]];
            for encoders in lists {
                let (encoders, _) = Encoders::new(encoders).unwrap();
                assert_eq!(encoders.count_tokens()(text).unwrap(), tokens, "{text}");
            }
        }
    }

    #[test]
    fn a_prompt_stands_once_and_has_one_name() {
        let (none, query) = (under("none", ""), under("query", "Find "));
        let (_, space) = Encoders::new(&[&query, &none]).unwrap();
        assert_eq!(space.prompts().map(|prompt| prompt.name.as_str()).collect::<Vec<_>>(), ["query", "none"]);
        let refused = |encoders: &[&dyn Embed]| Encoders::new(encoders).map(|_| ()).unwrap_err();
        let error = refused(&[&none, &query, &under("question", "Find ")]);
        assert!(error.to_string().contains("\"query\" and \"question\" are the same prompt"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("encoder.prompts")), "{error}");
        let error = refused(&[&none, &under("none", "Find ")]).to_string();
        assert!(error.contains("two prompts are called \"none\""), "{error}");
        assert!(refused(&[]).to_string().contains("a text needs one"), "{}", refused(&[]));
        let mut wider = under("wide", "wide ");
        wider.1.dim = 2;
        let error = refused(&[&none, &wider]).to_string();
        assert!(error.contains("(dim)"), "{error}");
    }
}
