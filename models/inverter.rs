//! A decoder that is ready for use, from a run, a checkpoint or an export.
#![allow(non_snake_case)]

use crate::generate::graphed::StaticRows;
use crate::{
    Decoder, DecoderConfig, DeviceChoice, Dtype, Error, GenerateOptions, Generated, ParamStore, Result,
    Source, Space, Vocabulary, Weights, export, files, generate_from,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// What kind of folder a decoder came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A run: its best checkpoint, or the latest where none is best yet.
    Run,
    /// One checkpoint of a run.
    Checkpoint,
    /// An export.
    Export,
}

/// Where a decoder came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// What kind of folder.
    pub kind: OriginKind,
    /// The folder that holds the weights.
    pub path: PathBuf,
    /// Training step, where it is known.
    pub step: Option<u64>,
}

/// A decoded text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inverted {
    /// The text.
    pub text: String,
    /// Sum of the natural log-probabilities of its tokens, the end included, given what it was decoded from, with guidance
    /// those of the guided scores; none where a search put it together.
    pub log_prob: Option<f64>,
    /// Number of tokens, the end not included.
    pub tokens: usize,
    /// Whether the text ended before the limit.
    pub finished: bool,
    /// Candidates that were encoded to find it; 0 where none was.
    #[serde(default)]
    pub encodings: usize,
    /// Best cosine to the target after each round of a search, the first guesses' first; empty without a search.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub course: Vec<f64>,
}

impl Inverted {
    /// An empty text that nothing was decoded for.
    pub(crate) fn nothing() -> Self {
        let (text, course) = (String::new(), Vec::new());
        Self { text, log_prob: None, tokens: 0, finished: false, encodings: 0, course }
    }
}

/// Decoder, vocabulary and space together.
#[derive(Debug)]
pub struct Inverter {
    /// The model.
    pub decoder: Decoder,
    /// Its shape.
    pub config: DecoderConfig,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// The space of the vectors that it reads.
    pub space: Space,
    /// Where it came from.
    pub origin: Origin,
    /// Its weights by name.
    pub store: ParamStore,
}

impl Inverter {
    /// Opens a run, a checkpoint or an export.
    ///
    /// # Errors
    /// [`Error::NotADecoder`] for another folder, [`Error::NoCheckpoint`] for a run that has saved nothing,
    /// [`Error::TensorsDiffer`] and [`Error::TokenizerFit`] for files that do not belong together, and what reading
    /// them can fail with.
    pub fn open(path: &Path, device: DeviceChoice, dtype: Dtype) -> Result<Self> {
        let device = device.resolve()?;
        let kind = dtype.resolve(device);
        if export::is_export(path) {
            let (config, decoder, store) = export::read_decoder(path, device, kind)?;
            let origin = Origin { kind: OriginKind::Export, path: path.to_owned(), step: None };
            return Self::assemble(config, decoder, store, path, origin);
        }
        if path.join("decoder.json").is_file() {
            return Self::open_checkpoint(path, &chosen_checkpoint(path)?, OriginKind::Run, device, kind);
        }
        let run = std::path::absolute(path)?;
        match run.parent().and_then(Path::parent) {
            Some(run) if has_weights(path) && run.join("decoder.json").is_file() => {
                Self::open_checkpoint(run, path, OriginKind::Checkpoint, device, kind)
            }
            _ => Err(Error::NotADecoder { path: path.to_owned() }),
        }
    }

    fn open_checkpoint(
        run: &Path,
        checkpoint: &Path,
        from: OriginKind,
        device: Device,
        kind: Kind,
    ) -> Result<Self> {
        let config: DecoderConfig = files::read_json(&run.join("decoder.json"))?;
        let mut store = ParamStore::inference(device, kind);
        let decoder = Decoder::new(&config, &mut store)?;
        // averaged weights, where the run keeps them, are the better ones
        let averaged = checkpoint.join("ema.safetensors");
        let file = if averaged.is_file() { averaged } else { checkpoint.join("model.safetensors") };
        store.load(&Weights::open(file)?)?;
        let origin = Origin { kind: from, path: checkpoint.to_owned(), step: step_of(checkpoint) };
        Self::assemble(config, decoder, store, run, origin)
    }

    fn assemble(
        config: DecoderConfig,
        decoder: Decoder,
        store: ParamStore,
        folder: &Path,
        origin: Origin,
    ) -> Result<Self> {
        let tokenizer = folder.join("tokenizer.json");
        let vocabulary = Vocabulary::open(&tokenizer)?;
        vocabulary.require_fit(&config, &tokenizer)?;
        let path = folder.join("space.json");
        let space = Space::read(&path)?;
        if space.dim as i64 != config.dim {
            let reason = format!("the decoder takes vectors of {} numbers", config.dim);
            return Err(Error::Config { path, key: "dim".into(), value: space.dim.to_string(), reason });
        }
        Ok(Self { decoder, config, vocabulary, space, origin, store })
    }

    /// The best text of every vector, (N, dim).
    ///
    /// # Errors
    /// Those of [`generate_from`].
    pub fn invert(&self, v_ND: &Tensor, options: &GenerateOptions) -> Result<Vec<Inverted>> {
        self.invert_numbered(v_ND, 0, options)
    }

    /// The same for vectors that are part of a longer row: what is drawn follows from a vector's number, `first` being
    /// that of the first one here.
    ///
    /// # Errors
    /// Those of [`generate_from`].
    pub fn invert_numbered(
        &self,
        v_ND: &Tensor,
        first: u64,
        options: &GenerateOptions,
    ) -> Result<Vec<Inverted>> {
        let count = v_ND.size().first().map_or(0, |&count| count as u64);
        let numbers: Vec<u64> = (first..first + count).collect();
        let source = Source { numbers: Some(&numbers), ..Source::vectors(v_ND) };
        let texts = generate_from(&self.decoder, &source, options)?;
        texts.iter().filter_map(|texts| texts.first()).map(|best| self.inverted(best)).collect()
    }

    /// All texts of every vector, best first: samples or beams.
    ///
    /// # Errors
    /// Those of [`generate_from`].
    pub fn invert_all(&self, v_ND: &Tensor, options: &GenerateOptions) -> Result<Vec<Vec<Inverted>>> {
        self.invert_from(&Source::vectors(v_ND), options)
    }

    /// The same from any source: where it has hypotheses, these are refined.
    ///
    /// # Errors
    /// Those of [`generate_from`].
    pub fn invert_from(&self, source: &Source<'_>, options: &GenerateOptions) -> Result<Vec<Vec<Inverted>>> {
        let texts = generate_from(&self.decoder, source, options)?;
        texts.iter().map(|texts| texts.iter().map(|text| self.inverted(text)).collect()).collect()
    }

    /// Greedy texts of vectors (N, dim) by rows of this decoder, so many at a time as there are rows.
    ///
    /// # Errors
    /// Those of [`StaticRows::decode`].
    pub fn invert_by_rows(&self, rows: &mut StaticRows<'_>, v_ND: &Tensor) -> Result<Vec<Inverted>> {
        let count = v_ND.size().first().copied().unwrap_or(0);
        let mut texts = Vec::with_capacity(count as usize);
        for start in (0..count).step_by(rows.rows() as usize) {
            let part = v_ND.f_narrow(0, start, rows.rows().min(count - start))?;
            texts.extend(rows.decode(&part)?);
        }
        texts.iter().map(|text| self.inverted(text)).collect()
    }

    fn inverted(&self, generated: &Generated) -> Result<Inverted> {
        let Generated { ids, log_prob, finished } = generated;
        Ok(Inverted {
            text: self.text(generated)?,
            log_prob: Some(*log_prob),
            tokens: ids.len(),
            finished: *finished,
            encodings: 0,
            course: Vec::new(),
        })
    }

    /// The text of generated ids. The embedding may have more rows than there are tokens (a round number); such ids
    /// have no text.
    pub(crate) fn text(&self, generated: &Generated) -> Result<String> {
        let known = |id: &u32| (*id as usize) < self.vocabulary.size();
        let ids: Vec<u32> = generated.ids.iter().copied().filter(known).collect();
        self.vocabulary.decode(&ids)
    }
}

fn has_weights(checkpoint: &Path) -> bool {
    ["model.safetensors", "ema.safetensors"].iter().any(|file| checkpoint.join(file).is_file())
}

/// The folder that `checkpoints/best` names, else `checkpoints/latest`.
fn chosen_checkpoint(run: &Path) -> Result<PathBuf> {
    let checkpoints = run.join("checkpoints");
    for pointer in ["best", "latest"] {
        let pointer = checkpoints.join(pointer);
        if !pointer.is_file() {
            continue;
        }
        let name = fs_err::read_to_string(&pointer)?;
        let folder = checkpoints.join(name.trim());
        if has_weights(&folder) {
            return Ok(folder);
        }
    }
    Err(Error::NoCheckpoint { run: run.to_owned() })
}

/// The number in `step-NNNNNNNN`.
fn step_of(checkpoint: &Path) -> Option<u64> {
    checkpoint.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}
