//! Second stage: partition after partition, duplicates out, vectors in, shard after shard.

use std::path::{Path, PathBuf};

use fs_err as fs;
use models::{Embed, Space};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::config::{BuildConfig, WORK_FOLDER};
use super::curated::CuratedCorpora;
use super::manifest::{CosineLoss, Counts, ShardRecord};
use super::near::NearDuplicates;
use super::pair::Pair;
use super::partitions::{Curated, PARTITIONS, PartitionReader};
use super::progress::{Clock, Stage, Watch};
use super::prompts::Encoders;
use super::shard_writer::{ShardWriter, shard_file};
use crate::curation::{Drops, Filter};
use crate::{Error, Result};

/// Documents given to the encoder at once. Each shard is cut at the same places however often the build was interrupted,
/// because the composition of a batch may change the last bits of a vector.
const ENCODE_ROWS: usize = 1024;

/// Documents dropped because another one says the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Duplicates {
    exact: u64,
    near: u64,
}

impl Duplicates {
    /// Adds these to what other filters dropped.
    pub(super) fn add_to(self, drops: &mut Drops) {
        // a filter that was not asked for is not to be listed
        for (filter, count) in [(Filter::Duplicate, self.exact), (Filter::NearDuplicate, self.near)] {
            if count > 0 {
                drops.add_count(filter, count);
            }
        }
    }

    fn total(self) -> u64 {
        self.exact + self.near
    }
}

/// Where in the curated documents the next shard begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    partition: usize,
    /// Documents of that partition that are in earlier shards.
    taken: u64,
    /// Dropped in the partitions before it.
    duplicates: Duplicates,
}

/// A complete shard, as the working folder remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ShardState {
    pub(super) record: ShardRecord,
    pub(super) counts: Counts,
    pub(super) cosine_loss: CosineLoss,
    end: Cursor,
}

fn state_file(work: &Path, index: usize) -> PathBuf {
    work.join(format!("shard-{index:05}.json"))
}

/// The complete shards of an interrupted build, up to the first that is missing.
pub(super) fn complete_shards(dir: &Path, work: &Path) -> Result<Vec<ShardState>> {
    let mut states: Vec<ShardState> = Vec::new();
    loop {
        let path = state_file(work, states.len());
        if !path.exists() {
            return Ok(states);
        }
        let state: ShardState = models::files::read_json(&path)?;
        let size = fs::metadata(dir.join(&state.record.file)).map(|file| file.len()).unwrap_or(0);
        if size != state.record.bytes {
            tracing::warn!("{} is not whole, encoding goes on from it", state.record.file);
            return Ok(states);
        }
        states.push(state);
    }
}

/// Writes the shards that are missing; gives all of them, and what was dropped.
pub(super) fn encode(
    config: &BuildConfig,
    (encoders, space): (Encoders<'_>, &Space),
    curated: &CuratedCorpora,
    near: &NearDuplicates,
    mut states: Vec<ShardState>,
    watch: &mut Watch<'_>,
) -> Result<(Vec<ShardState>, Duplicates)> {
    let work = config.dir.join(WORK_FOLDER);
    let cursor = states.last().map(|state| state.end).unwrap_or_default();
    let mut stream =
        UniqueDocuments::start(curated.folder(&work), config.curation.exact_duplicates, near, cursor);
    // a document has a row under each prompt, and a shard parts none
    let rows = encoders.len() as u64;
    let shard_documents = (config.shard_rows / encoders.len()).max(1);
    let before = states.iter().map(|state| state.record.rows).sum::<u64>() / rows;
    let clock = Clock::start(Stage::Encode, before);
    let mut done = before;
    loop {
        let documents = stream.take(shard_documents)?;
        if documents.is_empty() {
            break;
        }
        let mut shard = ShardWriter::new(space, config.storage)?;
        let mut counts = Counts::default();
        for chunk in documents.chunks(ENCODE_ROWS) {
            encode_chunk((encoders, space), chunk, &mut shard, &mut counts)?;
            done += chunk.len() as u64;
            let total = curated.documents.saturating_sub(stream.duplicates().total());
            watch.tell(&clock, done, Some(total))?;
        }
        let index = states.len();
        let cosine_loss = shard.cosine_loss();
        let record = shard.write(&config.dir.join(shard_file(index)))?;
        let state = ShardState { record, counts, cosine_loss, end: stream.cursor() };
        models::files::write_json(&state_file(&work, index), &state)?;
        states.push(state);
    }
    if states.is_empty() {
        return Err(curated.empty());
    }
    Ok((states, stream.duplicates()))
}

/// Encodes all documents under one prompt, then under the next, and puts each one's rows together.
fn encode_chunk(
    (encoders, space): (Encoders<'_>, &Space),
    documents: &[Curated],
    shard: &mut ShardWriter,
    counts: &mut Counts,
) -> Result<()> {
    let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
    let numbers_of = |encoder: &dyn Embed| numbers_of(&encoder.embed(&texts)?, texts.len(), space.dim);
    let numbers: Vec<Vec<f32>> = encoders.iter().map(numbers_of).collect::<Result<_>>()?;
    for (index, document) in documents.iter().enumerate() {
        let Curated { text, source, domain, split, tokens, .. } = document;
        for (prompt, numbers) in space.prompts().zip(&numbers) {
            let vector = &numbers[index * space.dim..][..space.dim];
            let (split, prompt) = (split.as_str(), prompt.name.as_str());
            let pair = Pair { vector, text, source, domain, split, prompt };
            shard.push(&pair)?;
            counts.add(&pair, *tokens);
        }
    }
    Ok(())
}

/// The numbers of `v_ND`, checked to be `[n, dim]`, row after row.
fn numbers_of(vectors: &Tensor, n: usize, dim: usize) -> Result<Vec<f32>> {
    let shape = vectors.size();
    if shape != [n as i64, dim as i64] {
        return Err(Error::VectorShape { expected: vec![n as i64, dim as i64], found: shape });
    }
    let flat = vectors.f_to_kind(tch::Kind::Float)?.f_to_device(tch::Device::Cpu)?.f_reshape([-1])?;
    Ok(Vec::<f32>::try_from(flat)?)
}

/// The curated documents in the order of their keys, without duplicates.
struct UniqueDocuments<'a> {
    folder: PathBuf,
    /// Whether of equal texts the first alone is given out.
    exact: bool,
    near: &'a NearDuplicates,
    /// Where the documents given out so far end.
    cursor: Cursor,
    reader: Option<PartitionReader>,
    /// Of the piece in memory, what has not been given out.
    piece: std::vec::IntoIter<Curated>,
    /// Documents of the open partition that an earlier process has put into shards.
    skip: u64,
    /// Dropped in the open partition so far.
    dropped: Duplicates,
}

impl<'a> UniqueDocuments<'a> {
    fn start(folder: PathBuf, exact: bool, near: &'a NearDuplicates, cursor: Cursor) -> UniqueDocuments<'a> {
        UniqueDocuments {
            folder,
            exact,
            near,
            cursor,
            reader: None,
            piece: Vec::new().into_iter(),
            skip: cursor.taken,
            dropped: Duplicates::default(),
        }
    }

    fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Dropped so far, by this process and those before it.
    fn duplicates(&self) -> Duplicates {
        let before = self.cursor.duplicates;
        Duplicates { exact: before.exact + self.dropped.exact, near: before.near + self.dropped.near }
    }

    /// The next `n` documents; fewer at the end.
    fn take(&mut self, n: usize) -> Result<Vec<Curated>> {
        let mut taken = Vec::new();
        while taken.len() < n {
            let wanted = n - taken.len();
            let had = taken.len();
            taken.extend(self.piece.by_ref().take(wanted));
            self.cursor.taken += (taken.len() - had) as u64;
            if taken.len() < n && !self.next_piece()? {
                break;
            }
        }
        Ok(taken)
    }

    /// Loads what follows; false at the end.
    fn next_piece(&mut self) -> Result<bool> {
        loop {
            if self.cursor.partition == PARTITIONS {
                return Ok(false);
            }
            let (folder, index) = (&self.folder, self.cursor.partition);
            let reader = self.reader.get_or_insert_with(|| PartitionReader::open(folder, index));
            let Some(mut documents) = reader.next_piece()? else {
                self.cursor = Cursor { partition: index + 1, taken: 0, duplicates: self.duplicates() };
                (self.reader, self.dropped) = (None, Duplicates::default());
                continue;
            };
            self.drop_duplicates(&mut documents)?;
            let skipped = self.skip.min(documents.len() as u64);
            self.skip -= skipped;
            documents.drain(..skipped as usize);
            if !documents.is_empty() {
                self.piece = documents.into_iter();
                return Ok(true);
            }
        }
    }

    /// Of equal keys the first read stays. The documents are sorted by key and sequence.
    fn drop_duplicates(&mut self, documents: &mut Vec<Curated>) -> Result<()> {
        let before = documents.len();
        if self.exact {
            documents.dedup_by_key(|document| document.key);
        }
        self.dropped.exact += (before - documents.len()) as u64;
        let before = documents.len();
        self.near.remove_from(self.cursor.partition, documents)?;
        self.dropped.near += (before - documents.len()) as u64;
        Ok(())
    }
}
