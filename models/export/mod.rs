//! The export folder: a decoder that Hugging Face transformers and vLLM open as it is, with the projector beside it.
//!
//! `model.safetensors` and `config.json` are a plain causal language model. `projector.json` and
//! `projector.safetensors` say how a vector becomes its input embeddings. `golden.json` holds vectors with the texts
//! that the decoder must give for them, in f32, greedily.

#![allow(non_snake_case)]

mod format;

use crate::{
    Decoder, DecoderConfig, DeviceChoice, Dtype, Error, GenerateOptions, Inverter, ParamStore, Result,
    Weights, files, save_tensors,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// What stands before the projector's tensor names in a checkpoint, and not in an export.
pub(crate) const PROJECTOR: &str = "projector.";

/// What goes into an export besides the decoder.
#[derive(Debug)]
pub struct ExportOptions<'a> {
    /// Element type of the weights on disk: f32 (also for `auto`) or bf16.
    pub dtype: Dtype,
    /// Vectors (N, dim) for the golden file; a few are enough.
    pub golden_ND: &'a Tensor,
    /// README.md, the model card.
    pub readme: &'a str,
}

/// `golden.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    /// How the texts were made, for readers of the file.
    strategy: String,
    dtype: String,
    max_tokens: usize,
    vectors: Vec<Vec<f32>>,
    texts: Vec<String>,
}

/// Whether a folder is an export.
pub fn is_export(folder: &Path) -> bool {
    folder.join("projector.json").is_file() && folder.join("config.json").is_file()
}

/// Writes an export of a decoder that was opened in f32, re-opens it and decodes its golden vectors, and only then puts
/// it in place. An older export at `out` is replaced; anything else there is left alone.
///
/// # Errors
/// [`Error::ExportExists`], [`Error::ExportDtype`], [`Error::GoldenDiffers`], [`Error::VectorShape`], [`Error::Io`].
pub fn write_export(inverter: &Inverter, out: &Path, options: &ExportOptions<'_>) -> Result<()> {
    if inverter.decoder.kind() != Kind::Float {
        return Err(Error::ExportDtype { found: "the decoder is open in a smaller type than f32".into() });
    }
    let dtype = match options.dtype {
        Dtype::Auto | Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
        other => return Err(Error::ExportDtype { found: format!("{other} was asked for") }),
    };
    let (parent, name) = split(out)?;
    fs_err::create_dir_all(&parent)?;
    restore(out, &parent, &name)?;
    sweep(&parent, &name)?;
    require_replaceable(out)?;
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    if temporary.exists() {
        fs_err::remove_dir_all(&temporary)?;
    }
    let written = write_files(inverter, &temporary, dtype, options)
        .and_then(|()| check_golden(&temporary))
        .and_then(|()| put_in_place(&temporary, out, &parent));
    if written.is_err() {
        // the first error is the one that matters
        let _ = fs_err::remove_dir_all(&temporary);
    }
    written
}

fn split(out: &Path) -> Result<(PathBuf, String)> {
    let absolute = std::path::absolute(out)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok((parent.to_owned(), name.to_string_lossy().into_owned())),
        _ => Err(Error::ExportExists { path: out.to_owned() }),
    }
}

fn require_replaceable(out: &Path) -> Result<()> {
    let empty = |folder: &Path| fs_err::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    if out.symlink_metadata().is_err() || (out.is_dir() && (is_export(out) || empty(out))) {
        Ok(())
    } else {
        Err(Error::ExportExists { path: out.to_owned() })
    }
}

fn write_files(inverter: &Inverter, folder: &Path, dtype: Kind, options: &ExportOptions<'_>) -> Result<()> {
    fs_err::create_dir(folder)?;
    let (mut model, mut projector) = (Vec::new(), Vec::new());
    for (name, tensor) in inverter.store.named_tensors() {
        let tensor = tensor.f_to_device(Device::Cpu)?;
        match name.strip_prefix(PROJECTOR) {
            // the projector is small and read by few programs: always f32
            Some(name) => projector.push((name.to_owned(), tensor)),
            None => model.push((name, tensor.f_to_kind(dtype)?)),
        }
    }
    let metadata = BTreeMap::new();
    save_tensors(&folder.join("model.safetensors"), &model, &metadata)?;
    save_tensors(&folder.join("projector.safetensors"), &projector, &metadata)?;
    format::write_config(folder, &inverter.config, &inverter.vocabulary, dtype)?;
    inverter.vocabulary.save(&folder.join("tokenizer.json"))?;
    inverter.space.write(&folder.join("space.json"))?;
    files::write_atomically(&folder.join("README.md"), |file| {
        Ok(std::io::Write::write_all(file, options.readme.as_bytes())?)
    })?;
    let golden = golden(inverter, dtype, options.golden_ND)?;
    files::write_json(&folder.join("golden.json"), &golden)
}

/// Decodes the vectors with the weights as they will be read back: rounded to the type on disk, in f32.
fn golden(inverter: &Inverter, dtype: Kind, golden_ND: &Tensor) -> Result<Golden> {
    let golden_ND = golden_ND.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let generated = if dtype == Kind::Float {
        crate::generate(&inverter.decoder, &golden_ND, &GenerateOptions::default())?
    } else {
        let mut store = ParamStore::inference(inverter.decoder.device(), Kind::Float);
        let decoder = Decoder::new(&inverter.config, &mut store)?;
        for ((name, mut to), (_, from)) in
            store.named_tensors().into_iter().zip(inverter.store.named_tensors())
        {
            to.f_copy_(&if name.starts_with(PROJECTOR) { from } else { from.f_to_kind(dtype)? })?;
        }
        crate::generate(&decoder, &golden_ND, &GenerateOptions::default())?
    };
    let texts = generated.iter().map(|texts| inverter.text(&texts[0])).collect::<Result<_>>()?;
    let vectors = (0..golden_ND.size()[0])
        .map(|row| Ok(Vec::<f32>::try_from(golden_ND.f_get(row)?.f_contiguous()?)?))
        .collect::<Result<_>>()?;
    let max_tokens = inverter.config.max_tokens as usize;
    Ok(Golden { strategy: "greedy".into(), dtype: "f32".into(), max_tokens, vectors, texts })
}

/// Opens an export on the CPU in f32 and decodes the vectors of its `golden.json`.
///
/// # Errors
/// [`Error::GoldenDiffers`] with the first text that is not as it should be, and whatever opening can fail with.
pub fn check_golden(folder: &Path) -> Result<()> {
    let path = folder.join("golden.json");
    let golden: Golden = files::read_json(&path)?;
    let inverter = Inverter::open(folder, DeviceChoice::Cpu, Dtype::F32)?;
    let (rows, dim) = (golden.vectors.len(), inverter.config.dim as usize);
    if rows != golden.texts.len() || golden.vectors.iter().any(|vector| vector.len() != dim) {
        let reason = format!("it needs one text for every vector, and {dim} numbers in each");
        return Err(Error::Json { path, key: "vectors".into(), reason });
    }
    let vectors = Tensor::f_from_slice(&golden.vectors.concat())?.f_view([rows as i64, dim as i64])?;
    let options = GenerateOptions { max_tokens: golden.max_tokens, ..Default::default() };
    let texts = inverter.invert(&vectors, &options)?;
    for (index, (found, expected)) in texts.into_iter().zip(golden.texts).enumerate() {
        if found.text != expected {
            return Err(Error::GoldenDiffers { path, index, expected, found: found.text });
        }
    }
    Ok(())
}

/// Mends what a kill between two renames left: an export that had made way goes back to its place, or, where the new
/// one stands there already, away.
fn restore(out: &Path, parent: &Path, name: &str) -> Result<()> {
    for (folder, _) in left_over(parent, name, "old")? {
        if !is_export(&folder) {
            continue;
        }
        if out.symlink_metadata().is_err() {
            fs_err::rename(folder, out)?;
        } else if is_export(out) {
            fs_err::remove_dir_all(folder)?;
        }
    }
    Ok(())
}

/// Removes what processes that were killed while they wrote an export of this name left half written. Only Linux tells
/// which processes are gone; elsewhere it stays.
fn sweep(parent: &Path, name: &str) -> Result<()> {
    let processes = Path::new("/proc");
    if !processes.join("self").exists() {
        return Ok(());
    }
    for (folder, process) in left_over(parent, name, "tmp")? {
        let is_folder = folder.symlink_metadata().is_ok_and(|found| found.is_dir());
        if is_folder
            && !processes.join(process).exists()
            && let Err(error) = fs_err::remove_dir_all(folder)
        {
            // another user's, perhaps: in nobody's way
            tracing::debug!("{error}");
        }
    }
    Ok(())
}

/// What is named `.NAME.PID.ending` beside an export, with the PID of each.
fn left_over(parent: &Path, name: &str, ending: &str) -> Result<Vec<(PathBuf, String)>> {
    let (begin, end) = (format!(".{name}."), format!(".{ending}"));
    let mut found = Vec::new();
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        let file = entry.file_name();
        let process = file.to_str().and_then(|file| file.strip_prefix(&begin)?.strip_suffix(&end));
        let is_number = |id: &&str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(process) = process.filter(is_number) {
            found.push((entry.path(), process.to_owned()));
        }
    }
    Ok(found)
}

/// Renames the finished folder to its place. An older export makes way under a temporary name first.
fn put_in_place(temporary: &Path, out: &Path, parent: &Path) -> Result<()> {
    fs_err::File::open(temporary)?.sync_all()?;
    let old = temporary.with_extension("old");
    let replaces = out.exists();
    if replaces {
        fs_err::rename(out, &old)?;
    }
    if let Err(error) = fs_err::rename(temporary, out) {
        if replaces {
            fs_err::rename(&old, out)?;
        }
        return Err(error.into());
    }
    fs_err::File::open(parent)?.sync_all()?;
    if replaces {
        fs_err::remove_dir_all(&old)?;
    }
    Ok(())
}

/// Reads the decoder of an export, without its tokenizer and space.
///
/// # Errors
/// [`Error::Json`], [`Error::Unsupported`] and [`Error::DecoderConfig`] for its configuration, [`Error::TensorsDiffer`]
/// for its weights.
pub fn read_decoder(
    folder: &Path,
    device: Device,
    kind: Kind,
) -> Result<(DecoderConfig, Decoder, ParamStore)> {
    let config = format::read_config(folder)?;
    let mut store = ParamStore::inference(device, kind);
    let decoder = Decoder::new(&config, &mut store)?;
    let index = folder.join("model.safetensors.index.json");
    let model = Weights::open(if index.exists() { index } else { folder.join("model.safetensors") })?;
    let projector = Weights::open(folder.join("projector.safetensors"))?;
    store.load_prefixed(&[("", &model), (PROJECTOR, &projector)])?;
    Ok((config, decoder, store))
}
