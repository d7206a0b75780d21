//! Scored sentence pairs (semantic textual similarity), in the three layouts in which they are handed round.
//!
//! - STS-B: CSV without a header, `sentence1,sentence2,score` (0 to 5; stsb-multi-mt, `data/stsb-en-*.csv`);
//! - SICK: TSV with the header `pair_ID, sentence_A, sentence_B, relatedness_score, ...` (1 to 5; SemEval 2014 task 1);
//! - SemEval STS 2012 to 2016: TSV without a header, `score, sentence1, sentence2`; an empty score means unscored.

use std::path::Path;

use super::record::{Dialect, Record, Records};
use super::{CorpusConfig, Fault, Row};
use crate::text_file::{LineRead, Lines, MAX_LINE_BYTES};
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    StsB,
    Sick { a: usize, b: usize, score: usize },
    SemEval,
}

/// Reads the pairs of one file, in its order; which of the three layouts it has is seen from its first line.
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

/// Whether the first line of a file is that of an STS file.
///
/// # Errors
/// The disk's.
pub fn is_sts(path: &Path) -> Result<bool> {
    match layout(path) {
        Ok(_) => Ok(true),
        Err(Error::Layout { .. } | Error::EmptyFile { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn layout(path: &Path) -> Result<Layout> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.next_line(&mut line)? {
            LineRead::End => return Err(Error::EmptyFile { path: path.to_owned(), what: "sentence pair" }),
            LineRead::Line if line.iter().all(u8::is_ascii_whitespace) => {}
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&line);
    let fields: Vec<&str> = text.split('\t').collect();
    let column = |name: &str| fields.iter().position(|field| field.trim() == name);
    if let (Some(a), Some(b), Some(score)) =
        (column("sentence_A"), column("sentence_B"), column("relatedness_score"))
    {
        return Ok(Layout::Sick { a, b, score });
    }
    if fields.len() >= 3 && score_of(fields[0]).is_ok() {
        return Ok(Layout::SemEval);
    }
    // the score of a row of STS-B stands after the last comma, quotes or not
    if fields.len() == 1
        && text.matches(',').count() >= 2
        && text
            .rsplit(',')
            .next()
            .is_some_and(|score| score_of(score.trim_matches('"')).is_ok_and(|score| score.is_some()))
    {
        return Ok(Layout::StsB);
    }
    let reason = "no STS file: the first line is neither `sentence,sentence,score` (CSV) nor a header with sentence_A, \
                  sentence_B, relatedness_score (TSV) nor `score, sentence, sentence` (TSV)";
    Err(Error::Layout { path: path.to_owned(), reason: reason.into() })
}

fn score_of(field: &str) -> Result<Option<f64>, String> {
    let field = field.trim();
    if field.is_empty() {
        return Ok(None);
    }
    match field.parse::<f64>() {
        Ok(score) if (0.0..=5.0).contains(&score) => Ok(Some(score)),
        _ => Err(format!("{:?} is no score from 0 to 5", field.chars().take(40).collect::<String>())),
    }
}

/// The pairs of a file as rows of two texts.
pub(super) struct StsRows {
    records: Records,
    layout: Layout,
    header: bool,
}

impl StsRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<StsRows> {
        StsRows::with_limit(path, config.max_line_bytes)
    }

    fn with_limit(path: &Path, limit: usize) -> Result<StsRows> {
        let layout = layout(path)?;
        let dialect = match layout {
            Layout::StsB => Dialect { delimiter: b',', quotes: true },
            _ => Dialect { delimiter: b'\t', quotes: false },
        };
        let header = matches!(layout, Layout::Sick { .. });
        Ok(StsRows { records: Records::open(path, dialect, limit)?, layout, header })
    }

    /// The next pair with its line.
    fn next_pair(&mut self) -> Option<Result<(u64, StsPair), Fault>> {
        if std::mem::take(&mut self.header)
            && let Err(fault) = self.records.next_record()?
        {
            return Some(Err(fault));
        }
        let record = self.records.next_record()?;
        Some(record.and_then(|record| self.pair(record)))
    }

    fn pair(&self, record: Record) -> Result<(u64, StsPair), Fault> {
        let Record { line, mut fields } = record;
        let refuse = |reason: String| Err(Fault::Row { line, reason });
        let (a, b, score, exact) = match self.layout {
            Layout::StsB => (0, 1, 2, true),
            Layout::Sick { a, b, score } => (a, b, score, false),
            Layout::SemEval => (1, 2, 0, false),
        };
        let width = a.max(b).max(score) + 1;
        if fields.len() < width || (exact && fields.len() > width) {
            return refuse(format!("the row has {} columns, expected {width}", fields.len()));
        }
        let score = match score_of(&fields[score]) {
            Ok(score) => score,
            Err(reason) => return refuse(reason),
        };
        let [a, b] = [a, b].map(|column| std::mem::take(&mut fields[column]));
        if a.trim().is_empty() || b.trim().is_empty() {
            return refuse("a sentence is empty".into());
        }
        Ok((line, StsPair { a: a.trim().into(), b: b.trim().into(), score }))
    }
}

impl Iterator for StsRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.next_pair()?;
        Some(pair.map(|(line, pair)| Row { line, texts: vec![pair.a, pair.b], group: None }))
    }
}
