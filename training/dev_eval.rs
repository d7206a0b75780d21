//! Evaluation during training: the loss on dev pairs, and a small round trip.

use std::path::Path;
use std::time::Instant;

use eval::{RoundTripOptions, round_trip_vectors};
use models::generate::GenerateOptions;
use models::inverter::{Origin, OriginKind};
use models::{Decoder, Encoder, Inverter, ParamStore};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::loader::MicroBatch;
use crate::metric_sink::{DevMetrics, DevScores};
use crate::prepare::{Prepared, open_encoder};
use crate::recipe::Recipe;
use crate::step::loss_of;

/// A decoder for inference that the weights of the training are copied to, and what it is evaluated on.
pub struct DevEval {
    inverter: Inverter,
    parts: Vec<MicroBatch>,
    rows: Vec<u32>,
    texts: Vec<String>,
    encoder: Option<Encoder>,
    options: RoundTripOptions,
}

impl std::fmt::Debug for DevEval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevEval")
            .field("inverter", &self.inverter)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// A text and what was decoded from its vector.
type Sample = (String, String);

/// Texts of a part.
const TEXTS: usize = 128;

impl DevEval {
    /// Makes it ready. Without its encoder on this machine there is no round trip, and the log says so.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(recipe: &Recipe, prepared: &Prepared, run: &Path, device: Device, kind: Kind) -> Result<Self> {
        let mut store = ParamStore::inference(device, kind);
        let decoder = Decoder::new(&prepared.config, &mut store)?;
        let inverter = Inverter {
            decoder,
            config: prepared.config.clone(),
            vocabulary: prepared.vocabulary.clone(),
            space: prepared.pairs.space().clone(),
            origin: Origin { kind: OriginKind::Run, path: run.to_owned(), step: None },
            store,
        };
        let lengths = prepared.dev.lengths();
        let mut in_loss: Vec<u32> = (0..prepared.dev.len().min(recipe.training.eval_texts) as u32).collect();
        in_loss.sort_by_key(|&text| lengths[text as usize]);
        let collator = prepared.collator(&prepared.dev);
        let parts = in_loss.chunks(TEXTS).map(|texts| collator.collate(texts)).collect::<Result<_>>()?;
        let rows: Vec<u32> = (0..prepared.dev.len().min(recipe.eval.texts) as u32)
            .map(|text| prepared.dev.row(text))
            .collect();
        let texts = rows.iter().map(|&row| prepared.pairs.text(row as usize).to_owned()).collect();
        let options = RoundTripOptions {
            generate: GenerateOptions {
                max_tokens: prepared.config.max_tokens as usize,
                batch: recipe.eval.batch,
                ..GenerateOptions::default()
            },
            samples: recipe.eval.samples,
            bootstrap: 0,
            ..RoundTripOptions::default()
        };
        let encoder = if rows.is_empty() { None } else { encoder_of(recipe, prepared) };
        Ok(Self { inverter, parts, rows, texts, encoder, options })
    }

    /// Evaluates weights given as f32 tensors, one a parameter and in their order.
    ///
    /// # Errors
    /// libtorch's own, or the round trip's.
    pub fn run(&mut self, step: u64, prepared: &Prepared, weights: &[Tensor]) -> Result<DevMetrics> {
        let start = Instant::now();
        let own: Vec<Tensor> =
            self.inverter.store.params().iter().map(|param| param.compute.shallow_clone()).collect();
        torch_ext::foreach_copy(&own, weights)?;
        self.inverter.origin.step = Some(step);
        let (mut loss, mut targets, mut n) = (0.0, 0, 0);
        for part in &self.parts {
            let (sum, count) = loss_of(&self.inverter.decoder, part, 1024)?;
            (loss, targets, n) = (loss + sum, targets + count, n + part.rows.len());
        }
        let (round_trip, samples) = self.round_trip(prepared)?;
        Ok(DevMetrics {
            step,
            dev_loss: (targets > 0).then(|| loss / targets as f64),
            n,
            round_trip,
            samples,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn round_trip(&self, prepared: &Prepared) -> Result<(Option<DevScores>, Vec<Sample>)> {
        let Some(encoder) = &self.encoder else { return Ok((None, Vec::new())) };
        let vectors = prepared.pairs.vectors(&self.rows);
        let found = round_trip_vectors(
            &self.inverter,
            encoder,
            &vectors,
            &self.texts,
            None,
            &self.options,
            &mut |_, _, _| {},
        )?;
        let samples =
            found.samples.random.iter().map(|row| (row.reference.clone(), row.hypothesis.clone())).collect();
        let s = found.summary;
        let scores = DevScores {
            n: s.n,
            bleu: s.bleu,
            token_f1: s.token_f1,
            exact_match: s.exact_match,
            cosine: s.cosine,
        };
        Ok((Some(scores), samples))
    }
}

/// The encoder, if it can be opened and is the one that made the pairs.
fn encoder_of(recipe: &Recipe, prepared: &Prepared) -> Option<Encoder> {
    let opened = open_encoder(&recipe.encoder).and_then(|encoder| {
        let space = models::Embed::space(&encoder);
        space.require_same(prepared.pairs.space(), "the recipe's encoder", "the pair set")?;
        Ok(encoder)
    });
    opened.inspect_err(|error| tracing::warn!("no round trips during this training: {error}")).ok()
}
