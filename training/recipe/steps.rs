//! `[training]`, `[optimizer]`, `[schedule]`, `[distributed]`: how steps are taken.

use models::{DeviceChoice, Dtype};
use serde::{Deserialize, Serialize};

/// `[training]`: steps, batches, what is logged and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSection {
    /// Every random stream (initial weights, order of the data) follows from it. Default: 0.
    pub seed: u64,
    /// Where to train: `auto`, `cpu`, `cuda`, `cuda:N`. Default: `auto`.
    pub device: DeviceChoice,
    /// Number format of the matrix products: `auto`, `f32`, `bf16`. Masters are f32 always. Default: `auto`.
    pub dtype: Dtype,
    /// Target tokens of one step, `<eos>` included and padding excluded. Default: 16384.
    pub batch_tokens: usize,
    /// Most texts in one step. Default: no bound but `batch_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_texts: Option<usize>,
    /// Parts that a step's batch is computed in, one after another; saves memory, changes nothing else. Default: 1.
    pub accumulate: usize,
    /// Stop after this many steps. Default: no bound; this or `max_minutes` must be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Stop after this many minutes of training, earlier parts of a resumed run included. Default: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// Steps between two lines of metrics. Default: 10.
    pub log_every: u64,
    /// Steps between two evaluations on the dev pairs; 0 evaluates at the end only. Default: 500.
    pub eval_every: u64,
    /// Dev pairs in the dev loss, of all prompts. Default: 1024.
    pub eval_texts: usize,
    /// Steps between two checkpoints, those of evaluations that are the best so far aside; 0 saves these and the end only.
    /// Default: 500.
    pub checkpoint_every: u64,
    /// Checkpoints kept, the best one aside. Default: 2.
    pub keep_last: usize,
    /// Gradients with a larger norm are scaled down to it; 0 leaves them as they are. Default: 1.
    pub clip_norm: f64,
    /// Decay a step of the averaged weights, which are evaluated and exported; 0 keeps none. Default: 0.999.
    pub ema_decay: f64,
    /// Share of the target's probability spread over the vocabulary. Default: 0.
    pub label_smoothing: f64,
    /// Share of the texts whose length in tokens is told to the decoder, so that it can be told later. Default: 0.
    pub length_told: f64,
    /// Share of a text's tokens that the decoder does not get to see as it predicts the next ones, `<bos>` standing in their
    /// place (word dropout, Bowman et al., 2016, arXiv 1511.06349): it must ask the vector. Default: 0.
    pub word_dropout: f64,
    /// Threads for matrix products. Default: as many as there are cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl Default for TrainingSection {
    fn default() -> Self {
        Self {
            seed: 0,
            device: DeviceChoice::Auto,
            dtype: Dtype::Auto,
            batch_tokens: 16_384,
            batch_texts: None,
            accumulate: 1,
            max_steps: None,
            max_minutes: None,
            log_every: 10,
            eval_every: 500,
            eval_texts: 1024,
            checkpoint_every: 500,
            keep_last: 2,
            clip_norm: 1.0,
            ema_decay: 0.999,
            label_smoothing: 0.0,
            length_told: 0.0,
            word_dropout: 0.0,
            threads: None,
        }
    }
}

/// `[optimizer]`: how gradients become steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSection {
    /// Which optimizer. Default: `adamw`.
    pub kind: OptimizerKind,
    /// Learning rate at the end of the warm-up. Default: 1e-3.
    pub learning_rate: f64,
    /// AdamW: decay of the first moment. Default: 0.9.
    pub beta1: f64,
    /// AdamW: decay of the second moment. Default: 0.95.
    pub beta2: f64,
    /// AdamW: added to the root of the second moment. Default: 1e-8.
    pub eps: f64,
    /// Muon: decay of the momentum. Default: 0.95.
    pub momentum: f64,
    /// Muon: Newton-Schulz iterations of a step. Default: 5.
    pub newton_schulz_iterations: usize,
    /// Decoupled weight decay on matrices and embeddings; norms and biases have none. Default: 0.1.
    pub weight_decay: f64,
}

impl Default for OptimizerSection {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::Adamw,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            momentum: 0.95,
            newton_schulz_iterations: 5,
            weight_decay: 0.1,
        }
    }
}

/// Which optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv 1711.05101).
    Adamw,
    /// Muon (Jordan et al., 2024) for the matrices of blocks and projector, its steps as long as AdamW's (Liu et al.,
    /// 2025, arXiv 2502.16982); AdamW for embeddings, head, norms and biases.
    Muon,
}

/// `[schedule]`: the learning rate over time.
///
/// After the warm-up it falls with the progress of the training, the larger of step / `max_steps` and elapsed /
/// `max_minutes`, so that a training bounded by the clock ends annealed as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSection {
    /// Form of the fall. Default: `cosine`.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from 0. Default: 100.
    pub warmup_steps: u64,
    /// Learning rate at the end, as a share of the highest. Default: 0.05.
    pub final_fraction: f64,
}

impl Default for ScheduleSection {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 100, final_fraction: 0.05 }
    }
}

/// Form of the learning rate's fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine (Loshchilov and Hutter, 2017, arXiv 1608.03983).
    Cosine,
    /// A straight line.
    Linear,
    /// No fall.
    Constant,
}

/// `[distributed]`: several processes. None of it changes what is learnt, beyond rounding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistributedSection {
    /// Longest time that a process waits for the others, in seconds. Default: 600.
    pub timeout_seconds: f64,
    /// Gradients that are sent together, in MiB: a part of them is on its way while the rest is computed. Default: 25, as
    /// PyTorch's DistributedDataParallel.
    pub bucket_mib: f64,
    /// Whether each process keeps and updates its share of the optimizer's state alone (ZeRO stage 1): 8 bytes less a
    /// parameter, for one more exchange a step. Default: false.
    pub shard_optimizer: bool,
}

impl Default for DistributedSection {
    fn default() -> Self {
        Self { timeout_seconds: 600.0, bucket_mib: 25.0, shard_optimizer: false }
    }
}
