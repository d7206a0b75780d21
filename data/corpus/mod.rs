//! Corpora: documents out of files of many formats, one after another, in a fixed order.
//!
//! Each format has its file; all give rows, and [`Corpus`] makes documents of them. Nothing holds more of a file
//! in memory than a record.

mod beir;
mod check;
mod config;
mod evaluation;
mod hub;
mod ir;
mod json;
mod markdown;
mod parquet;
mod paths;
mod record;
mod rustdoc;
mod sentences;
mod smart;
mod sts;
mod sts_layout;
mod table;
mod text;
mod trec;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use config::{Column, CorpusConfig, Format, GroupBy, Paths};
pub use ir::{IrDocument, IrOptions, IrQuery, IrSet, Qrels, read_ir};
pub use parquet::panic_is_damage;
pub use paths::{expand, files};
pub use sentences::sentences;
pub use sts::{StsPair, is_sts, read_sts};

pub(crate) use evaluation::{Structure, read_as, strings_of_whole};
pub(crate) use hub::HubCorpus;
pub(crate) use paths::{Found, corpus_files};

use crate::fraction::fraction;
use crate::{Error, Result};

/// A text with where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The text, as the file has it.
    pub text: String,
    /// Name of the corpus.
    pub source: String,
    /// Domain of the corpus.
    pub domain: String,
    /// Documents of one group go into the same split.
    pub group: Option<String>,
    /// File and line.
    pub origin: Origin,
}

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file.
    pub file: Arc<Path>,
    /// The line at which its record begins, counted from 1; of a Parquet file, its row.
    pub line: u64,
}

/// What was read of a corpus and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowReport {
    /// Files opened.
    pub files: u64,
    /// Rows read: well-formed, malformed and empty ones.
    pub rows: u64,
    /// Documents made of them.
    pub documents: u64,
    /// Rows skipped as malformed.
    pub malformed: u64,
    /// Rows in which no text column had any text.
    pub empty: u64,
    /// The first few malformed rows: file, line, reason.
    pub examples: Vec<String>,
}

/// Malformed rows that a report shows.
const EXAMPLES: usize = 5;

/// What a format's reader gives for one record of a file.
#[derive(Debug)]
struct Row {
    line: u64,
    texts: Vec<String>,
    /// Value of the grouping column.
    group: Option<String>,
}

/// Why a reader gives no row.
#[derive(Debug)]
enum Fault {
    /// This record only.
    Row { line: u64, reason: String },
    /// The file.
    Fatal(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Fatal(error)
    }
}

type Rows = Box<dyn Iterator<Item = Result<Row, Fault>> + Send>;

/// Where a row stands in its file, malformed ones counted.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// How many rows there are up to it.
    number: u64,
    /// The line at which it begins.
    line: u64,
    /// How many rows begin on that line, up to it.
    on_line: u64,
}

impl Place {
    /// Goes on to the next row, which begins at `line`.
    fn advance(&mut self, line: u64) {
        let on_line = if line == self.line { self.on_line + 1 } else { 1 };
        *self = Self { number: self.number + 1, line, on_line };
    }
}

/// A file that is not opened yet.
enum Source {
    Here(PathBuf),
    /// Within the corpus's repository; fetched when its turn comes.
    Hub(String),
}

/// The documents of a corpus; made by [`open_corpus`].
pub struct Corpus {
    config: CorpusConfig,
    files: VecDeque<Source>,
    /// Where files of a hub come from.
    hub: Option<HubCorpus>,
    current: Option<(Arc<Path>, Rows)>,
    pending: VecDeque<Document>,
    report: RowReport,
    /// The last row of the current file.
    place: Place,
    /// Rows of all files so far, taken or not.
    met: u64,
    done: bool,
}

/// Finds the files of a corpus; they are opened one by one as documents are asked for.
///
/// A malformed row is skipped and counted in [`Corpus::report`], or an error where the corpus is `strict`. A corpus that
/// ends without a single document gives [`Error::EmptyCorpus`] as its last item.
///
/// # Errors
/// A contradiction in the settings, a path that leads nowhere, a folder without a file of the format, a hub that does
/// not tell which files it has.
pub fn open_corpus(config: &CorpusConfig) -> Result<Corpus> {
    config.validate()?;
    let (hub, files) = match HubCorpus::of(config)? {
        Some(hub) => {
            let files = hub.files(config)?.into_iter().map(|file| Source::Hub(file.path)).collect();
            (Some(hub), files)
        }
        None => (None, corpus_files(config)?.into_iter().map(|found| Source::Here(found.file)).collect()),
    };
    Ok(Corpus {
        config: config.clone(),
        files,
        hub,
        current: None,
        pending: VecDeque::new(),
        report: RowReport::default(),
        place: Place::default(),
        met: 0,
        done: false,
    })
}

fn open_rows(file: &Path, config: &CorpusConfig) -> Result<Rows> {
    Ok(match config.format {
        Format::Text => Box::new(text::TextRows::open(file, config)?),
        Format::Tsv | Format::Csv | Format::Arxiv => Box::new(table::TableRows::open(file, config)?),
        Format::Jsonl => Box::new(json::LineRows::open(file, config)?),
        Format::Json => Box::new(json::ArrayRows::open(file, config)?),
        Format::Parquet => Box::new(parquet::ParquetRows::open(file, config)?),
        Format::Sts => Box::new(sts::StsRows::open(file, config)?),
        Format::Beir | Format::Trec | Format::Smart => Box::new(ir::EntryRows::open(file, config)?),
        Format::Rustdoc => Box::new(rustdoc::CommentRows::open(file, config)?),
    })
}

impl Corpus {
    /// What was read so far.
    pub fn report(&self) -> &RowReport {
        &self.report
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &CorpusConfig {
        &self.config
    }

    /// The files not yet opened.
    pub fn files_left(&self) -> usize {
        self.files.len()
    }

    fn advance(&mut self) -> Result<Option<Document>> {
        loop {
            if self.config.limit.is_some_and(|limit| self.report.documents >= limit) {
                return Ok(None);
            }
            if let Some(document) = self.pending.pop_front() {
                self.report.documents += 1;
                return Ok(Some(document));
            }
            let Some((file, rows)) = &mut self.current else {
                let path = match (self.files.pop_front(), &self.hub) {
                    (Some(Source::Here(path)), _) => path,
                    (Some(Source::Hub(file)), Some(hub)) => hub.fetch(&file)?,
                    _ => return self.end(),
                };
                let rows = open_rows(&path, &self.config)?;
                self.report.files += 1;
                self.place = Place::default();
                self.current = Some((path.into(), rows));
                continue;
            };
            let next = rows.next();
            if let Some(Ok(Row { line, .. }) | Err(Fault::Row { line, .. })) = &next {
                self.place.advance(*line);
                self.met += 1;
            }
            match next {
                None => self.current = None,
                Some(Ok(row)) => {
                    let file = file.clone();
                    if self.takes(&file) {
                        self.add(file, row);
                    }
                }
                Some(Err(Fault::Fatal(error))) => return Err(error),
                Some(Err(Fault::Row { line, reason })) => {
                    let error = Error::Row { path: file.to_path_buf(), line, reason };
                    self.refuse(error)?;
                }
            }
        }
    }

    fn refuse(&mut self, error: Error) -> Result<()> {
        if self.config.strict {
            return Err(error);
        }
        self.report.rows += 1;
        self.report.malformed += 1;
        if self.report.examples.len() < EXAMPLES {
            tracing::warn!("corpus {:?}: skipped: {error}", self.config.name);
            self.report.examples.push(error.to_string());
        }
        Ok(())
    }

    /// Whether the row at hand is of the share that is read.
    fn takes(&self, file: &Path) -> bool {
        let Some(share) = self.config.share else { return true };
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let place = self.number();
        fraction(&blake3::hash(format!("{}/{file}:{place}", self.config.name).as_bytes())) < share
    }

    /// Queues the documents of a row.
    fn add(&mut self, file: Arc<Path>, row: Row) {
        self.report.rows += 1;
        let group = self.group(&file, &row);
        let domain = self.domain(&file);
        let before = self.pending.len();
        for text in row.texts {
            let texts = if self.config.splits_sentences() { sentences(&text) } else { vec![text] };
            for text in texts.into_iter().filter(|text| !text.trim().is_empty()) {
                self.pending.push_back(Document {
                    text,
                    source: self.config.name.clone(),
                    domain: domain.clone(),
                    group: group.clone(),
                    origin: Origin { file: file.clone(), line: row.line },
                });
            }
        }
        if self.pending.len() == before {
            self.report.empty += 1;
        }
    }

    /// What the row at hand is known by in its file: its line, or the number of an array's element, as many of these may
    /// stand in one line.
    fn number(&self) -> u64 {
        if self.config.format == Format::Json { self.place.number } else { self.place.line }
    }

    fn domain(&self, file: &Path) -> String {
        if !self.config.file_domains {
            return self.config.domain().to_owned();
        }
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        file.split('.').find(|part| !part.is_empty()).unwrap_or(self.config.domain()).to_owned()
    }

    /// Groups are named by the corpus and the file's own name, which do not change with the folder they lie in.
    fn group(&self, file: &Path, row: &Row) -> Option<String> {
        let name = &self.config.name;
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        match self.config.grouping() {
            GroupBy::None => None,
            // a name by the line alone stays as it was, and with it the split
            GroupBy::Row if self.config.format == Format::Json && self.place.on_line > 1 => {
                Some(format!("{name}/{file}:{}.{}", row.line, self.place.on_line))
            }
            GroupBy::Row => Some(format!("{name}/{file}:{}", row.line)),
            GroupBy::Lines(lines) => Some(format!("{name}/{file}/{}", (self.number() - 1) / lines)),
            GroupBy::Column(_) => row.group.as_ref().map(|value| format!("{name}={value}")),
        }
    }

    fn end(&self) -> Result<Option<Document>> {
        if self.report.documents > 0 || self.config.limit == Some(0) {
            return Ok(None);
        }
        let RowReport { rows, malformed, empty, .. } = self.report;
        let (met, share) = (self.met, self.config.share);
        let mut files: Vec<String> =
            self.config.path.as_slice().iter().map(|path| path.display().to_string()).collect();
        files.extend(self.config.hub.iter().map(|hub| format!("of {hub}")));
        let corpus = self.config.name.clone();
        Err(Error::EmptyCorpus { corpus, met, share, rows, malformed, empty, files: files.join(", ") })
    }
}

impl Iterator for Corpus {
    type Item = Result<Document>;

    /// The next document; after an error, nothing more.
    fn next(&mut self) -> Option<Result<Document>> {
        if self.done {
            return None;
        }
        let item = self.advance().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
