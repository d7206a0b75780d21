//! First stage: reads the corpora, filters each text by itself, and leaves what passed in partitions on disk.

use std::path::{Path, PathBuf};

use fs_err as fs;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config::BuildConfig;
use super::manifest::{CorpusFlow, Flow};
use super::near::BandWriter;
use super::partitions::{Curated, PartitionWriter};
use super::progress::{Clock, Stage, Watch};
use super::prompts::Encoders;
use crate::corpus::{Corpus, Document, open_corpus};
use crate::curation::{Curator, Drops, Exclusion, SplitConfig, Verdict, split_key, split_of};
use crate::{Error, Result};

/// Documents filtered at once, on all cores.
const CHUNK_DOCUMENTS: usize = 4096;
/// A chunk is closed early when its texts have this many bytes.
const CHUNK_BYTES: usize = 16 << 20;

/// What the first stage left; written last, so that its presence says that the partitions are whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CuratedCorpora {
    /// Documents in the partitions.
    pub(super) documents: u64,
    pub(super) flow: Flow,
}

impl CuratedCorpora {
    /// The partitions' folder.
    pub(super) fn folder(&self, work: &Path) -> PathBuf {
        folder(work)
    }

    /// The error for a build that is left with no text.
    pub(super) fn empty(&self) -> Error {
        Error::NoPairs { read: self.flow.read, drops: self.flow.drops.to_string() }
    }
}

fn folder(work: &Path) -> PathBuf {
    work.join("curated")
}

fn done_file(work: &Path) -> PathBuf {
    work.join("curated.json")
}

/// What a process before this one left, if it got to the end of this stage.
pub(super) fn finished(work: &Path) -> Result<Option<CuratedCorpora>> {
    let path = done_file(work);
    if path.exists() { Ok(Some(models::files::read_json(&path)?)) } else { Ok(None) }
}

/// Reads and filters every corpus of the build into empty partitions.
pub(super) fn curate(
    config: &BuildConfig,
    encoders: Encoders<'_>,
    work: &Path,
    watch: &mut Watch<'_>,
) -> Result<CuratedCorpora> {
    config.split.validate()?;
    let exclusion = Exclusion::read(&config.exclude)?;
    let curator = Curator::new(&config.curation, encoders.max_tokens(), exclusion, encoders.count_tokens())?;
    // every path and setting is looked at before the first document is read
    let corpora = config.corpora.iter().map(open_corpus).collect::<Result<Vec<_>>>()?;
    fs::create_dir_all(folder(work))?;
    let bands = config.curation.near_duplicates.is_some().then(|| BandWriter::create(work)).transpose()?;
    let mut sink = Sink {
        split: config.split,
        partitions: PartitionWriter::create(&folder(work))?,
        bands,
        flow: Flow { drops: Drops::new(&config.curation), ..Flow::default() },
        documents: 0,
    };
    let clock = Clock::start(Stage::Curate, 0);
    for mut corpus in corpora {
        loop {
            let chunk = next_chunk(&mut corpus)?;
            if chunk.is_empty() {
                break;
            }
            let verdicts: Vec<Verdict> =
                chunk.par_iter().map(|document| curator.examine(document)).collect::<Result<_>>()?;
            for (document, verdict) in chunk.iter().zip(verdicts) {
                sink.take(document, verdict)?;
            }
            watch.tell(&clock, sink.flow.read, None)?;
        }
        let (name, rows) = (corpus.config().name.clone(), corpus.report().clone());
        sink.flow.corpora.push(CorpusFlow { name, rows });
    }
    let curated = sink.finish()?;
    models::files::write_json(&done_file(work), &curated)?;
    Ok(curated)
}

/// The next documents of a corpus, few enough for memory; none at its end.
fn next_chunk(corpus: &mut Corpus) -> Result<Vec<Document>> {
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    while chunk.len() < CHUNK_DOCUMENTS && bytes < CHUNK_BYTES {
        let Some(document) = corpus.next() else { break };
        let document = document?;
        bytes += document.text.len();
        chunk.push(document);
    }
    Ok(chunk)
}

/// Where curated documents go, in the order in which they were read.
struct Sink {
    split: SplitConfig,
    partitions: PartitionWriter,
    bands: Option<BandWriter>,
    flow: Flow,
    documents: u64,
}

impl Sink {
    fn take(&mut self, original: &Document, verdict: Verdict) -> Result<()> {
        let sequence = self.flow.read;
        self.flow.read += 1;
        let kept = match verdict {
            Verdict::Drop(filter) => {
                self.flow.drops.add(filter, &original.text);
                return Ok(());
            }
            Verdict::Keep(kept) => kept,
        };
        if let Some(bands) = &mut self.bands {
            bands.push(kept.key, &kept.bands)?;
        }
        let split = split_of(&split_key(&kept.document), &self.split);
        let Document { text, source, domain, .. } = kept.document;
        let tokens = u32::try_from(kept.tokens).unwrap_or(u32::MAX);
        self.partitions.push(&Curated { key: kept.key, sequence, tokens, split, source, domain, text })?;
        self.documents += 1;
        Ok(())
    }

    fn finish(self) -> Result<CuratedCorpora> {
        self.partitions.finish()?;
        self.bands.map_or(Ok(()), BandWriter::finish)?;
        Ok(CuratedCorpora { documents: self.documents, flow: self.flow })
    }
}
