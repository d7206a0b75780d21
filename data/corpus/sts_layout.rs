//! Which layout a file of scored pairs has, and where a row of it holds what.

use std::path::{Path, PathBuf};

use super::Fault;
use super::record::Record;
use super::sts::StsPair;
use crate::text_file::{self, LineRead, Lines, MAX_LINE_BYTES};
use crate::{Error, Result};

#[derive(Debug, PartialEq)]
pub(super) enum Layout {
    StsB,
    Sick {
        a: usize,
        b: usize,
        score: usize,
    },
    SemEval,
    /// SemEval's own: the sentences of this file, line by line, with the scores of the file beside it.
    Parts {
        scores: Vec<Option<f64>>,
    },
    Json,
}

impl Layout {
    /// Seen from the file's first line, and of SemEval's own files from their names.
    pub(super) fn of(path: &Path) -> Result<Self> {
        if let Some(scores) = scores_beside(path) {
            return Ok(Self::Parts { scores: read_scores(path, &scores)? });
        }
        let line = first_line(path)?;
        let text = String::from_utf8_lossy(&line);
        let object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
        if object.is_ok_and(|object| {
            ["sentence1", "sentence2", "score"].iter().all(|key| object.contains_key(*key))
        }) {
            return Ok(Self::Json);
        }
        let fields: Vec<&str> = text.split('\t').collect();
        let column = |name: &str| fields.iter().position(|field| field.trim() == name);
        if let (Some(a), Some(b), Some(score)) =
            (column("sentence_A"), column("sentence_B"), column("relatedness_score"))
        {
            return Ok(Self::Sick { a, b, score });
        }
        if fields.len() >= 3 && score_of(fields[0]).is_ok() {
            return Ok(Self::SemEval);
        }
        // the score of a row of STS-B stands after the last comma, quotes or not
        let last = text.rsplit(',').next().map(|score| score_of(score.trim_matches('"')));
        if fields.len() == 1 && text.matches(',').count() >= 2 && matches!(last, Some(Ok(Some(_)))) {
            return Ok(Self::StsB);
        }
        let reason = "no STS file: the first line is neither `sentence,sentence,score` (CSV) nor a header with sentence_A, \
                      sentence_B, relatedness_score (TSV) nor `score, sentence, sentence` (TSV) nor an object with \
                      sentence1, sentence2, score (JSON)";
        Err(Error::Layout { path: path.to_owned(), reason: reason.into() })
    }

    /// The pair of a record, with its line.
    pub(super) fn pair(&self, record: Record) -> Result<(u64, StsPair), Fault> {
        let Record { line, mut fields } = record;
        let refuse = |reason: String| Fault::Row { line, reason };
        let (a, b, score, exact) = match self {
            Self::StsB => (0, 1, Some(2), true),
            Self::Sick { a, b, score } => (*a, *b, Some(*score), false),
            Self::SemEval => (1, 2, Some(0), false),
            Self::Parts { .. } => (0, 1, None, false),
            Self::Json => return Err(refuse("an object has no columns".to_owned())),
        };
        let width = a.max(b).max(score.unwrap_or(0)) + 1;
        if fields.len() < width || (exact && fields.len() > width) {
            return Err(refuse(format!("the row has {} columns, expected {width}", fields.len())));
        }
        let score = match (self, score) {
            (Self::Parts { scores }, _) => scores.get(line as usize - 1).copied().flatten(),
            (_, Some(column)) => score_of(&fields[column]).map_err(refuse)?,
            _ => None,
        };
        let [a, b] = [a, b].map(|column| std::mem::take(&mut fields[column]));
        Ok((line, pair_of(&a, &b, score).map_err(refuse)?))
    }
}

/// A pair, unless a sentence of it is empty.
pub(super) fn pair_of(a: &str, b: &str, score: Option<f64>) -> Result<StsPair, String> {
    let (a, b) = (a.trim(), b.trim());
    match a.is_empty() || b.is_empty() {
        true => Err("a sentence is empty".into()),
        false => Ok(StsPair { a: a.into(), b: b.into(), score }),
    }
}

/// A score, or none where the field is empty.
pub(super) fn score_of(field: &str) -> Result<Option<f64>, String> {
    let field = field.trim();
    if field.is_empty() {
        return Ok(None);
    }
    match field.parse::<f64>() {
        Ok(score) if (0.0..=5.0).contains(&score) => Ok(Some(score)),
        _ => Err(format!("{:?} is no score from 0 to 5", field.chars().take(40).collect::<String>())),
    }
}

/// The file with the scores of `STS.input.NAME.txt`: `STS.gs.NAME.txt`. In 2016 both begin with `STS2016`.
pub(super) fn scores_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let of = |year: &str| {
        let part = name.strip_prefix(&format!("{year}.input."))?;
        Some(path.with_file_name(format!("{year}.gs.{part}")))
    };
    of("STS").or_else(|| of("STS2016"))
}

fn read_scores(path: &Path, scores: &Path) -> Result<Vec<Option<f64>>> {
    if !scores.is_file() {
        let reason = format!("its scores are missing: there is no {}", scores.display());
        return Err(Error::Layout { path: path.to_owned(), reason });
    }
    let (lines, sentences) = (text_file::read_lines(scores)?, count_lines(path)?);
    if lines.len() != sentences {
        let reason = format!("{sentences} lines, and {} has {}", scores.display(), lines.len());
        return Err(Error::Layout { path: path.to_owned(), reason });
    }
    let of = |(at, line): (usize, &String)| {
        let path = scores.to_owned();
        score_of(line).map_err(|reason| Error::Line { path, line: at as u64 + 1, reason })
    };
    lines.iter().enumerate().map(of).collect()
}

fn count_lines(path: &Path) -> Result<usize> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let (mut count, mut line) = (0, Vec::new());
    while lines.next_line(&mut line)? != LineRead::End {
        count += 1;
        line.clear();
    }
    Ok(count)
}

fn first_line(path: &Path) -> Result<Vec<u8>> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.next_line(&mut line)? {
            LineRead::End => return Err(Error::EmptyFile { path: path.to_owned(), what: "sentence pair" }),
            LineRead::Line if line.iter().all(u8::is_ascii_whitespace) => {}
            _ => return Ok(line),
        }
    }
}
