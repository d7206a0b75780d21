//! Curated documents on their way to shards, in files by the leading bits of their key: equal texts meet in one file,
//! and file after file, each sorted by key, is the whole in a random order that every machine finds again.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Number of partitions, and the bits of the key that choose one.
pub(super) const PARTITIONS: usize = 1 << PARTITION_BITS;
const PARTITION_BITS: u32 = 6;
/// A partition larger than this many bytes is split by further bits before it is sorted in memory.
const MEMORY_BYTES: u64 = 128 << 20;
/// Bits by which a large partition is split.
const SPLIT_BITS: u32 = 4;
/// A longer field in a partition file is damage, not a text.
const MAX_FIELD: u32 = 1 << 30;
const WRITE_BUFFER: usize = 64 << 10;

/// A text that passed every filter which looks at one text alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Curated {
    /// Hash of the normalised text: equal for duplicates, and the order of the pairs.
    pub(super) key: u128,
    /// Its place in the order in which the corpora were read; of duplicates the first is kept.
    pub(super) sequence: u64,
    /// Length in the encoder's tokens.
    pub(super) tokens: u32,
    pub(super) split: crate::curation::Split,
    pub(super) source: String,
    pub(super) domain: String,
    pub(super) text: String,
}

/// Number of the partition that holds `key`.
pub(super) fn partition_of(key: u128) -> usize {
    bits_of(key, 0, PARTITION_BITS)
}

/// `count` bits of the key after the `first` leading ones.
fn bits_of(key: u128, first: u32, count: u32) -> usize {
    ((key >> (128 - first - count)) & ((1 << count) - 1)) as usize
}

/// File of partition number `index` in `folder`.
pub(super) fn partition_file(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("part-{index:03}.bin"))
}

/// Open files, one for each value of some bits of the key.
pub(super) struct PartitionWriter {
    files: Vec<BufWriter<fs::File>>,
    first_bit: u32,
    bits: u32,
}

impl PartitionWriter {
    /// The partitions of a whole corpus, in `folder`.
    pub(super) fn create(folder: &Path) -> Result<PartitionWriter> {
        PartitionWriter::by_bits(folder, 0, PARTITION_BITS)
    }

    fn by_bits(folder: &Path, first_bit: u32, bits: u32) -> Result<PartitionWriter> {
        let files = (0..1usize << bits)
            .map(|i| Ok(BufWriter::with_capacity(WRITE_BUFFER, fs::File::create(partition_file(folder, i))?)))
            .collect::<io::Result<_>>()?;
        Ok(PartitionWriter { files, first_bit, bits })
    }

    /// Adds a document to its partition.
    pub(super) fn push(&mut self, document: &Curated) -> Result<()> {
        let index = bits_of(document.key, self.first_bit, self.bits);
        Ok(write_record(&mut self.files[index], document)?)
    }

    /// Writes out and syncs every partition.
    pub(super) fn finish(self) -> Result<()> {
        for mut file in self.files {
            file.flush()?;
            file.get_ref().sync_data()?;
        }
        Ok(())
    }
}

fn write_record(out: &mut impl Write, document: &Curated) -> io::Result<()> {
    out.write_all(&document.key.to_le_bytes())?;
    out.write_all(&document.sequence.to_le_bytes())?;
    out.write_all(&document.tokens.to_le_bytes())?;
    for field in [document.split.as_str(), &document.source, &document.domain, &document.text] {
        let length = u32::try_from(field.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        out.write_all(&length.to_le_bytes())?;
        out.write_all(field.as_bytes())?;
    }
    Ok(())
}

/// Reads the next record; nothing at the end of the file.
fn read_record(input: &mut impl Read) -> io::Result<Option<Curated>> {
    let mut head = [0u8; 28];
    let first = input.read(&mut head)?;
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[first..])?;
    let (key, rest) = head.split_at(16);
    let (sequence, tokens) = rest.split_at(8);
    let mut field = || -> io::Result<String> {
        let mut length = [0u8; 4];
        input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > MAX_FIELD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length as usize];
        input.read_exact(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
    };
    let split = field()?.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Curated {
        key: key.iter().rev().fold(0, |n, &byte| n << 8 | u128::from(byte)),
        sequence: sequence.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)),
        tokens: tokens.iter().rev().fold(0, |n, &byte| n << 8 | u32::from(byte)),
        split,
        source: field()?,
        domain: field()?,
        text: field()?,
    }))
}

/// Calls `each` with every record of a partition file.
fn for_each_record(path: &Path, mut each: impl FnMut(Curated) -> Result<()>) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, fs::File::open(path)?);
    loop {
        match read_record(&mut input) {
            Ok(Some(document)) => each(document)?,
            Ok(None) => return Ok(()),
            Err(source) => return Err(Error::DamagedPartition { path: path.to_owned(), source }),
        }
    }
}

/// A place in the partitions' files.
struct Leaf {
    path: PathBuf,
    /// Leading bits of the key that all its documents share.
    bits: u32,
}

/// What a reader has still to do.
enum Task {
    Read(Leaf),
    /// The parts of a file, once all of them are read: together they take as much room as the file.
    Remove(PathBuf),
}

/// Goes through one partition in the order of the keys, in pieces that fit memory.
pub(super) struct PartitionReader {
    /// The next one last.
    tasks: Vec<Task>,
    memory: u64,
    /// Extension of the folders for parts of a file too large for memory: every process has its own.
    parts: String,
}

impl PartitionReader {
    /// Partition number `index` in `folder`, for the process of this rank.
    pub(super) fn open(folder: &Path, index: usize, rank: usize) -> PartitionReader {
        PartitionReader::with_memory(folder, index, rank, MEMORY_BYTES)
    }

    fn with_memory(folder: &Path, index: usize, rank: usize, memory: u64) -> PartitionReader {
        let whole = Leaf { path: partition_file(folder, index), bits: PARTITION_BITS };
        PartitionReader { tasks: vec![Task::Read(whole)], memory, parts: format!("parts-{rank}") }
    }

    /// The next piece, sorted by key and then by sequence; nothing at the end.
    pub(super) fn next_piece(&mut self) -> Result<Option<Vec<Curated>>> {
        while let Some(task) = self.tasks.pop() {
            let leaf = match task {
                Task::Read(leaf) => leaf,
                Task::Remove(folder) => {
                    fs::remove_dir_all(folder)?;
                    continue;
                }
            };
            let bytes = fs::metadata(&leaf.path)?.len();
            // a file of nothing but equal texts does not get smaller by splitting
            if bytes > self.memory && leaf.bits + SPLIT_BITS <= 64 {
                self.split(&leaf)?;
                continue;
            }
            let mut documents = Vec::new();
            for_each_record(&leaf.path, |document| {
                documents.push(document);
                Ok(())
            })?;
            documents.sort_unstable_by_key(|document| (document.key, document.sequence));
            return Ok(Some(documents));
        }
        Ok(None)
    }

    fn split(&mut self, leaf: &Leaf) -> Result<()> {
        let folder = leaf.path.with_extension(&self.parts);
        fs::create_dir_all(&folder)?;
        let mut parts = PartitionWriter::by_bits(&folder, leaf.bits, SPLIT_BITS)?;
        for_each_record(&leaf.path, |document| parts.push(&document))?;
        for mut file in parts.files {
            file.flush()?;
        }
        let bits = leaf.bits + SPLIT_BITS;
        let part = |i| Task::Read(Leaf { path: partition_file(&folder, i), bits });
        let parts: Vec<Task> = (0..1usize << SPLIT_BITS).rev().map(part).collect();
        self.tasks.push(Task::Remove(folder));
        self.tasks.extend(parts);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::curation::Split;

    fn document(i: u64) -> Curated {
        let text = format!("text {} é", i % 700);
        let key = u128::from_be_bytes(blake3::hash(text.as_bytes()).as_bytes()[..16].try_into().unwrap());
        let split = if i.is_multiple_of(3) { Split::Dev } else { Split::Train };
        Curated { key, sequence: i, tokens: i as u32, split, source: "s".into(), domain: String::new(), text }
    }

    fn read_all(folder: &Path, memory: u64) -> Vec<Curated> {
        let mut all = Vec::new();
        for index in 0..PARTITIONS {
            let mut reader = PartitionReader::with_memory(folder, index, 0, memory);
            while let Some(piece) = reader.next_piece().unwrap() {
                all.extend(piece);
            }
        }
        all
    }

    #[test]
    fn little_memory_gives_the_same_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = PartitionWriter::create(folder.path()).unwrap();
        let mut expected: Vec<Curated> = (0..1000).map(document).collect();
        for one in &expected {
            writer.push(one).unwrap();
        }
        writer.finish().unwrap();
        expected.sort_by_key(|document| (document.key, document.sequence));
        assert_eq!(read_all(folder.path(), MEMORY_BYTES), expected);
        assert_eq!(read_all(folder.path(), 600), expected);
        let mut left = fs::read_dir(folder.path()).unwrap();
        assert!(left.all(|entry| entry.unwrap().path().is_file()), "parts of what is read are left");
    }

    #[test]
    fn a_cut_partition_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = PartitionWriter::create(folder.path()).unwrap();
        let one = document(1);
        writer.push(&one).unwrap();
        writer.finish().unwrap();
        let path = partition_file(folder.path(), partition_of(one.key));
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = PartitionReader::open(folder.path(), partition_of(one.key), 0).next_piece().unwrap_err();
        assert!(matches!(error, Error::DamagedPartition { path: named, .. } if named == path));
    }
}
