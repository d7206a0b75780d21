//! First stage: reads the corpora, filters each text by itself, and leaves what passed in partitions on disk.

use std::path::{Path, PathBuf};

use fs_err as fs;
use models::Embed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::build::BuildConfig;
use super::manifest::{CorpusFlow, Flow};
use super::near::BandWriter;
use super::partitions::{Curated, PartitionWriter};
use super::progress::{Clock, Stage, Watch};
use super::shard_writer::shortened;
use crate::corpus::{Corpus, Document, open_corpus};
use crate::curation::{CountTokens, Curator, Drops, Exclusion, SplitConfig, Verdict, split_key, split_of};
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
    encoder: &dyn Embed,
    work: &Path,
    watch: &mut Watch<'_>,
) -> Result<CuratedCorpora> {
    config.split.validate()?;
    let exclusion = Exclusion::read(&config.exclude)?;
    let curator = Curator::new(&config.curation, encoder.max_tokens(), exclusion, count_tokens(encoder))?;
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

/// Counts tokens as the encoder does, but on all cores.
fn count_tokens(encoder: &dyn Embed) -> CountTokens<'_> {
    let counter = encoder.token_counter();
    Box::new(move |text| {
        Ok(counter.count(text).map_err(|error| match error {
            models::Error::Tokenize(reason) => {
                models::Error::Tokenize(format!("{:?}: {reason}", shortened(text)))
            }
            other => other,
        })?)
    })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use models::TokenCounter;
    use models::space::{Pooling, Prompt, Space};
    use tokenizers::Tokenizer;
    use tokenizers::models::wordpiece::WordPiece;
    use tokenizers::pre_tokenizers::whitespace::Whitespace;

    /// Puts texts in lower case before its tokenizer sees them.
    struct LowerCase(Tokenizer, Space);

    impl Embed for LowerCase {
        fn space(&self) -> &Space {
            &self.1
        }

        fn tokenizer(&self) -> &Tokenizer {
            &self.0
        }

        fn max_tokens(&self) -> usize {
            self.1.max_tokens
        }

        fn token_counter(&self) -> TokenCounter<'_> {
            TokenCounter { tokenizer: &self.0, prompt: &self.1.prompt.text, lower_case: true }
        }

        fn embed(&self, _: &[&str]) -> models::Result<tch::Tensor> {
            Ok(tch::Tensor::f_zeros([0, 1], (tch::Kind::Float, tch::Device::Cpu))?)
        }
    }

    #[test]
    fn tokens_are_counted_as_the_encoder_counts_them() {
        let vocabulary = [("[UNK]", 0), ("find", 1), ("river", 2), ("R", 3), ("##iver", 4)]
            .map(|(token, id): (&str, u32)| (token.to_owned(), id));
        let model = WordPiece::builder().vocab(vocabulary).unk_token("[UNK]".into()).build().unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(Whitespace {}));
        let space = Space {
            encoder: "lower".into(),
            revision: None,
            weights_digest: "blake3:0".into(),
            prompt: Prompt { name: "query".into(), text: "Find ".into() },
            other_prompts: vec![],
            special_tokens: None,
            attention: models::space::Attention::Bidirectional,
            pooling: Pooling::Mean,
            dense: None,
            dim: 1,
            normalize: true,
            max_tokens: 8,
        };
        let encoder = LowerCase(tokenizer, space);
        for (text, tokens) in [("River", 2), ("river", 2), ("River River", 3)] {
            assert_eq!(encoder.count_tokens(text).unwrap(), tokens, "{text}");
            assert_eq!(count_tokens(&encoder)(text).unwrap(), tokens, "{text}");
        }
    }
}
