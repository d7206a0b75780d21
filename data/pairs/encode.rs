//! Second stage: partition after partition, duplicates out, vectors in, shard after shard.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use models::{Embed, Space};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::config::{BuildConfig, Storage, WORK_FOLDER};
use super::manifest::{CosineLoss, Counts, ShardRecord};
use super::near::NearDuplicates;
use super::pair::Pair;
use super::partitions::{Curated, PARTITIONS, PartitionReader};
use super::progress::{Clock, Stage, Watch};
use super::prompts::Encoders;
use super::ranks::EncodePlan;
use super::shard_writer::{ShardWriter, shard_file};
use crate::curation::{Drops, Filter};
use crate::{Error, Result};

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

/// The number in the name of a state file.
fn state_index(path: &Path) -> Option<usize> {
    path.file_name()?.to_str()?.strip_prefix("shard-")?.strip_suffix(".json")?.parse().ok()
}

/// The complete shards of an interrupted build, by number. Several processes leave gaps.
pub(super) fn complete_shards(dir: &Path, work: &Path) -> Result<BTreeMap<usize, ShardState>> {
    let mut states = BTreeMap::new();
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        let Some(index) = state_index(&path) else { continue };
        let state: ShardState = models::files::read_json(&path)?;
        let size = fs::metadata(dir.join(&state.record.file)).map(|file| file.len()).unwrap_or(0);
        if size == state.record.bytes {
            states.insert(index, state);
        } else {
            tracing::warn!("{} is not whole and is encoded again", state.record.file);
        }
    }
    Ok(states)
}

/// What a rank has encoded.
pub(super) struct Encoded {
    /// Its own shards, by number.
    pub(super) states: BTreeMap<usize, ShardState>,
    /// Shards there are, those of other ranks and of earlier processes included.
    pub(super) shards: usize,
    /// Dropped in the whole stream.
    pub(super) duplicates: Duplicates,
}

/// Writes the missing shards that fall to this rank: of those that are missing, in their order, each goes to the next.
pub(super) fn encode(
    config: &BuildConfig,
    encoders: Encoders<'_>,
    plan: &EncodePlan,
    near: &NearDuplicates,
    watch: &mut Watch<'_>,
) -> Result<Encoded> {
    let (work, EncodePlan { space, curated, states, .. }) = (config.dir.join(WORK_FOLDER), plan);
    let (rank, size) = (watch.world.rank(), watch.world.size());
    // up to the first that is missing nothing is to be looked at
    let whole: Vec<&ShardState> = (0..).map_while(|index| states.get(&index)).collect();
    let cursor = whole.last().map(|state| state.end).unwrap_or_default();
    let exact = config.curation.exact_duplicates;
    let mut stream =
        UniqueDocuments { rank, ..UniqueDocuments::start(curated.folder(&work), exact, near, cursor) };
    // a document has a row under each prompt, and a shard parts none
    let rows = encoders.len() as u64;
    let shard_documents = (config.shard_rows / encoders.len()).max(1);
    let before = whole.iter().map(|state| state.record.rows).sum::<u64>() / rows;
    let clock = Clock::start(Stage::Encode, before);
    let (mut done, mut shards, mut missing) = (before, whole.len(), 0);
    let mut own = BTreeMap::new();
    loop {
        let documents = stream.take(shard_documents)?;
        if documents.is_empty() {
            break;
        }
        let total = curated.documents.saturating_sub(stream.duplicates().total());
        let mut tell = |documents: usize| {
            done += documents as u64;
            watch.tell(&clock, done, Some(total))
        };
        let index = shards;
        shards += 1;
        let is_missing = !states.contains_key(&index);
        if is_missing && missing % size == rank {
            let shard = encode_shard((encoders, space), config.storage, &documents, &mut tell)?;
            let state = shard.write(config, &work, index, stream.cursor())?;
            own.insert(index, state);
        } else {
            tell(documents.len())?;
        }
        missing += usize::from(is_missing);
    }
    if shards == 0 {
        return Err(curated.empty());
    }
    Ok(Encoded { states: own, shards, duplicates: stream.duplicates() })
}

/// A shard in memory.
struct EncodedShard {
    shard: ShardWriter,
    counts: Counts,
}

impl EncodedShard {
    /// Writes the shard, and then that it is complete.
    fn write(self, config: &BuildConfig, work: &Path, index: usize, end: Cursor) -> Result<ShardState> {
        let cosine_loss = self.shard.cosine_loss();
        let record = self.shard.write(&config.dir.join(shard_file(index)))?;
        let state = ShardState { record, counts: self.counts, cosine_loss, end };
        models::files::write_json(&state_file(work, index), &state)?;
        Ok(state)
    }
}

/// Encodes the documents of one shard, and tells how many after each chunk.
fn encode_shard(
    (encoders, space): (Encoders<'_>, &Space),
    storage: Storage,
    documents: &[Curated],
    tell: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<EncodedShard> {
    let (mut shard, mut counts) = (ShardWriter::new(space, storage)?, Counts::default());
    // each shard is cut at the same places however often the build was interrupted, because the composition of a batch may
    // change the last bits of a vector
    let together = encoders.iter().map(|encoder| encoder.texts_together()).max().unwrap_or(1).max(1);
    for chunk in documents.chunks(together) {
        encode_chunk((encoders, space), chunk, &mut shard, &mut counts)?;
        tell(chunk.len())?;
    }
    Ok(EncodedShard { shard, counts })
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
    /// Of the process that reads.
    rank: usize,
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
            rank: 0,
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
            let rank = self.rank;
            let reader = self.reader.get_or_insert_with(|| PartitionReader::open(folder, index, rank));
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
