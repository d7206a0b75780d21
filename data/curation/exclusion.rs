//! Texts that must not be learnt, since evaluations will ask for them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::config::Whitespace;
use super::duplicates::fingerprint;
use super::normalize::normalize;
use crate::corpus::{Found, Structure, expand, is_sts, read_as, strings_of_whole};
use crate::text_file::{LineRead, Lines, MAX_LINE_BYTES, read_lines};
use crate::{Error, Result};

/// Fingerprints of the texts of evaluation files.
#[derive(Clone, Debug, Default)]
pub struct Exclusion {
    keys: HashSet<u128>,
}

/// The files of one path of `pairs.exclude` that are not empty, in the order of their names.
///
/// # Errors
/// A path that leads nowhere, or a folder that cannot be read.
pub(crate) fn exclusion_files(path: &Path) -> Result<Vec<Found>> {
    let mut files = Vec::new();
    let roots = expand(path, "exclude")?;
    for root in &roots {
        // a link left out would be an evaluation learnt
        for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
            let entry = entry.map_err(std::io::Error::from)?;
            if entry.file_type().is_file() && entry.metadata().map_err(std::io::Error::from)?.len() > 0 {
                files.push(Found::below(&roots, entry.into_path()));
            }
        }
    }
    Ok(files)
}

impl Exclusion {
    /// Reads evaluation files, or all files of a folder (`~`, variables and `*` filled in).
    ///
    /// Of an STS file both sides are taken, of a retrieval collection documents (title, text, both together) and
    /// queries, of JSON every string, of any other text each line and each field between tabs. A file that only begins
    /// like one of the former is of the last kind.
    ///
    /// # Errors
    /// A path that leads nowhere, a file that cannot be read or is malformed (what cannot be read cannot be excluded),
    /// or no text in all of them.
    pub fn read(paths: &[PathBuf]) -> Result<Exclusion> {
        let mut exclusion = Exclusion::default();
        for path in paths {
            for found in exclusion_files(path)? {
                exclusion.read_file(&found.file)?;
            }
        }
        match paths.first() {
            Some(path) if exclusion.is_empty() => {
                Err(Error::EmptyFile { path: path.clone(), what: "text to exclude" })
            }
            _ => Ok(exclusion),
        }
    }

    /// Adds a text.
    pub fn add(&mut self, text: &str) {
        self.keys.extend(key_of(text));
    }

    /// Whether the text with this [`fingerprint`] is to be left out.
    pub fn contains(&self, key: u128) -> bool {
        self.keys.contains(&key)
    }

    /// Number of different texts.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it excludes nothing.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn read_file(&mut self, path: &Path) -> Result<()> {
        let Some(structure) = structure_of(path)? else { return self.read_lines_of(path) };
        let reading = read_as(path, structure, &mut |text| self.add(text))?;
        match reading.fault {
            // what was found in it is excluded all the same: rather a text too many than one too few
            _ if reading.sound <= reading.unsound => self.read_otherwise(path, structure),
            Some(fault) => Err(taken_for(structure, fault)),
            // a list may look like pairs to its end
            None if structure == Structure::Sts => self.read_lines_of(path),
            None => Ok(()),
        }
    }

    /// Reads a file that begins like something that it is not.
    fn read_otherwise(&mut self, path: &Path, structure: Structure) -> Result<()> {
        if structure == Structure::Json
            && let Some(texts) = strings_of_whole(path)?
        {
            texts.iter().for_each(|text| self.add(text));
            return Ok(());
        }
        let (file, name) = (path.display(), structure.name());
        tracing::warn!("{file} begins like {name} but is none: each of its lines is excluded as a text");
        self.read_lines_of(path)
    }

    fn read_lines_of(&mut self, path: &Path) -> Result<()> {
        for line in read_lines(path)? {
            line.split('\t').for_each(|field| self.add(field));
            self.add(&line);
        }
        Ok(())
    }
}

/// The fingerprint of a text as the curator writes it; none where nothing is left of it.
fn key_of(text: &str) -> Option<u128> {
    let text = normalize(text, Whitespace::Collapse);
    (!text.is_empty()).then(|| fingerprint(&text))
}

/// What is wrong with a file that is mostly sound, and what it was read as.
fn taken_for(structure: Structure, fault: Error) -> Error {
    let name = structure.name();
    let said = |reason: String| format!("{reason} (as most of the file is {name}, it is read as that)");
    match fault {
        Error::Line { path, line, reason } => Error::Line { path, line, reason: said(reason) },
        Error::Layout { path, reason } => Error::Layout { path, reason: said(reason) },
        other => other,
    }
}

/// What a file seems to be by its first line; `None` for lines of text.
fn structure_of(path: &Path) -> Result<Option<Structure>> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let mut line = Vec::new();
    while line.trim_ascii().is_empty() {
        line.clear();
        match lines.next_line(&mut line)? {
            LineRead::Line => {}
            // one array on one long line
            LineRead::TooLong { .. } => return Ok(Some(Structure::Json)),
            LineRead::End => return Ok(None),
        }
    }
    let start = line.trim_ascii_start();
    Ok(match start.first() {
        Some(b'{' | b'[') => Some(Structure::Json),
        Some(b'<') => Some(Structure::Trec),
        _ if start.starts_with(b".I ") => Some(Structure::Smart),
        _ if is_sts(path)? => Some(Structure::Sts),
        _ => None,
    })
}
