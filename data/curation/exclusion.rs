//! Texts that must not be learnt, since evaluations will ask for them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::duplicates::fingerprint;
use crate::corpus::{Format, Found, IrOptions, StsPair, expand, is_sts, read_ir_texts, read_sts, strings_of};
use crate::text_file::{LineRead, Lines, MAX_LINE_BYTES, read_lines};
use crate::{Error, Result};

/// Fingerprints of the texts of evaluation files.
#[derive(Clone, Debug, Default)]
pub struct Exclusion {
    keys: HashSet<u128>,
}

/// What an evaluation file is, by its first line.
enum Kind {
    Sts,
    Trec,
    Smart,
    Json,
    Lines,
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
    /// queries, of JSON every string, of any other text each line and each field between tabs.
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
        if !text.trim().is_empty() {
            self.keys.insert(fingerprint(text));
        }
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
        match kind(path)? {
            Kind::Sts => {
                for StsPair { a, b, .. } in read_sts(path)? {
                    self.add(&a);
                    self.add(&b);
                }
            }
            Kind::Trec => self.read_collection(path, Format::Trec)?,
            Kind::Smart => self.read_collection(path, Format::Smart)?,
            Kind::Json => strings_of(path, &mut |text| self.add(text))?,
            Kind::Lines => {
                for line in read_lines(path)? {
                    line.split('\t').for_each(|field| self.add(field));
                    self.add(&line);
                }
            }
        }
        Ok(())
    }

    fn read_collection(&mut self, path: &Path, format: Format) -> Result<()> {
        for (title, text) in read_ir_texts(path, format, &IrOptions::default())? {
            self.add(&title);
            self.add(&text);
            self.add(&format!("{title} {text}"));
        }
        Ok(())
    }
}

fn kind(path: &Path) -> Result<Kind> {
    let mut lines = Lines::open(path, MAX_LINE_BYTES)?;
    let mut line = Vec::new();
    while line.trim_ascii().is_empty() {
        line.clear();
        match lines.next_line(&mut line)? {
            LineRead::Line => {}
            // one array on one long line
            LineRead::TooLong { .. } => return Ok(Kind::Json),
            LineRead::End => return Ok(Kind::Lines),
        }
    }
    let start = line.trim_ascii_start();
    Ok(match start.first() {
        Some(b'{' | b'[') => Kind::Json,
        Some(b'<') => Kind::Trec,
        _ if start.starts_with(b".I ") => Kind::Smart,
        _ if is_sts(path)? => Kind::Sts,
        _ => Kind::Lines,
    })
}
