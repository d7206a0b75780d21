//! What is kept of a step whose loss or gradients are no numbers.
#![allow(non_snake_case)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use models::{Condition, files, save_tensors};
use serde_json::json;

use crate::batch::Batch;
use crate::prepare::Prepared;
use crate::step::StepResult;
use crate::{Error, Result};

/// Leaves the texts, token ids, vectors and what else was told of a step in `failed-step-N/` of the run, and makes the error that ends the
/// training.
pub(crate) fn keep_failed_step(
    run: &Path,
    rank: usize,
    step: u64,
    prepared: &Prepared,
    batch: &Batch,
    found: StepResult,
) -> Error {
    // each rank has only its share of the step
    let name =
        if rank == 0 { format!("failed-step-{step}") } else { format!("failed-step-{step}-rank-{rank}") };
    let folder = run.join(name);
    match keep(&folder, step, prepared, batch, found) {
        Ok(()) => Error::NonFinite { step, loss: found.loss, grad_norm: found.grad_norm, folder },
        Err(error) => error,
    }
}

fn keep(folder: &PathBuf, step: u64, prepared: &Prepared, batch: &Batch, found: StepResult) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    let mut tensors = Vec::new();
    let mut lines = String::new();
    for (number, part) in batch.parts.iter().enumerate() {
        let Condition { v_BD, hypothesis_BD, noise_B, length_B, withheld_B } = &part.condition;
        let named = [
            ("vectors", Some(v_BD)),
            ("clean_vectors", part.clean_BD.as_ref()),
            ("hypotheses", hypothesis_BD.as_ref()),
            ("noise", noise_B.as_ref()),
            ("lengths", length_B.as_ref()),
            ("withheld", withheld_B.as_ref()),
            ("tokens", Some(&part.tokens_BT)),
            ("targets", Some(&part.targets_N)),
            ("positions", part.positions_N.as_ref()),
        ];
        for (name, tensor) in named {
            tensors.extend(tensor.map(|tensor| (format!("{number}.{name}"), tensor.shallow_clone())));
        }
        for &row in &part.rows {
            let finite = prepared.pairs.vector(row as usize).iter().all(|number| number.is_finite());
            let text = prepared.pairs.text(row as usize);
            let line = json!({"part": number, "row": row, "text": text, "vector_is_finite": finite});
            lines.push_str(&format!("{line}\n"));
        }
    }
    save_tensors(&folder.join("batch.safetensors"), &tensors, &BTreeMap::new())?;
    files::write_atomically(&folder.join("texts.jsonl"), |file| Ok(file.write_all(lines.as_bytes())?))?;
    let about = json!({
        "step": step,
        "loss": found.loss.to_string(),
        "grad_norm": found.grad_norm.to_string(),
        "targets": found.targets,
    });
    Ok(files::write_json(&folder.join("failure.json"), &about)?)
}
