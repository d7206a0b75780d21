//! The encoder: a frozen sentence-transformers model, from a folder or a hub.
#![allow(non_snake_case)]

mod activation;
mod architecture;
mod backbone;
mod batching;
mod bert;
mod checks;
mod differentiable;
mod embedding;
mod folder;
mod gte;
mod head;
mod options;
mod parts;
mod prompts;
mod qwen;
mod rounded;
mod tokens;
mod untrained;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use serde::Serialize;
use tch::{Device, Kind, Tensor};
use tokenizers::Tokenizer;

pub use batching::{Batch, batches, padding_percent};
pub use differentiable::Frame;
pub use options::EncoderOptions;
pub use rounded::write_rounded;
pub use untrained::Untrained;

use crate::embed::{Embed, TokenCounter};
use crate::error::{Error, Result};
use crate::hub::Repository;
use crate::space::{Prompt, Space};
use backbone::{Backbone, Source};
use embedding::WINDOW;
use folder::{ModelFolder, ModelWeights};
use head::Dense;
use prompts::Prompts;
use tokens::TextTokens;

/// A frozen model that turns texts into vectors, under one prompt.
pub struct Encoder {
    space: Space,
    network: Rc<Network>,
    batch_tokens: usize,
    odd: Cell<OddTexts>,
}

/// How many texts were not taken as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OddTexts {
    /// Longer than the maximum length, and cut there.
    pub cut: usize,
    /// Without a single token, not even a special one; their vectors are zero.
    pub empty: usize,
}

/// What encoders of one model under several prompts share.
struct Network {
    tokens: TextTokens,
    backbone: Box<dyn Backbone>,
    dense: Vec<Dense>,
    device: Device,
    kind: Kind,
    prompts: Prompts,
    prompt_pooling: PromptPooling,
}

/// Whether a prompt's tokens are pooled with the text's, and the configuration that a refusal names.
struct PromptPooling {
    pooled: bool,
    config: PathBuf,
}

impl Encoder {
    /// Opens a sentence-transformers folder, or `organisation/name[@revision]` on the hub.
    ///
    /// # Errors
    /// Every kind of damage to the folder, a part that is not supported, an unknown prompt or dimension: see [`Error`].
    pub fn open(source: &str, options: &EncoderOptions) -> Result<Self> {
        Self::from_repository(&Repository::open(source)?, options)
    }

    /// Opens an encoder from a repository.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_repository(repository: &Repository, options: &EncoderOptions) -> Result<Self> {
        let folder = ModelFolder::read(repository, options.dim)?;
        // before the weights are fetched and looked at: a mistyped word should not cost minutes
        let prompt = folder.prompts.find(repository.name(), options.prompt.as_deref())?;
        let prompt_pooling = PromptPooling { pooled: folder.pool_prompt, config: folder.config.clone() };
        prompt_pooling.require(&prompt)?;
        folder.require_dim(repository, options.dim)?;
        let device = options.device.resolve()?;
        let kind = options.dtype.resolve(device);
        let _no_grad = tch::no_grad_guard();
        let weights = folder.open_weights(repository)?;
        let source = Source {
            config: &folder.config,
            weights: weights.transformer.clone(),
            device,
            kind,
            pooling: folder.pooling,
            attention: options.attention,
        };
        let backbone = architecture::load(&folder.architecture, &source)?;
        let sizes = backbone.dimensions();
        let tokens = TextTokens::read(&folder.tokenizer, folder.lower_case, sizes.vocab)?;
        let dense = load_dense(&folder, &weights, sizes.hidden, device)?;
        let max_tokens = max_tokens(&folder, sizes.positions, options.max_tokens, tokens.special_count())?;
        let space = Space {
            encoder: repository.name().to_owned(),
            revision: repository.revision().map(str::to_owned),
            weights_digest: weights.digest(),
            prompt,
            other_prompts: vec![],
            special_tokens: Some(tokens.special.clone()),
            attention: backbone.attention(),
            pooling: folder.pooling,
            dense: folder.dense_name(),
            dim: folder.dim(),
            normalize: options.normalize.unwrap_or(true),
            max_tokens,
        };
        let prompts = folder.prompts;
        let network = Network { tokens, backbone, dense, device, kind, prompts, prompt_pooling };
        network.require_room(&space)?;
        Ok(Self::new(space, Rc::new(network), options.batch_tokens.max(1)))
    }

    fn new(space: Space, network: Rc<Network>, batch_tokens: usize) -> Self {
        Self { space, network, batch_tokens, odd: Cell::default() }
    }

    /// The same encoder under another prompt; the weights are shared.
    ///
    /// # Errors
    /// [`Error::UnknownPrompt`], [`Error::Unsupported`] where the model pools without the prompt's tokens, or
    /// [`Error::Config`] for a prompt that leaves no room for a text.
    pub fn under(&self, prompt: &str) -> Result<Self> {
        let prompt = self.network.prompts.find(&self.space.encoder, Some(prompt))?;
        self.network.prompt_pooling.require(&prompt)?;
        let space = Space { prompt, ..self.space.clone() };
        self.network.require_room(&space)?;
        Ok(Self::new(space, self.network.clone(), self.batch_tokens))
    }

    /// The device that it computes on.
    pub fn device(&self) -> Device {
        self.network.device
    }

    /// The format that it computes in.
    pub fn kind(&self) -> Kind {
        self.network.kind
    }

    /// Token ids of texts with prompt and special tokens, cut to the maximum length.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokenize(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        Ok(self.network.tokens.ids(texts, &self.space.prompt.text, self.space.max_tokens)?.0)
    }

    /// How many of the texts embedded so far were cut or empty.
    pub fn odd_texts(&self) -> OddTexts {
        self.odd.get()
    }

    /// Last hidden states of one text, `[T, H]` f32 on the CPU: what is pooled.
    ///
    /// # Errors
    /// As [`Embed::embed`].
    pub fn hidden_states(&self, text: &str) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let ids = self.tokenize(&[text])?;
        if ids[0].is_empty() {
            return Ok(Tensor::f_zeros(
                [0, self.network.backbone.dimensions().hidden],
                (Kind::Float, Device::Cpu),
            )?);
        }
        let batch = Batch { rows: vec![0], length: ids[0].len(), ragged: false };
        let states_BTH = self.network.hidden(&ids, &batch)?.0;
        Ok(states_BTH.f_squeeze_dim(0)?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?)
    }

    /// Operations of the matrix products for one text of so many tokens, dense heads aside.
    pub fn flops(&self, tokens: usize) -> f64 {
        self.network.backbone.flops(tokens)
    }
}

impl Network {
    /// Last hidden states of a batch, `[B, T, H]`, and its mask `[B, T]` where some row is padded.
    fn hidden(&self, ids: &[Vec<u32>], batch: &Batch) -> Result<(Tensor, Option<Tensor>)> {
        let shape = [batch.rows.len() as i64, batch.length as i64];
        let mut flat = vec![0i64; batch.rows.len() * batch.length];
        let mut mask = vec![false; if batch.ragged { flat.len() } else { 0 }];
        for (place, &row) in batch.rows.iter().enumerate() {
            let start = place * batch.length;
            flat[start..].iter_mut().zip(&ids[row]).for_each(|(slot, &id)| *slot = i64::from(id));
            if batch.ragged {
                mask[start..start + ids[row].len()].fill(true);
            }
        }
        let ids_BT = torch_ext::send(&Tensor::f_from_slice(&flat)?.f_view(shape)?, self.device)?;
        let mask_BT = if batch.ragged {
            Some(torch_ext::send(&Tensor::f_from_slice(&mask)?.f_view(shape)?, self.device)?)
        } else {
            None
        };
        let states_BTH = match self.odd_positions(ids, batch)? {
            Some(positions_BT) => self.backbone.hidden_at(&ids_BT, &positions_BT, mask_BT.as_ref())?,
            None => self.backbone.hidden(&ids_BT, mask_BT.as_ref())?,
        };
        Ok((states_BTH, mask_BT))
    }

    /// The positions of a batch's tokens, `[B, T]`, where those of some text are not 0, 1, 2, …
    fn odd_positions(&self, ids: &[Vec<u32>], batch: &Batch) -> Result<Option<Tensor>> {
        let of_rows: Vec<Option<Vec<i64>>> =
            batch.rows.iter().map(|&row| self.backbone.odd_positions(&ids[row])).collect();
        if of_rows.iter().all(Option::is_none) {
            return Ok(None);
        }
        let mut flat: Vec<i64> = Vec::with_capacity(of_rows.len() * batch.length);
        for odd in &of_rows {
            let odd = odd.as_deref().unwrap_or_default();
            flat.extend(odd);
            flat.extend(odd.len() as i64..batch.length as i64);
        }
        let shape = [of_rows.len() as i64, batch.length as i64];
        Ok(Some(torch_ext::send(&Tensor::f_from_slice(&flat)?.f_view(shape)?, self.device)?))
    }

    /// Refuses a prompt that fills the maximum length by itself: all texts would have one vector.
    fn require_room(&self, space: &Space) -> Result<()> {
        let tokens = self.tokens.counter(&space.prompt.text).count("")?;
        if tokens < space.max_tokens {
            return Ok(());
        }
        let name = &space.prompt.name;
        Err(Error::Config {
            path: space.encoder.clone().into(),
            key: "max_seq_length".into(),
            value: space.max_tokens.to_string(),
            reason: format!("the prompt `{name}` and the special tokens are {tokens} tokens already"),
        })
    }
}

impl Embed for Encoder {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.network.tokens.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn texts_together(&self) -> usize {
        if self.device().is_cuda() { WINDOW } else { 1024 }
    }

    fn token_counter(&self) -> TokenCounter<'_> {
        self.network.tokens.counter(&self.space.prompt.text)
    }

    fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        self.embed_with(texts, &mut |_| ())
    }
}

/// The dense heads in their order.
fn load_dense(
    folder: &ModelFolder,
    weights: &ModelWeights,
    hidden: i64,
    device: Device,
) -> Result<Vec<Dense>> {
    let mut width = hidden;
    let mut dense = vec![];
    for (part, weights) in folder.dense.iter().zip(&weights.dense) {
        dense.push(Dense::load(part, weights, width, device)?);
        width = part.config.out_features;
    }
    Ok(dense)
}

/// What was asked for, or what the model asks for, of its `limit` positions at most.
fn max_tokens(
    folder: &ModelFolder,
    limit: usize,
    asked: Option<usize>,
    special_tokens: usize,
) -> Result<usize> {
    let config = &folder.config;
    let (path, key, length) = match (asked, &folder.max_tokens) {
        (Some(length), _) => (config, "max_tokens", length),
        (None, Some((length, path))) => (path, "max_seq_length", *length),
        // what the tokenizer says is no more than a bound: some name the length that their rotary positions could be
        // stretched to
        (None, None) => {
            let length = folder.tokenizer_max_tokens.unwrap_or(512);
            (config, "max_position_embeddings", length.min(limit))
        }
    };
    let bad = |reason: String| {
        let (path, value) = (path.clone(), length.to_string());
        Error::Config { path, key: key.to_owned(), value, reason }
    };
    if asked.is_some() && length > limit {
        let reason = format!("the model has {limit} positions, and --max-tokens must not ask for more");
        return Err(bad(reason));
    }
    if length > limit {
        let file = path.display();
        tracing::warn!("{file}: {key} is {length}, but the model has {limit} positions: texts are cut there");
    }
    if length.min(limit) <= special_tokens {
        return Err(bad(format!("the tokenizer adds {special_tokens} special tokens to every text")));
    }
    Ok(length.min(limit))
}

impl PromptPooling {
    /// Refuses a prompt where its tokens would have to be left out.
    fn require(&self, prompt: &Prompt) -> Result<()> {
        if self.pooled || prompt.text.is_empty() {
            return Ok(());
        }
        Err(Error::Unsupported {
            path: self.config.clone(),
            what: "pooling",
            name: "without the prompt's tokens (include_prompt: false)".into(),
            supported: vec!["include_prompt: true"],
        })
    }
}
