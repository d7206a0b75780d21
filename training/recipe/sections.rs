//! The typed recipe: one struct a section, one field a key. `configs/base.toml` is the same for readers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use data::pairs::{BuildConfig, Storage};
use data::{CorpusConfig, CurationConfig, SplitConfig};
use models::decoder_config::{Activation, DecoderConfig};
use models::device::kind_name;
use models::{Attention, DeviceChoice, Dtype};
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::consistency::ConsistencySection;
use super::refinement::{NoiseSection, RefinementSection};
use super::steps::{DistributedSection, OptimizerSection, ScheduleSection, TrainingSection};

/// Everything about a training.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Its name. Default: the file's name without `.toml`.
    pub name: String,
    /// The frozen model text -> vector.
    pub encoder: EncoderSection,
    /// Rules for which texts become pairs.
    pub curation: CurationConfig,
    /// Shares of dev and test.
    pub split: SplitConfig,
    /// The pair set.
    pub pairs: PairsSection,
    /// How the decoder cuts text into tokens.
    pub tokenizer: TokenizerSection,
    /// Shape of the decoder.
    pub decoder: DecoderSection,
    /// Steps, batches, what is logged and kept.
    pub training: TrainingSection,
    /// The optimizer.
    pub optimizer: OptimizerSection,
    /// The learning rate over time.
    pub schedule: ScheduleSection,
    /// The loss between a text's vector and that of what the decoder writes.
    pub consistency: ConsistencySection,
    /// Several processes.
    pub distributed: DistributedSection,
    /// How the decoder learns to refine its guesses.
    pub refinement: RefinementSection,
    /// Noise on the vectors that it learns from.
    pub noise: NoiseSection,
    /// The round trip at each evaluation of a training.
    pub eval: EvalSection,
    /// The run folder.
    pub run: RunSection,
    /// Sources of texts, read in this order. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub corpus: Vec<CorpusConfig>,
}

/// `[encoder]`: the frozen model text -> vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncoderSection {
    /// A sentence-transformers folder, or a hub name with an optional `@revision`. Default: none, it must be said.
    pub source: String,
    /// Name of the prompt put before each text. Default: the model's own, which mostly is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Names of several prompts, instead of `prompt`: each text has a vector under every one, and a decoder reads all of
    /// them. The first is the one that is taken where one alone will do. Default: none, `prompt` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<Vec<String>>,
    /// Number format of its matrix products: `auto`, `f32`, `bf16`, `f16`. Default: `auto`.
    pub dtype: Dtype,
    /// Where it runs: `auto`, `cpu`, `cuda`, `cuda:N`. Default: `auto`.
    pub device: DeviceChoice,
    /// Cut texts at this many tokens, special ones included. Default: the model's maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Padded tokens in a batch. Default: 8192.
    pub batch_tokens: usize,
    /// Numbers in a vector, for models with several dense heads. Default: the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Whether vectors are scaled to length 1. Default: true.
    pub normalize: bool,
    /// Which tokens of a text see which, `bidirectional` or `causal`, where the model's files leave it open. Default: as
    /// they say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
}

impl Default for EncoderSection {
    fn default() -> Self {
        Self {
            source: String::new(),
            prompt: None,
            prompts: None,
            dtype: Dtype::Auto,
            device: DeviceChoice::Auto,
            max_tokens: None,
            batch_tokens: 8192,
            dim: None,
            normalize: true,
            attention: None,
        }
    }
}

impl EncoderSection {
    /// What it computes in on this machine; none where its device is not there.
    fn dtype_here(&self) -> Option<Kind> {
        Some(self.dtype.resolve(self.device.resolve().ok()?))
    }
}

/// `[pairs]`: the pair set on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PairsSection {
    /// Its folder. Default: `runs/NAME-pairs`.
    pub dir: PathBuf,
    /// Pairs in a shard, those of one text together; a killed build loses at most one shard. Default: 16384.
    pub shard_rows: usize,
    /// How vectors are stored: `f16` or `f32`. Default: `f16`.
    pub storage: Storage,
    /// Files of texts, one a line, that must not become pairs: what the decoder is evaluated on. Default: none.
    pub exclude: Vec<PathBuf>,
}

impl Default for PairsSection {
    fn default() -> Self {
        Self { dir: PathBuf::new(), shard_rows: 16_384, storage: Storage::F16, exclude: Vec::new() }
    }
}

/// `[tokenizer]`: how the decoder cuts text into tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenizerSection {
    /// Where the vocabulary comes from. Default: `bpe`.
    pub kind: TokenizerKind,
    /// Most tokens in the vocabulary of `bpe`; a small corpus gives fewer. Default: 50000.
    pub vocab: usize,
    /// Whether the tokens of `decoder.start_from` are cut to those that the training pairs use. Default: false.
    pub cut: bool,
}

impl Default for TokenizerSection {
    fn default() -> Self {
        Self { kind: TokenizerKind::Bpe, vocab: 50_000, cut: false }
    }
}

/// Where the decoder's vocabulary comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// Byte-level BPE trained on the training pairs: every text can be written, case included.
    Bpe,
    /// The encoder's own tokens, cut to those that the training pairs use.
    Encoder,
}

/// `[decoder]`: shape of the decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderSection {
    /// Width of the residual stream. Default: 512.
    pub hidden: i64,
    /// Number of blocks. Default: 8.
    pub layers: i64,
    /// Number of query heads. Default: 8.
    pub heads: i64,
    /// Number of key and value heads, a divisor of `heads`. Default: `heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<i64>,
    /// Width of a head, even. Default: `hidden / heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<i64>,
    /// Width of the feed-forward layers. Default: 1408.
    pub ffn: i64,
    /// Input embeddings that a vector becomes. Default: 4.
    pub prefix_tokens: i64,
    /// Width of the projector's middle layer. Default: `2 * hidden`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projector_hidden: Option<i64>,
    /// Longest text in tokens, `<eos>` included; longer pairs are not trained on. Default: 128.
    pub max_tokens: i64,
    /// Whether the vocabulary head is the embedding table. Default: true.
    pub tie_embeddings: bool,
    /// Base of the rotary frequencies. Default: 10000.
    pub rope_theta: f64,
    /// Added to the mean square in RMSNorm. Default: 1e-5.
    pub rms_norm_eps: f64,
    /// Factor on every number of the vector. Default: the square root of the vector's dimension, which gives the
    /// numbers of a unit vector variance 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_scale: Option<f64>,
    /// Whether each number of the vector is normalised instead, by what the training vectors say of it. Default: `none`.
    pub input_normalization: InputNormalization,
    /// A pre-trained Llama or Qwen2 whose blocks, embedding, head and tokens the decoder begins with: a folder, or a hub
    /// name with an optional `@revision`. Default: none, all weights are random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_from: Option<String>,
    /// Keys that are said although `start_from` decides them; they must agree with it.
    #[serde(skip)]
    pub said: BTreeSet<String>,
}

/// How each number of the vector is brought to center 0 and spread 1, fitted to at most 100,000 training vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputNormalization {
    /// Not at all: `input_scale` for all alike.
    None,
    /// By mean and standard deviation.
    Standard,
    /// By median and 0.7413 times the distance of the quartiles (arXiv 2412.08821).
    Robust,
}

impl Default for DecoderSection {
    fn default() -> Self {
        Self {
            hidden: 512,
            layers: 8,
            heads: 8,
            kv_heads: None,
            head_dim: None,
            ffn: 1408,
            prefix_tokens: 4,
            projector_hidden: None,
            max_tokens: 128,
            tie_embeddings: true,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            input_scale: None,
            input_normalization: InputNormalization::None,
            start_from: None,
            said: BTreeSet::new(),
        }
    }
}

/// `[eval]`: the round trip at each evaluation of a training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvalSection {
    /// Dev texts that are decoded greedily, scored, and shown in the log, from their vectors under the first prompt; 0
    /// decodes none. Default: 64.
    pub texts: usize,
    /// Vectors decoded at once. Default: 64.
    pub batch: usize,
    /// Decoded texts shown beside their originals. Default: 3.
    pub samples: usize,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self { texts: 64, batch: 64, samples: 3 }
    }
}

/// `[run]`: the run folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// The folder. Default: `runs/NAME`.
    pub dir: PathBuf,
}

impl Recipe {
    /// What the pair set of this recipe follows from, built on this machine.
    pub fn pairs_config(&self) -> BuildConfig {
        BuildConfig {
            corpora: self.corpus.clone(),
            curation: self.curation.clone(),
            split: self.split,
            exclude: self.pairs.exclude.clone(),
            storage: self.pairs.storage,
            shard_rows: self.pairs.shard_rows,
            dir: self.pairs.dir.clone(),
            encoder_dtype: self.encoder.dtype_here().map(|kind| kind_name(kind).to_owned()),
        }
    }

    /// The decoder's shape for vectors of `dim` numbers and a vocabulary of `vocab` tokens.
    pub fn decoder_config(&self, dim: i64, vocab: i64, bos: i64, eos: i64, pad: i64) -> DecoderConfig {
        let shape = &self.decoder;
        DecoderConfig {
            dim,
            hidden: shape.hidden,
            layers: shape.layers,
            heads: shape.heads,
            kv_heads: shape.kv_heads.unwrap_or(shape.heads),
            head_dim: shape.head_dim.unwrap_or(shape.hidden / shape.heads.max(1)),
            ffn: shape.ffn,
            vocab,
            prefix_tokens: shape.prefix_tokens,
            projector_hidden: shape.projector_hidden.unwrap_or(2 * shape.hidden),
            max_tokens: shape.max_tokens,
            rope_theta: shape.rope_theta,
            rms_norm_eps: shape.rms_norm_eps,
            tie_embeddings: shape.tie_embeddings,
            bos_token_id: bos,
            eos_token_id: eos,
            pad_token_id: pad,
            activation: Activation::Gelu,
            input_scale: shape.input_scale.unwrap_or((dim as f64).sqrt()),
            input_normalization: shape.input_normalization != InputNormalization::None,
            refines: self.refinement.share > 0.0,
            knows_noise: self.noise.share > 0.0,
            knows_length: self.training.length_told > 0.0,
            guides: self.noise.withheld > 0.0,
            qkv_bias: false,
        }
    }
}
