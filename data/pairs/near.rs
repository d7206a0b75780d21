//! Near duplicates across a whole corpus in bounded memory, between the two stages.
//!
//! Locality-sensitive hashing of MinHash signatures (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
//! section 3.4): two texts that share a band are near duplicates. The first stage writes (band, key) to partitions by
//! band; here texts that share a band meet, the one with the least key stays, the others' keys are written to
//! partitions by key, where the second stage finds them.

use std::collections::HashSet;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::config::BuildConfig;
use super::curated::CuratedCorpora;
use super::partitions::{Curated, PARTITIONS, partition_file, partition_of};
use super::progress::{Clock, Stage, Watch};
use crate::{Error, Result};

/// Records of one band partition that are sorted in memory at once; a larger partition is read in several passes.
const MEMORY_RECORDS: u64 = 4 << 20;
/// Bytes of a band record: the band's hash and the document's key.
const BAND_BYTES: usize = 24;
const KEY_BYTES: usize = 16;
const WRITE_BUFFER: usize = 64 << 10;

fn bands_folder(work: &Path) -> PathBuf {
    work.join("bands")
}

fn dropped_folder(work: &Path) -> PathBuf {
    work.join("near")
}

fn done_file(work: &Path) -> PathBuf {
    work.join("near.json")
}

/// Writes the bands of curated documents to partitions by band.
pub(super) struct BandWriter {
    files: Vec<BufWriter<fs::File>>,
}

impl BandWriter {
    /// Empty partitions in the working folder.
    pub(super) fn create(work: &Path) -> Result<BandWriter> {
        let folder = bands_folder(work);
        fs::create_dir_all(&folder)?;
        Ok(BandWriter { files: create_partitions(&folder)? })
    }

    /// Adds a document by the hashes of its bands.
    pub(super) fn push(&mut self, key: u128, bands: &[u64]) -> Result<()> {
        for &band in bands {
            let file = &mut self.files[(band % PARTITIONS as u64) as usize];
            file.write_all(&band.to_le_bytes())?;
            file.write_all(&key.to_le_bytes())?;
        }
        Ok(())
    }

    /// Writes out and syncs every partition.
    pub(super) fn finish(self) -> Result<()> {
        finish_partitions(self.files)
    }
}

fn create_partitions(folder: &Path) -> Result<Vec<BufWriter<fs::File>>> {
    (0..PARTITIONS)
        .map(|i| Ok(BufWriter::with_capacity(WRITE_BUFFER, fs::File::create(partition_file(folder, i))?)))
        .collect()
}

fn finish_partitions(files: Vec<BufWriter<fs::File>>) -> Result<()> {
    for mut file in files {
        file.flush()?;
        file.get_ref().sync_data()?;
    }
    Ok(())
}

/// The documents to be dropped as near duplicates, on disk.
#[derive(Debug)]
pub(super) struct NearDuplicates {
    folder: Option<PathBuf>,
}

impl NearDuplicates {
    /// Removes them from `documents`, sorted by key, of partition number `partition`.
    pub(super) fn remove_from(&self, partition: usize, documents: &mut Vec<Curated>) -> Result<()> {
        let (Some(folder), Some(first), Some(last)) = (&self.folder, documents.first(), documents.last())
        else {
            return Ok(());
        };
        let range = first.key..=last.key;
        let mut dropped = HashSet::new();
        for_each_record::<KEY_BYTES>(&partition_file(folder, partition), |record| {
            let key = u128::from_le_bytes(*record);
            if range.contains(&key) {
                dropped.insert(key);
            }
            Ok(())
        })?;
        documents.retain(|document| !dropped.contains(&document.key));
        Ok(())
    }
}

/// Those that [`find`] has found, on any rank.
pub(super) fn found(config: &BuildConfig, work: &Path) -> NearDuplicates {
    NearDuplicates { folder: config.curation.near_duplicates.as_ref().map(|_| dropped_folder(work)) }
}

/// Finds the near duplicates where the curation asks for it; at once where an earlier process has found them.
pub(super) fn find(
    config: &BuildConfig,
    curated: &CuratedCorpora,
    work: &Path,
    watch: &mut Watch<'_>,
) -> Result<()> {
    let Some(folder) = found(config, work).folder else { return Ok(()) };
    if !done_file(work).exists() {
        fs::create_dir_all(&folder)?;
        let mut dropped = create_partitions(&folder)?;
        let clock = Clock::start(Stage::NearDuplicates, 0);
        for index in 0..PARTITIONS {
            find_in(&partition_file(&bands_folder(work), index), MEMORY_RECORDS, &mut dropped)?;
            let done = curated.documents * (index as u64 + 1) / PARTITIONS as u64;
            watch.tell(&clock, done, Some(curated.documents))?;
        }
        finish_partitions(dropped)?;
        models::files::write_json(&done_file(work), &serde_json::json!({"done": true}))?;
    }
    Ok(())
}

/// Writes the keys of all documents of a band partition that share a band with a lesser key.
fn find_in(path: &Path, memory: u64, dropped: &mut [BufWriter<fs::File>]) -> Result<()> {
    let records = fs::metadata(path)?.len() / BAND_BYTES as u64;
    let passes = records.div_ceil(memory).max(1);
    for pass in 0..passes {
        let mut bands: Vec<(u64, u128)> = Vec::new();
        for_each_record::<BAND_BYTES>(path, |record| {
            let (band, key) = record.split_at(8);
            let band = band.iter().rev().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
            let key = key.iter().rev().fold(0u128, |n, &byte| n << 8 | u128::from(byte));
            if (band / PARTITIONS as u64) % passes == pass {
                bands.push((band, key));
            }
            Ok(())
        })?;
        bands.sort_unstable();
        bands.dedup();
        for pair in bands.windows(2) {
            let ((before, _), (band, key)) = (pair[0], pair[1]);
            if before == band {
                dropped[partition_of(key)].write_all(&key.to_le_bytes())?;
            }
        }
    }
    Ok(())
}

fn for_each_record<const N: usize>(path: &Path, mut each: impl FnMut(&[u8; N]) -> Result<()>) -> Result<()> {
    let damaged = |kind: ErrorKind| Error::DamagedPartition { path: path.to_owned(), source: kind.into() };
    if fs::metadata(path)?.len() % N as u64 != 0 {
        return Err(damaged(ErrorKind::UnexpectedEof));
    }
    let mut input = BufReader::with_capacity(1 << 20, fs::File::open(path)?);
    let mut record = [0u8; N];
    loop {
        match input.read_exact(&mut record) {
            Ok(()) => each(&record)?,
            Err(end) if end.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn of_documents_that_share_a_band_the_least_key_stays_in_any_memory() {
        let mut results = Vec::new();
        for memory in [MEMORY_RECORDS, 2] {
            let work = tempfile::tempdir().unwrap();
            let mut writer = BandWriter::create(work.path()).unwrap();
            for (key, bands) in
                [(7u128, [1u64, 65]), (3, [1, 129]), (9, [2, 129]), (5, [4, 6]), (3, [1, 129])]
            {
                writer.push(key, &bands).unwrap();
            }
            writer.finish().unwrap();
            let folder = dropped_folder(work.path());
            fs::create_dir_all(&folder).unwrap();
            let mut dropped = create_partitions(&folder).unwrap();
            for index in 0..PARTITIONS {
                find_in(&partition_file(&bands_folder(work.path()), index), memory, &mut dropped).unwrap();
            }
            finish_partitions(dropped).unwrap();
            let near = NearDuplicates { folder: Some(folder) };
            let mut documents: Vec<Curated> = [3u128, 5, 7, 9].map(document).into();
            near.remove_from(0, &mut documents).unwrap();
            results.push(documents.iter().map(|document| document.key).collect::<Vec<_>>());
        }
        assert_eq!(results, [[3, 5], [3, 5]]);
    }

    fn document(key: u128) -> Curated {
        let (source, domain, text) = (String::new(), String::new(), String::new());
        Curated { key, sequence: 0, tokens: 0, split: crate::curation::Split::Train, source, domain, text }
    }
}
