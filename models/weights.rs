//! Weights on disk: safetensors files, read by memory map.
//!
//! Format: <https://huggingface.co/docs/safetensors>: eight bytes with the header's length, a JSON header, the data.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use torch_ext::MappedFile;

use crate::error::{Error, Result};
use crate::files;
use crate::hub::{Repository, join};

/// The tensors of one safetensors file, or of all the shards that a `*.safetensors.index.json` lists. Nothing is read
/// before it is used; tensors are views of the mapped file.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    shards: Vec<Shard>,
    entries: BTreeMap<String, Entry>,
    metadata: HashMap<String, String>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Arc<MappedFile>,
}

#[derive(Debug)]
struct Entry {
    shard: usize,
    dtype: Dtype,
    shape: Vec<i64>,
    offset: usize,
}

impl Weights {
    /// Opens a `.safetensors` file, or an index with its shards beside it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Safetensors`] for a damaged or truncated file, [`Error::Json`] for a bad index.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut weights = Self {
            path: path.to_owned(),
            shards: vec![],
            entries: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        if path.extension().is_some_and(|extension| extension == "json") {
            for file in index_files(path)? {
                weights.add_shard(&path.with_file_name(file))?;
            }
        } else {
            weights.add_shard(path)?;
        }
        Ok(weights)
    }

    /// Opens the weights in a folder of a repository: one file or an index with its shards, fetched if need be.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::PickledWeights`], [`Error::Hub`], and as [`open`](Self::open).
    pub fn of_repository(repository: &Repository, folder: &str) -> Result<Self> {
        if let Some(path) = repository.find(&join(folder, "model.safetensors"))? {
            return Self::open(path);
        }
        if let Some(index) = repository.find(&join(folder, "model.safetensors.index.json"))? {
            for shard in index_files(&index)? {
                repository.require(&join(folder, &shard), "the index of the weights lists it")?;
            }
            return Self::open(index);
        }
        let pickle = join(folder, "pytorch_model.bin");
        // by name: the file itself would be fetched only to be refused. Without a list, the error is the other one
        if repository.list().is_ok_and(|files| files.contains(&pickle)) {
            return Err(Error::PickledWeights { folder: repository.place(), file: pickle });
        }
        let why = "it holds the weights (files of other formats are not read)";
        repository.require(&join(folder, "model.safetensors"), why).and_then(Self::open)
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let bad = |reason: String| Error::Safetensors { path: path.to_owned(), reason };
        // the map's own error names no path where the file is missing or empty
        if fs_err::metadata(path)?.len() == 0 {
            return Err(bad("the file is empty".into()));
        }
        let map = Arc::new(MappedFile::open(path)?);
        let bytes = map.bytes();
        let (header, parsed) = SafeTensors::read_metadata(bytes).map_err(|error| bad(error.to_string()))?;
        let start = 8 + header;
        if start + parsed.data_len() != bytes.len() {
            let found = bytes.len();
            return Err(bad(format!(
                "it has {found} bytes, its header speaks of {}",
                start + parsed.data_len()
            )));
        }
        for (name, info) in parsed.tensors() {
            let entry = Entry {
                shard: self.shards.len(),
                dtype: info.dtype,
                shape: info.shape.iter().map(|&size| size as i64).collect(),
                offset: start + info.data_offsets.0,
            };
            if self.entries.insert(name.clone(), entry).is_some() {
                return Err(bad(format!("tensor `{name}` stands in two shards")));
            }
        }
        self.metadata.extend(parsed.metadata().clone().unwrap_or_default());
        self.shards.push(Shard { path: path.to_owned(), map });
        Ok(())
    }

    /// The file (or index) that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.entries.get(name).map(|entry| entry.shape.clone())
    }

    /// The element type of a tensor; `None` also where it is one that tensors here cannot have.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.entries.get(name).and_then(|entry| kind_of(entry.dtype))
    }

    /// The header's `__metadata__` (of all shards together).
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// A tensor as a CPU view of the file, in the file's element type. Convert or copy it before changing it.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] with the nearest names, [`Error::TensorShape`], [`Error::TensorDtype`].
    pub fn get(&self, name: &str, shape: &[i64]) -> Result<Tensor> {
        let entry = self.entry(name)?;
        if entry.shape != shape {
            return Err(Error::TensorShape {
                path: self.shards[entry.shard].path.clone(),
                name: name.to_owned(),
                found: entry.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        let shard = &self.shards[entry.shard];
        let kind = kind_of(entry.dtype).ok_or_else(|| Error::TensorDtype {
            path: shard.path.clone(),
            name: name.to_owned(),
            dtype: format!("{:?}", entry.dtype),
        })?;
        Ok(torch_ext::tensor_over(&shard.map, entry.offset, &entry.shape, kind)?)
    }

    /// A tensor as [`get`](Self::get) gives it, converted to a format on a device. Where neither changes, it stays a
    /// view; where one does, the file's pages are given back, so that no tensor is in memory twice.
    ///
    /// # Errors
    /// As [`get`](Self::get), and [`Error::Torch`] (out of memory).
    pub fn load(&self, name: &str, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let view = self.get(name, shape)?;
        if (view.kind(), view.device()) == (kind, device) {
            return Ok(view);
        }
        let loaded = view.f_to_device(device)?.f_to_kind(kind)?;
        self.release(name);
        Ok(loaded)
    }

    /// Tensors of these names and numbers of rows, one below the other: a copy of shape `[all rows, ...]`. The file's
    /// pages are given back one tensor after the other.
    ///
    /// # Errors
    /// As [`load`](Self::load), for every tensor.
    pub fn load_stacked(
        &self,
        parts: &[(&str, i64)],
        columns: &[i64],
        kind: Kind,
        device: Device,
    ) -> Result<Tensor> {
        let shape = |rows: i64| std::iter::once(rows).chain(columns.iter().copied()).collect::<Vec<_>>();
        let stacked = Tensor::f_empty(shape(parts.iter().map(|(_, rows)| rows).sum()), (kind, device))?;
        let mut start = 0;
        for &(name, rows) in parts {
            stacked.f_narrow(0, start, rows)?.f_copy_(&self.get(name, &shape(rows))?)?;
            self.release(name);
            start += rows;
        }
        Ok(stacked)
    }

    /// Gives back the memory of a tensor's pages: it is read from the file again when it is looked at again.
    fn release(&self, name: &str) {
        if let Some(entry) = self.entries.get(name) {
            let width = kind_of(entry.dtype).map_or(0, |kind| kind.elt_size_in_bytes());
            let length = entry.shape.iter().product::<i64>() as usize * width;
            self.shards[entry.shard].map.release(entry.offset..entry.offset + length);
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| Error::MissingTensor {
            path: self.path.clone(),
            name: name.to_owned(),
            nearest: self.nearest(name),
        })
    }

    /// The names that share the longest tail with `name`: a missing or extra prefix is the usual reason.
    fn nearest(&self, name: &str) -> Vec<String> {
        let tail =
            |other: &str| name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
        let mut scored: Vec<_> =
            self.names().map(|other| (tail(other), other)).filter(|(n, _)| *n > 3).collect();
        scored.sort_by_key(|(n, _)| std::cmp::Reverse(*n));
        scored.into_iter().take(3).map(|(_, other)| other.to_owned()).collect()
    }

    /// `blake3:HEX` over the bytes of the file (of the shards one after the other).
    pub fn digest(&self) -> String {
        digest_of(&[self])
    }
}

/// Bytes that are digested before their memory is given back.
const DIGEST_PIECE: usize = 8 << 20;

/// `blake3:HEX` over the bytes of several weight files one after the other; for one file it is the file's own digest.
pub fn digest_of(all: &[&Weights]) -> String {
    let mut hasher = blake3::Hasher::new();
    for shard in all.iter().flat_map(|weights| &weights.shards) {
        // piece by piece, so that a file larger than the memory does not fill it
        for (piece, start) in shard.map.bytes().chunks(DIGEST_PIECE).zip((0..).step_by(DIGEST_PIECE)) {
            hasher.update_rayon(piece);
            shard.map.release(start..start + piece.len());
        }
    }
    format!("blake3:{}", hasher.finalize().to_hex())
}

/// The shard files that an index lists, sorted, each once.
///
/// # Errors
/// [`Error::Io`] or [`Error::Json`].
pub fn index_files(path: &Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = files::read_json(path)?;
    let mut names: Vec<_> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(name) =
        names.iter().find(|name| name.contains('/') || name.contains('\\') || name.starts_with('.'))
    {
        return Err(Error::Json {
            path: path.to_owned(),
            key: "weight_map".into(),
            reason: format!("`{name}` is not the name of a file beside the index"),
        });
    }
    Ok(names)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::F64 => Kind::Double,
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        Dtype::I16 => Kind::Int16,
        Dtype::I8 => Kind::Int8,
        Dtype::U8 => Kind::Uint8,
        Dtype::BOOL => Kind::Bool,
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::save_tensors::save_tensors;

    fn sample() -> Vec<(String, Tensor)> {
        let a = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
        vec![
            ("layer.a.weight".into(), a.shallow_clone()),
            ("layer.a.bias".into(), a.transpose(0, 1).to_kind(Kind::BFloat16)),
            ("steps".into(), Tensor::from_slice(&[7i64])),
        ]
    }

    #[test]
    fn saved_and_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let metadata = BTreeMap::from([("step".into(), "3".into()), ("b".into(), "x".into())]);
        save_tensors(&path, &sample(), &metadata).unwrap();
        let weights = Weights::open(&path).unwrap();
        for (name, tensor) in sample() {
            let read = weights.get(&name, &tensor.size()).unwrap();
            assert_eq!((read.kind(), weights.kind(&name)), (tensor.kind(), Some(tensor.kind())));
            assert!(read.equal(&tensor), "{name}");
        }
        assert_eq!(weights.metadata()["format"], "pt");
        assert_eq!(weights.metadata()["step"], "3");
        assert_eq!(weights.names().collect::<Vec<_>>(), ["layer.a.bias", "layer.a.weight", "steps"]);

        let first = fs_err::read(&path).unwrap();
        save_tensors(&path, &sample(), &metadata).unwrap();
        assert_eq!(first, fs_err::read(&path).unwrap());
        assert_eq!(weights.digest(), format!("blake3:{}", blake3::hash(&first).to_hex()));
    }

    #[test]
    fn wrong_requests_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        save_tensors(&path, &sample(), &BTreeMap::new()).unwrap();
        let weights = Weights::open(&path).unwrap();
        let error = weights.get("a.weight", &[2, 3]).unwrap_err().to_string();
        assert!(error.contains("`a.weight`") && error.contains("nearest: layer.a.weight"), "{error}");
        let error = weights.get("layer.a.weight", &[3, 2]).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("[3, 2]"), "{error}");
    }

    #[test]
    fn every_truncation_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        save_tensors(&path, &sample(), &BTreeMap::new()).unwrap();
        let whole = fs_err::read(&path).unwrap();
        for length in [0, 1, 7, 8, 20, whole.len() / 2, whole.len() - 1] {
            fs_err::write(&path, &whole[..length]).unwrap();
            let error = Weights::open(&path).err().unwrap();
            assert!(matches!(error, Error::Safetensors { .. }), "{length}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn shards_are_one_set() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let all = sample();
        save_tensors(&at("1.safetensors"), &all[..1], &BTreeMap::new()).unwrap();
        save_tensors(&at("2.safetensors"), &all[1..], &BTreeMap::new()).unwrap();
        let index = serde_json::json!({"weight_map": {
            "layer.a.weight": "1.safetensors", "layer.a.bias": "2.safetensors", "steps": "2.safetensors"}});
        files::write_json(&at("m.safetensors.index.json"), &index).unwrap();
        let weights = Weights::open(at("m.safetensors.index.json")).unwrap();
        assert!(weights.get("steps", &[1]).is_ok() && weights.contains("layer.a.weight"));

        files::write_json(&at("m.safetensors.index.json"), &serde_json::json!({"weight_map": {"a": "../x"}}))
            .unwrap();
        assert!(Weights::open(at("m.safetensors.index.json")).err().unwrap().to_string().contains("../x"));
    }

    #[test]
    fn a_read_only_folder_is_named() {
        let missing = Path::new("/nonexistent-folder/w.safetensors");
        let error = save_tensors(missing, &sample(), &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("/nonexistent-folder"), "{error}");
        assert!(Weights::open(missing).err().unwrap().to_string().contains("/nonexistent-folder"));
    }
}
