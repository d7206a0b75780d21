//! One shard, mapped into memory: where its buffers lie, found in the Arrow footer, and its rows without a copy.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{root_as_footer, root_as_message};
use half::f16;
use models::Space;
use torch_ext::MappedFile;

use super::config::Storage;
use super::manifest::ShardRecord;
use super::shard_writer::{SPACE_KEY, digest_text, schema};
use crate::{Error, Result};

/// Ends an Arrow file, after four bytes with the footer's length.
const MAGIC: &[u8] = b"ARROW1";
/// Buffers of the record batch, in the order of the schema: validity before each list, number and string buffer.
const BUFFERS: usize = 18;
/// Number of the buffer with the vectors' numbers.
const VECTOR_BUFFER: usize = 2;

/// The string columns, in the order of the schema.
#[derive(Clone, Copy, Debug)]
pub(super) enum Column {
    Text,
    Source,
    Domain,
    Split,
    Prompt,
}

/// Where a string column lies in the file.
#[derive(Debug)]
struct Strings {
    offsets: Range<usize>,
    bytes: Range<usize>,
}

/// A mapped shard whose layout has been checked against the file's size.
#[derive(Debug)]
pub(super) struct Shard {
    path: PathBuf,
    map: Arc<MappedFile>,
    rows: usize,
    dim: usize,
    storage: Storage,
    vectors: Range<usize>,
    strings: [Strings; 5],
}

impl Shard {
    /// Maps the shard and finds its columns; reads the footer only.
    pub(super) fn open(dir: &Path, record: &ShardRecord, space: &Space, storage: Storage) -> Result<Shard> {
        let path = dir.join(&record.file);
        let size = fs_err::metadata(&path)?.len();
        if size != record.bytes {
            return Err(Error::ShardSize { path, expected: record.bytes, found: size });
        }
        let map = Arc::new(MappedFile::open(&path)?);
        let rows = usize::try_from(record.rows).unwrap_or(usize::MAX);
        let layout = layout(map.bytes(), rows, space, storage);
        let (vectors, strings) = layout.map_err(|what| match what {
            Problem::Damage(what) => Error::DamagedShard { path: path.clone(), what },
            Problem::Other(error) => *error,
        })?;
        Ok(Shard { path, map, rows, dim: space.dim, storage, vectors, strings })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The whole file's digest, read from start to end.
    pub(super) fn digest(&self) -> String {
        digest_text(&blake3::hash(self.map.bytes()))
    }

    /// A string of row `row`, or nothing where the bytes are not what a shard holds.
    #[inline]
    pub(super) fn string(&self, column: Column, row: usize) -> Option<&str> {
        std::str::from_utf8(self.string_bytes(column, row)?).ok()
    }

    #[inline]
    fn string_bytes(&self, column: Column, row: usize) -> Option<&[u8]> {
        let Strings { offsets, bytes } = &self.strings[column as usize];
        let ends = self.map.bytes().get(offsets.clone())?.get(4 * row..4 * row + 8)?;
        let start = u32::from_le_bytes([ends[0], ends[1], ends[2], ends[3]]) as usize;
        let end = u32::from_le_bytes([ends[4], ends[5], ends[6], ends[7]]) as usize;
        self.map.bytes().get(bytes.clone())?.get(start..end)
    }

    /// Numbers of `row`, widened to f32 into `into` (`dim` long).
    #[inline]
    pub(super) fn vector_into(&self, row: usize, into: &mut [f32]) {
        let bytes = self.vector_bytes(row);
        match self.storage {
            // `layout` has checked the alignment, so neither cast can fail
            Storage::F16 => torch_ext::half::widen(bytemuck::cast_slice::<u8, f16>(bytes), into),
            Storage::F32 => into.copy_from_slice(bytemuck::cast_slice(bytes)),
        }
    }

    /// The numbers of `row` as they are stored.
    #[inline]
    pub(super) fn vector_bytes(&self, row: usize) -> &[u8] {
        let width = self.dim * self.storage.bytes();
        &self.map.bytes()[self.vectors.start + row * width..][..width]
    }
}

/// Why a shard was refused.
enum Problem {
    Damage(String),
    Other(Box<Error>),
}

impl From<String> for Problem {
    fn from(what: String) -> Problem {
        Problem::Damage(what)
    }
}

fn damage(what: impl std::fmt::Display) -> Problem {
    Problem::Damage(what.to_string())
}

/// Finds the buffers in an Arrow file of one record batch and checks that they fit `rows` rows of this schema.
fn layout(
    file: &[u8],
    rows: usize,
    space: &Space,
    storage: Storage,
) -> std::result::Result<(Range<usize>, [Strings; 5]), Problem> {
    let body = file.strip_suffix(MAGIC).ok_or_else(|| damage("it does not end as an Arrow file"))?;
    let (rest, length) = body.split_last_chunk::<4>().ok_or_else(|| damage("it is too short"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let footer = rest.len().checked_sub(length).map(|start| &rest[start..]);
    let footer = footer.ok_or_else(|| damage("its footer is longer than the file"))?;
    let footer = root_as_footer(footer).map_err(|e| damage(format!("its footer does not parse: {e}")))?;
    check_schema(&footer, space, storage)?;

    let blocks = footer.recordBatches().ok_or_else(|| damage("it has no record batch"))?;
    if blocks.len() != 1 {
        return Err(damage(format!("it has {} record batches instead of one", blocks.len())));
    }
    let block = blocks.get(0);
    let message_start = to_usize(block.offset())?;
    let body_start = message_start.saturating_add(to_usize(i64::from(block.metaDataLength()))?);
    // the message follows the continuation marker and its own length, 4 bytes each
    let message = file
        .get(message_start.saturating_add(8)..body_start)
        .ok_or_else(|| damage("its record batch lies outside the file"))?;
    let message =
        root_as_message(message).map_err(|e| damage(format!("its record batch does not parse: {e}")))?;
    let batch = message.header_as_record_batch().ok_or_else(|| damage("its block is no record batch"))?;
    if batch.compression().is_some() {
        return Err(damage("its buffers are compressed"));
    }
    if batch.length() != rows as i64 {
        return Err(damage(format!("it has {} rows where the manifest says {rows}", batch.length())));
    }
    if batch.nodes().is_none_or(|nodes| nodes.iter().any(|node| node.null_count() != 0)) {
        return Err(damage("it has empty cells"));
    }
    let buffers = batch.buffers().filter(|buffers| buffers.len() == BUFFERS);
    let buffers = buffers.ok_or_else(|| damage("its record batch has other buffers than a shard's"))?;
    let range = |index: usize, needed: usize| -> std::result::Result<Range<usize>, Problem> {
        let buffer = buffers.get(index);
        let start = body_start.saturating_add(to_usize(buffer.offset())?);
        let end = start.saturating_add(to_usize(buffer.length())?);
        if end > file.len() || end - start < needed {
            return Err(damage(format!("buffer {index} lies outside the file or is too short")));
        }
        Ok(start..end)
    };
    let vectors = range(VECTOR_BUFFER, rows.saturating_mul(space.dim * storage.bytes()))?;
    if vectors.start % storage.bytes() != 0 {
        return Err(damage("its vectors are not aligned"));
    }
    let strings = |column: usize| -> std::result::Result<Strings, Problem> {
        let first = VECTOR_BUFFER + 2 + 3 * column;
        Ok(Strings {
            offsets: range(first, rows.saturating_add(1).saturating_mul(4))?,
            bytes: range(first + 1, 0)?,
        })
    };
    Ok((vectors, [strings(0)?, strings(1)?, strings(2)?, strings(3)?, strings(4)?]))
}

fn to_usize(n: i64) -> std::result::Result<usize, Problem> {
    usize::try_from(n).map_err(|_| damage(format!("it has a negative offset {n}")))
}

/// The shard's own schema and space against the manifest's.
fn check_schema(
    footer: &arrow_ipc::Footer<'_>,
    space: &Space,
    storage: Storage,
) -> std::result::Result<(), Problem> {
    let found = footer.schema().ok_or_else(|| damage("it has no schema"))?;
    let found = try_fb_to_schema(found).map_err(|e| damage(format!("its schema does not parse: {e}")))?;
    let expected = schema(space, storage).map_err(|e| Problem::Other(Box::new(e)))?;
    if found.fields() != expected.fields() {
        return Err(damage(format!(
            "its columns are {:?} instead of {:?}",
            found.fields(),
            expected.fields()
        )));
    }
    let (found, expected) = (found.metadata().get(SPACE_KEY), expected.metadata().get(SPACE_KEY));
    if found == expected {
        return Ok(());
    }
    let found = found.ok_or_else(|| damage("it names no space"))?;
    let found: Space =
        serde_json::from_str(found).map_err(|e| damage(format!("its space does not parse: {e}")))?;
    found
        .require_same(space, "the shard", "the manifest of its pair set")
        .map_err(|e| Problem::Other(Box::new(e.into())))
}
