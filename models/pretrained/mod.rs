//! A pre-trained language model that a decoder starts from: a Llama or a Qwen2 of Hugging Face's, in a folder or on a
//! hub. Its blocks, embedding and head become the decoder's; the projector is new.

mod marks;
mod prefix;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::export::PROJECTOR;
use crate::hub::{HubSettings, Repository};
use crate::params::{self, ParamStore};
use crate::{CausalConfig, Error, Result, Vocabulary, Weights};

pub use prefix::{prefix_factor, scale_prefix};

/// Tensors with a row for each token.
const TABLES: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

/// The model's files. Of a hub repository each is fetched when it is first asked for.
pub struct Pretrained {
    repository: Repository,
    config: CausalConfig,
    vocabulary: OnceCell<Vocabulary>,
    weights: OnceCell<Weights>,
}

/// What a decoder was started from: `started_from.json` of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartedFrom {
    /// Its hub name, or the name of its folder.
    pub model: String,
    /// The commit, where it is of a hub.
    pub revision: Option<String>,
    /// `LlamaForCausalLM` or `Qwen2ForCausalLM`.
    pub architecture: String,
    /// `blake3:HEX` of its weights.
    pub weights_digest: String,
}

impl Pretrained {
    /// Opens a folder, or `organisation/name[@revision]` of the hub, and reads its `config.json`.
    ///
    /// # Errors
    /// [`Error::NotASource`], [`Error::MissingFile`], [`Error::Hub`]; those of [`CausalConfig::read`].
    pub fn open(source: &str) -> Result<Self> {
        Self::open_with(source, &HubSettings::from_env())
    }

    /// [`open`](Self::open) with given settings of the hub.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(source: &str, settings: &HubSettings) -> Result<Self> {
        let repository = Repository::open_with(source, settings)?;
        let config = CausalConfig::read(
            &repository.require("config.json", "it has the shape of the language model")?,
        )?;
        Ok(Self { repository, config, vocabulary: OnceCell::new(), weights: OnceCell::new() })
    }

    /// Its shape.
    pub fn config(&self) -> &CausalConfig {
        &self.config
    }

    /// Its tokens, with the ones that begin, end and fill a text told apart ([`Vocabulary`] keeps them).
    ///
    /// # Errors
    /// A tokenizer that is missing, damaged or has no token to end a text with; [`Error::TokenizerFit`].
    pub fn vocabulary(&self) -> Result<&Vocabulary> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let path = self.repository.require("tokenizer.json", "the decoder takes over the model's tokens")?;
        let vocabulary = marks::vocabulary(&self.repository, &path)?;
        if vocabulary.size() as i64 > self.config.vocab {
            let id = vocabulary.size() as u32 - 1;
            return Err(Error::TokenizerFit {
                path,
                token: vocabulary.token(id),
                id,
                rows: self.config.vocab,
            });
        }
        Ok(self.vocabulary.get_or_init(|| vocabulary))
    }

    /// Its weights: `model.safetensors`, or the shards that `model.safetensors.index.json` lists.
    fn weights(&self) -> Result<&Weights> {
        if let Some(weights) = self.weights.get() {
            return Ok(weights);
        }
        let weights = Weights::of_repository(&self.repository, "")?;
        Ok(self.weights.get_or_init(|| weights))
    }

    /// What to write down about where a decoder came from. Reads all weights.
    ///
    /// # Errors
    /// Weights that are missing or damaged.
    pub fn started_from(&self) -> Result<StartedFrom> {
        let weights_digest = self.weights()?.digest();
        Ok(StartedFrom {
            model: self.repository.name().to_owned(),
            revision: self.repository.revision().map(str::to_owned),
            architecture: self.config.architecture.to_owned(),
            weights_digest,
        })
    }

    /// Loads blocks, embedding and head into a store with a decoder of this shape; f32, bf16 and f16 become what the
    /// store holds. `vocabulary` is the decoder's: the model's own, or one cut from it, whose rows are then picked. The
    /// projector is left as it is.
    ///
    /// # Errors
    /// [`Error::TensorsDiffer`] with all tensors that are missing, misshapen or without a place, nothing changed then;
    /// [`Error::Tokenizer`] for a vocabulary with tokens that the model has not.
    pub fn load(&self, store: &mut ParamStore, vocabulary: &Vocabulary) -> Result<()> {
        let weights = self.weights()?;
        let rows = self.rows(vocabulary)?;
        let mut targets = tch::no_grad(|| store.named_tensors());
        targets.retain(|(name, _)| !name.starts_with(PROJECTOR));
        let on_disk = |(name, target): &(String, Tensor)| {
            let mut shape = target.size();
            if TABLES.contains(&name.as_str()) {
                shape[0] = self.config.vocab;
            }
            (name.clone(), shape)
        };
        let wanted: Vec<_> = targets.iter().map(on_disk).collect();
        let found = params::find(&wanted, &[("", weights)], false, |name| self.is_passed_over(name))?;
        tch::no_grad(|| -> Result<()> {
            for (((name, mut target), (_, shape)), (weights, inner)) in
                targets.into_iter().zip(&wanted).zip(found)
            {
                let mut source = weights.get(&inner, shape)?;
                if let Some(rows) = rows.as_ref().filter(|_| TABLES.contains(&name.as_str())) {
                    source = source.f_index_select(0, rows)?;
                }
                target.f_copy_(&source)?;
            }
            Ok(())
        })?;
        store.refresh()
    }

    /// The model's row for each of the vocabulary's tokens; `None` where they are the model's rows as they lie.
    fn rows(&self, vocabulary: &Vocabulary) -> Result<Option<Tensor>> {
        let own = self.vocabulary()?.tokenizer();
        let mut rows = Vec::with_capacity(vocabulary.size());
        for id in 0..vocabulary.size() as u32 {
            let token = vocabulary.token(id);
            match own.token_to_id(&token) {
                Some(row) => rows.push(i64::from(row)),
                // numbers without a token lie between those of some tokenizers
                None if token.is_empty() => rows.push(i64::from(id)),
                None => {
                    let path = PathBuf::from("the decoder's tokenizer");
                    let reason = format!("its token {token} is none of {}", self.repository.place());
                    return Err(Error::Tokenizer { path, reason });
                }
            }
        }
        let as_they_lie = rows.iter().zip(0..).all(|(row, id)| *row == id);
        let whole = vocabulary.size() == self.vocabulary()?.size();
        Ok(if as_they_lie && whole { None } else { Some(Tensor::f_from_slice(&rows)?) })
    }

    /// Tensors that transformers passes over too: a head beside a tied embedding, and frequencies that older versions
    /// saved.
    fn is_passed_over(&self, name: &str) -> bool {
        (self.config.tie_embeddings && name == "lm_head.weight") || name.ends_with(".rotary_emb.inv_freq")
    }
}

impl std::fmt::Debug for Pretrained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pretrained({})", self.repository.place())
    }
}

impl StartedFrom {
    /// Where a run folder keeps it.
    pub const FILE: &'static str = "started_from.json";

    /// What a run was started from; `None` where it was not.
    ///
    /// # Errors
    /// A file that is damaged.
    pub fn of_run(run: &Path) -> Result<Option<Self>> {
        let path = run.join(Self::FILE);
        if path.is_file() { crate::files::read_json(&path).map(Some) } else { Ok(None) }
    }
}
