//! The encoder: a frozen sentence-transformers model, from a folder or a hub.
#![allow(non_snake_case)]

mod activation;
mod backbone;
mod batching;
mod bert;
mod folder;
mod head;

use std::borrow::Cow;
use std::path::Path;

use tch::{Device, Kind, Tensor};
use tokenizers::{Encoding, Tokenizer};

pub use batching::{Batch, batches, padding_percent};

use crate::device::{DeviceChoice, Dtype};
use crate::embed::{Embed, TokenCounter};
use crate::error::{Error, Result};
use crate::hub::Repository;
use crate::space::Space;
use crate::weights::digest_of;
use backbone::Backbone;
use folder::ModelFolder;
use head::Dense;

/// How to open an encoder.
#[derive(Debug, Clone)]
pub struct EncoderOptions {
    /// Where to compute.
    pub device: DeviceChoice,
    /// Format of the matrix products; pooling and what follows is in f32 always.
    pub dtype: Dtype,
    /// Name of the prompt; `None` is the model's default, which mostly is no prompt.
    pub prompt: Option<String>,
    /// Padded tokens in a batch.
    pub batch_tokens: usize,
    /// Cut texts at this many tokens instead of the model's own maximum.
    pub max_tokens: Option<usize>,
    /// Scale vectors to length 1, whatever the model's modules say.
    pub normalize: Option<bool>,
    /// Numbers in a vector, where the model has a dense head for several sizes.
    pub dim: Option<usize>,
}

impl Default for EncoderOptions {
    fn default() -> Self {
        Self {
            device: DeviceChoice::Auto,
            dtype: Dtype::Auto,
            prompt: None,
            batch_tokens: 8192,
            max_tokens: None,
            normalize: None,
            dim: None,
        }
    }
}

/// A frozen model that turns texts into vectors.
pub struct Encoder {
    space: Space,
    tokenizer: Tokenizer,
    lower_case: bool,
    /// Special tokens that the tokenizer puts around one text.
    special_tokens: usize,
    backbone: Box<dyn Backbone>,
    dense: Vec<Dense>,
    device: Device,
    kind: Kind,
    batch_tokens: usize,
}

/// Texts that are tokenized and sorted together; more would cost memory and gain nothing.
const WINDOW: usize = 16_384;

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
        let device = options.device.resolve()?;
        let kind = options.dtype.resolve(device);
        let _no_grad = tch::no_grad_guard();
        let backbone = backbone::load(&folder.config, &folder.weights, device, kind)?;
        let tokenizer = read_tokenizer(&folder.tokenizer, backbone.vocab_size())?;
        let mut dense = vec![];
        let mut dim = backbone.hidden_size();
        for part in &folder.dense {
            dense.push(Dense::load(part, dim, device)?);
            dim = part.config.out_features;
        }
        let dim = dim as usize;
        if let Some(asked) = options.dim.filter(|asked| *asked != dim) {
            return Err(Error::UnknownDim { encoder: repository.name().to_owned(), found: dim, asked });
        }
        let special_tokens = tokenizer.encode("", true).map_err(tokenize_error)?.len();
        let max_tokens = max_tokens(&folder, backbone.as_ref(), options.max_tokens, special_tokens)?;
        let space = space(repository, &folder, options, dim, max_tokens)?;
        let lower_case = folder.lower_case;
        let batch_tokens = options.batch_tokens.max(1);
        Ok(Self { space, tokenizer, lower_case, special_tokens, backbone, dense, device, kind, batch_tokens })
    }

    /// The device that it computes on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The format that it computes in.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// [`Embed::embed`], with a call after each batch that says how many texts are done.
    ///
    /// # Errors
    /// As [`Embed::embed`].
    pub fn embed_with(&self, texts: &[&str], progress: &mut dyn FnMut(usize)) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let mut done = 0;
        let mut windows = vec![Tensor::f_zeros([0, self.space.dim as i64], (Kind::Float, Device::Cpu))?];
        for window in texts.chunks(WINDOW) {
            let first = done;
            let vectors = self.embed_window(window, &mut |n| {
                done += n;
                progress(done);
            })?;
            require_finite(&vectors, first)?;
            windows.push(vectors);
        }
        Ok(Tensor::f_cat(&windows, 0)?)
    }

    /// Token ids of texts with prompt and special tokens, cut to the maximum length.
    ///
    /// # Errors
    /// [`Error::Tokenize`].
    pub fn tokenize(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let counter = self.token_counter();
        let prepared: Vec<_> = texts.iter().map(|text| counter.prepared(text)).collect();
        // in parallel; without character offsets, which nothing here needs
        let encodings = self.tokenizer.encode_batch_fast(prepared.iter().map(|text| &**text).collect(), true);
        let cut = |(encoding, text): (Encoding, &Cow<'_, str>)| {
            if encoding.len() <= self.space.max_tokens {
                Ok(encoding.get_ids().to_vec())
            } else {
                self.cut(text)
            }
        };
        encodings.map_err(tokenize_error)?.into_iter().zip(&prepared).map(cut).collect()
    }

    /// The ids of a text too long: its first tokens, with the special tokens around them as around any other text.
    fn cut(&self, text: &str) -> Result<Vec<u32>> {
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(tokenize_error)?;
        let room = self.space.max_tokens - self.special_tokens;
        encoding.truncate(room, 0, tokenizers::TruncationDirection::Right);
        Ok(self.tokenizer.post_process(encoding, None, true).map_err(tokenize_error)?.get_ids().to_vec())
    }

    fn embed_window(&self, texts: &[&str], progress: &mut dyn FnMut(usize)) -> Result<Tensor> {
        let ids = self.tokenize(texts)?;
        let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
        let mut parts = vec![];
        let mut positions = vec![0i64; texts.len()];
        let mut next = 0;
        for batch in batches(&lengths, self.batch_tokens) {
            parts.push(self.embed_batch(&ids, &batch)?);
            for &row in &batch.rows {
                positions[row] = next;
                next += 1;
            }
            progress(batch.rows.len());
        }
        // row i of the result is where text i was put
        let sorted_ND = Tensor::f_cat(&parts, 0)?;
        Ok(sorted_ND.f_index_select(0, &Tensor::f_from_slice(&positions)?)?)
    }

    /// The vectors of one batch, `[B, dim]`, f32 on the CPU.
    fn embed_batch(&self, ids: &[Vec<u32>], batch: &Batch) -> Result<Tensor> {
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
        let ids_BT = Tensor::f_from_slice(&flat)?.f_view(shape)?.f_to_device(self.device)?;
        let mask_BT = if batch.ragged {
            Some(Tensor::f_from_slice(&mask)?.f_view(shape)?.f_to_device(self.device)?)
        } else {
            None
        };
        let states_BTH = self.backbone.hidden(&ids_BT, mask_BT.as_ref())?;
        let mut x_BD = head::pool(self.space.pooling, &states_BTH, mask_BT.as_ref())?;
        for dense in &self.dense {
            x_BD = dense.forward(&x_BD)?;
        }
        if self.space.normalize {
            x_BD = head::normalize(&x_BD)?;
        }
        Ok(x_BD.f_to_device(Device::Cpu)?)
    }
}

impl Embed for Encoder {
    fn space(&self) -> &Space {
        &self.space
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn max_tokens(&self) -> usize {
        self.space.max_tokens
    }

    fn token_counter(&self) -> TokenCounter<'_> {
        let lower_case = self.lower_case;
        TokenCounter { tokenizer: &self.tokenizer, prompt: &self.space.prompt.text, lower_case }
    }

    fn embed(&self, texts: &[&str]) -> Result<Tensor> {
        self.embed_with(texts, &mut |_| ())
    }
}

fn read_tokenizer(path: &Path, rows: i64) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_bytes(fs_err::read(path)?)
        .map_err(|error| Error::Tokenizer { path: path.to_owned(), reason: error.to_string() })?;
    let largest = tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
    if let Some((token, id)) = largest.filter(|(_, id)| i64::from(*id) >= rows) {
        return Err(Error::TokenizerFit { path: path.to_owned(), token, id, rows });
    }
    // cutting and padding is done here, to the model's length and to the batch's
    tokenizer.with_padding(None);
    tokenizer.with_truncation(None).map_err(tokenize_error)?;
    Ok(tokenizer)
}

fn max_tokens(
    folder: &ModelFolder,
    backbone: &dyn Backbone,
    asked: Option<usize>,
    special_tokens: usize,
) -> Result<usize> {
    let limit = backbone.max_positions().unwrap_or(usize::MAX);
    let length = asked.or(folder.max_tokens).unwrap_or(limit.min(512));
    let bad = |reason: String| Error::Config {
        path: folder.config.clone(),
        key: "max_seq_length".into(),
        value: length.to_string(),
        reason,
    };
    if length > limit {
        return Err(bad(format!("the model has {limit} positions")));
    }
    if length <= special_tokens {
        return Err(bad(format!("the tokenizer adds {special_tokens} special tokens to every text")));
    }
    Ok(length)
}

fn space(
    repository: &Repository,
    folder: &ModelFolder,
    options: &EncoderOptions,
    dim: usize,
    max_tokens: usize,
) -> Result<Space> {
    let prompt = folder.prompt(repository.name(), options.prompt.as_deref())?;
    if !folder.pool_prompt && !prompt.text.is_empty() {
        return Err(Error::Unsupported {
            path: folder.config.clone(),
            what: "pooling",
            name: "without the prompt's tokens (include_prompt: false)".into(),
            supported: vec!["include_prompt: true"],
        });
    }
    let weights: Vec<_> =
        std::iter::once(&folder.weights).chain(folder.dense.iter().map(|dense| &dense.weights)).collect();
    let dense: Vec<_> = folder.dense.iter().map(|dense| dense.name.as_str()).collect();
    Ok(Space {
        encoder: repository.name().to_owned(),
        revision: repository.revision().map(str::to_owned),
        weights_digest: digest_of(&weights),
        prompt,
        pooling: folder.pooling,
        dense: (!dense.is_empty()).then(|| dense.join("+")),
        dim,
        normalize: options.normalize.unwrap_or(folder.normalize),
        max_tokens,
    })
}

fn require_finite(vectors_ND: &Tensor, first: usize) -> Result<()> {
    let finite_N = vectors_ND.f_isfinite()?.f_all_dim(1, false)?;
    let bad = finite_N.f_logical_not()?.f_nonzero()?;
    if bad.numel() == 0 {
        return Ok(());
    }
    Err(Error::NonFinite { index: first + bad.f_int64_value(&[0, 0])? as usize })
}

fn tokenize_error(error: tokenizers::Error) -> Error {
    Error::Tokenize(error.to_string())
}
