//! Scored sentence pairs (semantic textual similarity), in the layouts in which they are handed round.
//!
//! - STS-B: CSV without a header, `sentence1,sentence2,score` (0 to 5; stsb-multi-mt, `data/stsb-en-*.csv`);
//! - SICK: TSV with the header `pair_ID, sentence_A, sentence_B, relatedness_score, ...` (1 to 5; SemEval 2014 task 1);
//! - SemEval STS 2012 to 2016: TSV without a header, `score, sentence1, sentence2`; an empty score means unscored;
//! - the same as SemEval hands it out: `STS.input.NAME.txt`, TSV with two sentences a line, and beside it
//!   `STS.gs.NAME.txt`, a score a line (2016: `STS2016.input.NAME.txt`, `STS2016.gs.NAME.txt`);
//! - MTEB's sets on the hub: JSON, an object with `sentence1`, `sentence2` and `score` a line.

use std::path::Path;

use serde::Deserialize;

use super::record::{Dialect, Records};
use super::sts_layout::{Layout, pair_of, score_of, scores_beside};
use super::{CorpusConfig, Fault, Row};
use crate::text_file::{LineRead, Lines, MAX_LINE_BYTES, too_long};
use crate::{Error, Result};

/// Two sentences and how alike people found them.
#[derive(Clone, Debug, PartialEq)]
pub struct StsPair {
    /// The first sentence.
    pub a: String,
    /// The second sentence.
    pub b: String,
    /// As the file has it, within 0 to 5; absent where it is empty.
    pub score: Option<f64>,
}

/// Reads the pairs of one file, in its order; which of the layouts it has is seen from its name and its first line.
///
/// # Errors
/// The file cannot be read, has none of the layouts, holds no pair, or has a malformed row, which is named.
pub fn read_sts(path: &Path) -> Result<Vec<StsPair>> {
    let mut rows = StsRows::with_limit(path, MAX_LINE_BYTES)?;
    let mut pairs = Vec::new();
    while let Some(pair) = rows.next_pair() {
        match pair {
            Ok((_, pair)) => pairs.push(pair),
            Err(Fault::Fatal(error)) => return Err(error),
            Err(Fault::Row { line, reason }) => {
                return Err(Error::Line { path: path.to_owned(), line, reason });
            }
        }
    }
    if pairs.is_empty() {
        return Err(Error::EmptyFile { path: path.to_owned(), what: "sentence pair" });
    }
    Ok(pairs)
}

/// Whether a file is an STS file, by its name or its first line.
///
/// # Errors
/// The disk's.
pub fn is_sts(path: &Path) -> Result<bool> {
    if scores_beside(path).is_some() {
        return Ok(true);
    }
    match Layout::of(path) {
        Ok(_) => Ok(true),
        Err(Error::Layout { .. } | Error::EmptyFile { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The pairs of a file as rows of two texts.
pub(super) struct StsRows {
    rows: Rows,
    layout: Layout,
    header: bool,
}

enum Rows {
    Records(Box<Records>),
    /// An object a line, of at most so many bytes.
    Json(Lines, usize),
}

impl StsRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<StsRows> {
        StsRows::with_limit(path, config.max_line_bytes)
    }

    /// With lines of at most so many bytes.
    pub(super) fn with_limit(path: &Path, limit: usize) -> Result<StsRows> {
        let layout = Layout::of(path)?;
        let rows = match layout {
            Layout::Json => Rows::Json(Lines::open(path, limit)?, limit),
            Layout::StsB => {
                let dialect = Dialect { delimiter: b',', quotes: true };
                Rows::Records(Box::new(Records::open(path, dialect, limit)?))
            }
            _ => {
                let dialect = Dialect { delimiter: b'\t', quotes: false };
                Rows::Records(Box::new(Records::open(path, dialect, limit)?))
            }
        };
        Ok(StsRows { rows, header: matches!(layout, Layout::Sick { .. }), layout })
    }

    /// The next pair with its line.
    fn next_pair(&mut self) -> Option<Result<(u64, StsPair), Fault>> {
        match &mut self.rows {
            Rows::Json(lines, limit) => json_pair(lines, *limit),
            Rows::Records(records) => {
                if std::mem::take(&mut self.header)
                    && let Err(fault) = records.next_record()?
                {
                    return Some(Err(fault));
                }
                let record = records.next_record()?;
                Some(record.and_then(|record| self.layout.pair(record)))
            }
        }
    }
}

/// The next pair of a file with an object a line; empty lines are passed over.
fn json_pair(lines: &mut Lines, limit: usize) -> Option<Result<(u64, StsPair), Fault>> {
    let mut buffer = Vec::new();
    loop {
        buffer.clear();
        let read = match lines.next_line(&mut buffer) {
            Ok(read) => read,
            Err(error) => return Some(Err(Fault::Fatal(error))),
        };
        let line = lines.line();
        let refuse = |reason: String| Some(Err(Fault::Row { line, reason }));
        match read {
            LineRead::End => return None,
            LineRead::TooLong { bytes } => return refuse(too_long(bytes, limit)),
            LineRead::Line if buffer.iter().all(u8::is_ascii_whitespace) => {}
            LineRead::Line => {
                return match serde_json::from_slice::<JsonPair>(&buffer) {
                    Err(error) => refuse(error.to_string()),
                    Ok(pair) => match pair.checked() {
                        Ok(pair) => Some(Ok((line, pair))),
                        Err(reason) => refuse(reason),
                    },
                };
            }
        }
    }
}

/// A row of MTEB's sets; what else it holds is not looked at.
#[derive(Deserialize)]
struct JsonPair {
    sentence1: String,
    sentence2: String,
    /// Null where there is none; the key must be there.
    #[serde(deserialize_with = "Option::deserialize")]
    score: Option<f64>,
}

impl JsonPair {
    fn checked(&self) -> Result<StsPair, String> {
        let score = self.score.map_or(Ok(None), |score| score_of(&score.to_string()))?;
        pair_of(&self.sentence1, &self.sentence2, score)
    }
}

impl Iterator for StsRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.next_pair()?;
        Some(pair.map(|(line, pair)| Row { line, texts: vec![pair.a, pair.b], group: None }))
    }
}
