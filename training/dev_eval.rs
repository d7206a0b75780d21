//! Evaluation during training: the loss on dev pairs, and a small round trip.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use eval::{RoundTripOptions, Searching, Spread, round_trip_vectors};
use models::generate::GenerateOptions;
use models::inverter::{Origin, OriginKind};
use models::{Decoder, Embed as _, Encoder, Inverter, ParamStore, Prompt, SearchOptions, files};
use serde_json::json;
use tch::{Device, Kind, Tensor};
use torch_ext::{Reduce, World};

use crate::batch::MicroBatch;
use crate::metric_sink::{DevMetrics, DevScores};
use crate::prepare::Prepared;
use crate::recipe::Recipe;
use crate::step::loss_of;
use crate::{Error, Result};

/// A decoder for inference that the weights of the training are copied to, and what it is evaluated on.
pub struct DevEval {
    inverter: Inverter,
    parts: Vec<MicroBatch>,
    rows: Vec<u32>,
    texts: Vec<String>,
    encoder: Option<Encoder>,
    options: RoundTripOptions,
    world: Arc<World>,
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
    /// Makes it ready. `opened` is the recipe's encoder where it is at hand. Without an encoder on this machine there is no
    /// round trip, and the log says so.
    ///
    /// # Errors
    /// libtorch's own (out of memory).
    pub fn new(
        recipe: &Recipe,
        prepared: &Prepared,
        device: Device,
        kind: Kind,
        world: &Arc<World>,
        opened: Option<Encoder>,
    ) -> Result<Self> {
        let mut store = ParamStore::inference(device, kind);
        let decoder = Decoder::new(&prepared.config, &mut store)?;
        let inverter = Inverter {
            decoder,
            config: prepared.config.clone(),
            vocabulary: prepared.vocabulary.clone(),
            space: prepared.pairs.space().clone(),
            origin: Origin { kind: OriginKind::Run, path: recipe.run.dir.clone(), step: None },
            store,
        };
        let lengths = prepared.dev.lengths();
        let mut in_loss: Vec<u32> = (0..prepared.dev.len().min(recipe.training.eval_texts) as u32).collect();
        in_loss.sort_by_key(|&text| lengths[text as usize]);
        let collator = prepared.collator(&prepared.dev);
        // every rank takes each so-manieth part: they come by length
        let own = in_loss.chunks(TEXTS).skip(world.rank()).step_by(world.size());
        let parts = own.map(|texts| collator.collate(texts)).collect::<Result<_>>()?;
        let refines = recipe.refinement.share > 0.0;
        let wanted = refines || recipe.eval.texts > 0 && !prepared.dev.is_empty();
        let open = || opened.or_else(|| encoder_of(recipe, prepared));
        let encoder = if wanted { open() } else { None };
        // a round trip is one of all ranks, or there is none
        let [on_all] = world.reduce_numbers([f64::from(u8::from(encoder.is_some()))], Reduce::Min)?;
        let encoder = encoder.filter(|_| on_all > 0.0);
        if refines && encoder.is_none() {
            // better before hours of training than in their midst
            return Err(Error::NoEncoder);
        }
        let rows = match &encoder {
            Some(encoder) => round_trip_rows(prepared, &encoder.space().prompt, recipe.eval.texts),
            None => Vec::new(),
        };
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
        Ok(Self { inverter, parts, rows, texts, encoder, options, world: Arc::clone(world) })
    }

    /// Takes over what the decoder in `store` has that is not trained.
    ///
    /// # Errors
    /// Those of another decoder.
    pub fn set_buffers(&self, store: &ParamStore) -> Result<()> {
        let own = &self.inverter.store;
        Ok(store.buffers().iter().try_for_each(|(name, buffer)| own.set_buffer(name, buffer))?)
    }

    /// Takes over the weights of `step`, f32 tensors, one a parameter and in their order.
    ///
    /// # Errors
    /// libtorch's own.
    pub fn set_weights(&mut self, step: u64, weights: &[Tensor]) -> Result<()> {
        let own: Vec<Tensor> =
            self.inverter.store.params().iter().map(|param| param.compute.shallow_clone()).collect();
        torch_ext::foreach_copy(&own, weights)?;
        self.inverter.origin.step = Some(step);
        Ok(())
    }

    /// What guesses with the weights that were taken over, and what encodes the guesses.
    ///
    /// # Errors
    /// [`Error::NoEncoder`] where the recipe's encoder could not be opened.
    pub fn guesser(&self) -> Result<(&Inverter, &Encoder)> {
        let encoder = self.encoder.as_ref().ok_or(Error::NoEncoder)?;
        Ok((&self.inverter, encoder))
    }

    /// Evaluates the weights that were taken over; `refines` once they have learnt to.
    ///
    /// # Errors
    /// libtorch's own, or the round trip's.
    pub fn run(&self, step: u64, prepared: &Prepared, refines: bool) -> Result<DevMetrics> {
        let start = Instant::now();
        let (mut loss, mut targets, mut n) = (0.0, 0, 0);
        for part in &self.parts {
            let (sum, count) = loss_of(&self.inverter.decoder, part, 1024)?;
            (loss, targets, n) = (loss + sum, targets + count, n + part.rows.len());
        }
        let sums = [loss, targets as f64, n as f64];
        let [loss, targets, n] = self.world.reduce_numbers(sums, Reduce::Sum)?;
        let (round_trip, samples) = self.round_trip(prepared)?;
        let refined = if refines { self.refined(prepared)? } else { None };
        Ok(DevMetrics {
            step,
            dev_loss: (targets > 0.0).then(|| loss / targets),
            n: n as usize,
            round_trip,
            refined,
            samples,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn round_trip(&self, prepared: &Prepared) -> Result<(Option<DevScores>, Vec<Sample>)> {
        let Some(encoder) = self.encoder.as_ref().filter(|_| !self.rows.is_empty()) else {
            return Ok((None, Vec::new()));
        };
        let vectors = prepared.pairs.vectors(&self.rows);
        let found = round_trip_vectors(
            &Spread::new(&self.inverter, &self.world),
            &Spread::new(encoder, &self.world),
            &vectors,
            &self.texts,
            None,
            &self.options,
            &mut |_, _, _| {},
        )?;
        let samples =
            found.samples.random.iter().map(|row| (row.reference.clone(), row.hypothesis.clone())).collect();
        Ok((Some(DevScores::of(&found.summary)), samples))
    }

    /// The same texts after one greedy refinement of the greedy guess.
    fn refined(&self, prepared: &Prepared) -> Result<Option<DevScores>> {
        let Some(encoder) = self.encoder.as_ref().filter(|_| !self.rows.is_empty()) else { return Ok(None) };
        let generate = self.options.generate.clone();
        let search = SearchOptions { rounds: 1, generate, ..SearchOptions::default() };
        let searching = Searching::new(&self.inverter, encoder, search)?;
        let found = round_trip_vectors(
            &Spread::new(&searching, &self.world),
            &Spread::new(encoder, &self.world),
            &prepared.pairs.vectors(&self.rows),
            &self.texts,
            None,
            &self.options,
            &mut |_, _, _| {},
        )?;
        Ok(Some(DevScores::of(&found.summary)))
    }
}

/// The first dev rows under the prompt that decoded texts are encoded again under.
fn round_trip_rows(prepared: &Prepared, prompt: &Prompt, texts: usize) -> Vec<u32> {
    let pairs = &prepared.pairs;
    let known = pairs.space().prompts().find(|known| known.text == prompt.text);
    let rows = (0..prepared.dev.len() as u32).map(|text| prepared.dev.row(text));
    rows.filter(|&row| known.is_some_and(|known| pairs.prompt(row as usize) == known.name))
        .take(texts)
        .collect()
}

/// The encoder under the first of the recipe's prompts, if it can be opened and is the one that made the pairs.
fn encoder_of(recipe: &Recipe, prepared: &Prepared) -> Option<Encoder> {
    let opened = recipe.open_encoder().and_then(|encoder| {
        let space = encoder.space();
        space.require_within(prepared.pairs.space(), "the recipe's encoder", "the pair set")?;
        Ok(encoder)
    });
    opened.inspect_err(|error| tracing::warn!("no round trips during this training: {error}")).ok()
}

/// Leaves the samples of an evaluation in `samples/step-NNNNNNNN.jsonl` of the run, one object a line: `text` and
/// `decoded`. Without samples there is no file.
pub(crate) fn write_samples(run: &Path, found: &DevMetrics) -> Result<()> {
    if found.samples.is_empty() {
        return Ok(());
    }
    let folder = run.join("samples");
    fs_err::create_dir_all(&folder)?;
    let line = |(text, decoded): &Sample| format!("{}\n", json!({"text": text, "decoded": decoded}));
    let lines: String = found.samples.iter().map(line).collect();
    let path = folder.join(format!("step-{:08}.jsonl", found.step));
    Ok(files::write_atomically(&path, |file| Ok(file.write_all(lines.as_bytes())?))?)
}

/// Removes the samples of steps after `step`: a run that goes on from there makes them again.
pub(crate) fn take_back_samples(run: &Path, step: u64) -> Result<()> {
    let folder = run.join("samples");
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs_err::read_dir(&folder)? {
        let path = entry?.path();
        let number =
            path.file_stem().and_then(|stem| stem.to_str()?.strip_prefix("step-")?.parse::<u64>().ok());
        if number.is_some_and(|of| of > step) {
            fs_err::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_left_and_taken_back() {
        let run = tempfile::tempdir().unwrap();
        let samples = vec![("A \"red\" ball.".to_owned(), "a ball\n".to_owned()), ("x".into(), "y".into())];
        let metrics = DevMetrics {
            step: 20,
            dev_loss: None,
            n: 0,
            round_trip: None,
            refined: None,
            samples,
            seconds: 0.0,
        };
        write_samples(run.path(), &metrics).unwrap();
        write_samples(run.path(), &DevMetrics { step: 30, ..metrics.clone() }).unwrap();
        write_samples(run.path(), &DevMetrics { step: 40, samples: Vec::new(), ..metrics }).unwrap();
        take_back_samples(run.path(), 20).unwrap();
        let names: Vec<_> = fs_err::read_dir(run.path().join("samples"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, ["step-00000020.jsonl"]);
        let text = fs_err::read_to_string(run.path().join("samples/step-00000020.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], json!({"text": "A \"red\" ball.", "decoded": "a ball\n"}));
    }
}
