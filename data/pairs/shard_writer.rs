//! Writes one shard: an Arrow IPC file with one uncompressed record batch, so that a reader may map it into memory.
//!
//! Columns: `vector` (`FixedSizeList` of f16 or f32), `text`, `source`, `domain`, `split`, `prompt` Utf8. The space stands in
//! the schema's metadata under the key `space.json`. pyarrow, polars and Hugging Face datasets read such a file.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, FixedSizeListArray, Float16Array, Float32Array, RecordBatch};
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::{DataType, Field, Schema};
use fs_err as fs;
use half::f16;
use half::slice::HalfFloatSliceExt;
use models::Space;

use super::config::Storage;
use super::files;
use super::manifest::{CosineLoss, ShardRecord};
use super::pair::Pair;
use crate::{Error, Result};

/// Key of the space record in the schema's metadata.
pub(super) const SPACE_KEY: &str = "space.json";
/// The columns behind the vectors, in their order.
const STRINGS: [&str; 5] = ["text", "source", "domain", "split", "prompt"];
/// Alignment of every buffer in the file, in bytes: a cache line, as Arrow recommends.
const ALIGNMENT: usize = 64;

/// File name of shard number `index`.
pub fn shard_file(index: usize) -> String {
    format!("shard-{index:05}.arrow")
}

/// The schema of every shard of a pair set.
pub(super) fn schema(space: &Space, storage: Storage) -> Result<Schema> {
    let number = match storage {
        Storage::F16 => DataType::Float16,
        Storage::F32 => DataType::Float32,
    };
    let dim = i32::try_from(space.dim)
        .map_err(|_| Error::VectorWidth { expected: i32::MAX as usize, found: space.dim })?;
    let vector = DataType::FixedSizeList(Arc::new(Field::new("item", number, false)), dim);
    let mut fields = vec![Field::new("vector", vector, false)];
    fields.extend(STRINGS.map(|name| Field::new(name, DataType::Utf8, false)));
    let space_json =
        serde_json::to_string(space).map_err(|source| Error::Json { path: SPACE_KEY.into(), source })?;
    Ok(Schema::new(fields).with_metadata(HashMap::from([(SPACE_KEY.to_owned(), space_json)])))
}

/// The numbers of the vectors gathered so far, row after row.
enum Numbers {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

/// Gathers the pairs of one shard and writes them.
pub struct ShardWriter {
    schema: Arc<Schema>,
    dim: usize,
    numbers: Numbers,
    columns: [StringBuilder; 5],
    rows: usize,
    loss_sum: f64,
    loss_max: f64,
}

impl ShardWriter {
    /// An empty shard for vectors of `space`.
    ///
    /// # Errors
    /// The space does not serialise or its dimension is absurd.
    pub fn new(space: &Space, storage: Storage) -> Result<ShardWriter> {
        let numbers = match storage {
            Storage::F16 => Numbers::F16(Vec::new()),
            Storage::F32 => Numbers::F32(Vec::new()),
        };
        Ok(ShardWriter {
            schema: Arc::new(schema(space, storage)?),
            dim: space.dim,
            numbers,
            columns: Default::default(),
            rows: 0,
            loss_sum: 0.0,
            loss_max: 0.0,
        })
    }

    /// Pairs gathered so far.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sum and largest value of 1 - cosine(vector, stored vector) over the pairs gathered so far.
    pub fn cosine_loss(&self) -> CosineLoss {
        CosineLoss { mean: self.loss_sum / self.rows.max(1) as f64, max: self.loss_max }
    }

    /// Adds one pair.
    ///
    /// # Errors
    /// A vector of another length, a number that is not finite, or one that half precision cannot hold; the text is named.
    pub fn push(&mut self, pair: &Pair<'_>) -> Result<()> {
        let Pair { vector, text, source, domain, split, prompt } = *pair;
        if vector.len() != self.dim {
            return Err(Error::VectorWidth { expected: self.dim, found: vector.len() });
        }
        // Arrow counts the bytes of a column in 31 bits
        if self.columns[0].values_slice().len() + text.len() > i32::MAX as usize {
            return Err(Error::Setting {
                key: "pairs.shard_rows".into(),
                value: (self.rows + 1).to_string(),
                reason: "the texts of so many rows exceed 2 GiB, the most that a shard holds".into(),
            });
        }
        let refuse = |position: usize, value: f32, half: bool| Error::BadVector {
            text: shortened(text),
            source_name: source.to_owned(),
            position,
            value,
            half,
        };
        if let Some(position) = vector.iter().position(|x| !x.is_finite()) {
            return Err(refuse(position, vector[position], false));
        }
        match &mut self.numbers {
            Numbers::F32(numbers) => numbers.extend_from_slice(vector),
            Numbers::F16(numbers) => {
                let start = numbers.len();
                numbers.resize(start + self.dim, f16::ZERO);
                let stored = &mut numbers[start..];
                stored.convert_from_f32_slice(vector);
                if let Some(position) = stored.iter().position(|x| !x.is_finite()) {
                    numbers.truncate(start);
                    return Err(refuse(position, vector[position], true));
                }
                let loss = 1.0 - cosine(vector, &numbers[start..]);
                self.loss_sum += loss;
                self.loss_max = self.loss_max.max(loss);
            }
        }
        for (column, value) in self.columns.iter_mut().zip([text, source, domain, split, prompt]) {
            column.append_value(value);
        }
        self.rows += 1;
        Ok(())
    }

    /// Writes the shard to `path`: temporary name, sync, rename. Its record has the digest of the bytes written.
    ///
    /// # Errors
    /// The file cannot be written (full disk, read-only folder); no file of that name is left then.
    pub fn write(mut self, path: &Path) -> Result<ShardRecord> {
        let rows = self.rows as u64;
        let batch = self.batch(path)?;
        let temporary = files::temporary(path);
        let written = write_file(&temporary, &self.schema, &batch);
        let (digest, bytes) = match written {
            Ok(done) => done,
            Err(error) => {
                // a partial shard only fills a disk that is perhaps full already
                let _ = fs::remove_file(&temporary);
                return Err(error);
            }
        };
        files::publish(path)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ShardRecord { file, rows, bytes, digest })
    }

    fn batch(&mut self, path: &Path) -> Result<RecordBatch> {
        let wrong = |source| Error::Arrow { path: path.to_owned(), source };
        let values: ArrayRef = match &mut self.numbers {
            Numbers::F16(numbers) => Arc::new(Float16Array::from(std::mem::take(numbers))),
            Numbers::F32(numbers) => Arc::new(Float32Array::from(std::mem::take(numbers))),
        };
        let DataType::FixedSizeList(item, dim) = self.schema.field(0).data_type() else {
            return Err(Error::VectorWidth { expected: self.dim, found: 0 });
        };
        let vectors = FixedSizeListArray::try_new(item.clone(), *dim, values, None).map_err(wrong)?;
        let mut columns: Vec<ArrayRef> = vec![Arc::new(vectors)];
        columns.extend(self.columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        RecordBatch::try_new(self.schema.clone(), columns).map_err(wrong)
    }
}

/// cos(a, b) in double precision; two zero vectors count as equal.
fn cosine(a: &[f32], b: &[f16]) -> f64 {
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (&x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(x), y.to_f64());
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa == 0.0 && bb == 0.0 { 1.0 } else { dot / (aa * bb).sqrt().max(f64::MIN_POSITIVE) }
}

/// The beginning of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn write_file(path: &Path, schema: &Schema, batch: &RecordBatch) -> Result<(String, u64)> {
    let wrong = |source| Error::Arrow { path: path.to_owned(), source };
    let options =
        IpcWriteOptions::try_new(ALIGNMENT, false, arrow_ipc::MetadataVersion::V5).map_err(wrong)?;
    let out =
        Digested { inner: BufWriter::new(fs::File::create(path)?), hasher: blake3::Hasher::new(), bytes: 0 };
    let mut writer =
        FileWriter::try_new_with_options(out, schema, options).map_err(|e| unwrapped(path, e))?;
    writer.write(batch).map_err(|e| unwrapped(path, e))?;
    writer.finish().map_err(|e| unwrapped(path, e))?;
    let Digested { mut inner, hasher, bytes } = writer.into_inner().map_err(|e| unwrapped(path, e))?;
    inner.flush()?;
    inner.get_ref().sync_all()?;
    Ok((digest_text(&hasher.finalize()), bytes))
}

/// Arrow wraps what the disk said; the user should hear the disk.
fn unwrapped(path: &Path, error: arrow_schema::ArrowError) -> Error {
    match error {
        arrow_schema::ArrowError::IoError(_, source) => Error::Io(source),
        source => Error::Arrow { path: path.to_owned(), source },
    }
}

/// `blake3:HEX`, the form of every digest of this project.
pub(super) fn digest_text(hash: &blake3::Hash) -> String {
    format!("blake3:{}", hash.to_hex())
}

/// Digests what passes through on its way to the file.
struct Digested<W> {
    inner: W,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(data)?;
        self.hasher.update(&data[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::space::{Pooling, Prompt};

    fn space() -> Space {
        Space {
            encoder: "test".into(),
            revision: None,
            weights_digest: "blake3:0".into(),
            prompt: Prompt::none(),
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim: 2,
            normalize: false,
            max_tokens: 8,
        }
    }

    fn pair<'a>(vector: &'a [f32], text: &'a str) -> Pair<'a> {
        Pair { vector, text, source: "s", domain: "d", split: "train", prompt: "none" }
    }

    #[test]
    fn half_precision_refuses_what_it_cannot_hold() {
        let mut shard = ShardWriter::new(&space(), Storage::F16).unwrap();
        shard.push(&pair(&[1.0, 0.1], "a")).unwrap();
        let error = shard.push(&pair(&[0.0, 1e6], "large")).unwrap_err();
        assert!(matches!(error, Error::BadVector { position: 1, half: true, .. }), "{error}");
        assert_eq!(shard.rows(), 1);
        let loss = shard.cosine_loss();
        assert!(loss.max > 0.0 && loss.max < 1e-7, "{loss:?}");
        ShardWriter::new(&space(), Storage::F32).unwrap().push(&pair(&[0.0, 1e6], "large")).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_told_as_such() {
        let mut shard = ShardWriter::new(&space(), Storage::F16).unwrap();
        let path = Path::new("/dev/full");
        shard.push(&pair(&[1.0, 0.1], &"a".repeat(1 << 16))).unwrap();
        let batch = shard.batch(path).unwrap();
        let error = write_file(path, &shard.schema, &batch).unwrap_err();
        assert!(matches!(&error, Error::Io(e) if e.kind() == io::ErrorKind::StorageFull), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("free")), "{error}");
    }
}
