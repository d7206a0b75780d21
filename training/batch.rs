//! What a step is trained on.
#![allow(non_snake_case)]

use models::Condition;
use tch::Tensor;

use crate::batches::Cursors;

/// Part of a step's batch: what is computed at once.
#[derive(Debug)]
pub struct MicroBatch {
    /// Rows of the pair set.
    pub rows: Vec<u32>,
    /// What its texts are decoded from.
    pub condition: Condition,
    /// (B, dim) f32: the vectors as they are; `None` where the condition has them so, without noise.
    pub clean_BD: Option<Tensor>,
    /// (B, T) i64: the tokens of the hypothesis where there is one, BOS and the text's tokens, then padding.
    pub tokens_BT: Tensor,
    /// (N) i64: the positions of `tokens_BT`, flattened, that have a target; `None` where all have.
    pub positions_N: Option<Tensor>,
    /// (N) i64: the token that follows each of those positions, EOS in the end.
    pub targets_N: Tensor,
}

impl MicroBatch {
    /// Number of target tokens.
    pub fn targets(&self) -> i64 {
        self.targets_N.size()[0]
    }

    /// The vectors of its texts without noise, (B, dim) f32.
    pub fn vectors(&self) -> &Tensor {
        self.clean_BD.as_ref().unwrap_or(&self.condition.v_BD)
    }

    /// Number of positions, padding included.
    pub fn positions(&self) -> i64 {
        self.tokens_BT.size().iter().product()
    }
}

/// What one step is trained on: this rank's share of it.
#[derive(Debug)]
pub struct Batch {
    /// Its parts; none where the step has fewer texts than there are ranks.
    pub parts: Vec<MicroBatch>,
    /// Target tokens of the step, those of all ranks.
    pub targets: i64,
    /// Texts of the step, those of all ranks.
    pub texts: usize,
    /// How many of them are those of the ranks before this one.
    pub first: usize,
    /// Whether hypotheses are refined in it.
    pub refines: bool,
    /// Where the orders go on after it.
    pub next: Cursors,
    /// Batches in its epoch.
    pub epoch_batches: usize,
}

impl Batch {
    /// A step of one process alone: `parts` are all there is of it.
    pub fn whole(parts: Vec<MicroBatch>, next: Cursors, epoch_batches: usize) -> Self {
        let targets = parts.iter().map(MicroBatch::targets).sum();
        let texts = parts.iter().map(|part| part.rows.len()).sum();
        Self { parts, targets, texts, first: 0, refines: false, next, epoch_batches }
    }

    /// Number of target tokens of this rank.
    pub fn own_targets(&self) -> i64 {
        self.parts.iter().map(MicroBatch::targets).sum()
    }
}
