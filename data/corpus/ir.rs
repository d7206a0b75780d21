//! Retrieval collections: documents, queries, and judgements of which documents answer which queries.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::paths::is_of;
use super::{Column, CorpusConfig, Fault, Format, Row, beir, smart, trec};
use crate::text_file::{MAX_LINE_BYTES, read_lines};
use crate::{Error, Result};

/// A document of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrDocument {
    /// As the judgements name it.
    pub id: String,
    /// Its title; empty where there is none.
    pub title: String,
    /// Its text; empty in some collections (Cranfield's documents 471 and 995).
    pub text: String,
}

impl IrDocument {
    /// Title and text with a space between, as BEIR embeds them; the text alone where it begins with the title.
    pub fn full_text(&self) -> String {
        match (self.title.is_empty(), self.text.is_empty()) {
            (true, _) => self.text.clone(),
            (_, true) => self.title.clone(),
            _ if self.text.starts_with(&self.title) => self.text.clone(),
            _ => format!("{} {}", self.title, self.text),
        }
    }
}

/// A query of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrQuery {
    /// As the judgements name it.
    pub id: String,
    /// What is asked.
    pub text: String,
}

/// Query id -> document id -> grade; a grade of 0 or less means not relevant.
pub type Qrels = BTreeMap<String, BTreeMap<String, i32>>;

/// A retrieval collection in memory. White space in its texts is collapsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrSet {
    /// In the order of the files.
    pub documents: Vec<IrDocument>,
    /// In the order of the files, those without judgements too.
    pub queries: Vec<IrQuery>,
    /// The judgements.
    pub qrels: Qrels,
    /// Whether the judgements count the queries by their position, so that the ids of the file were replaced by it
    /// (Cranfield: the file has 1, 2, 4, 8, ..., the judgements 1 to 225).
    pub queries_by_position: bool,
}

impl IrSet {
    /// Queries with at least one relevant document.
    pub fn judged_queries(&self) -> usize {
        self.qrels.values().filter(|documents| documents.values().any(|&grade| grade > 0)).count()
    }
}

/// How to read a collection.
#[derive(Clone, Debug)]
pub struct IrOptions {
    /// Which judgements of a BEIR folder: `qrels/NAME.tsv`.
    pub qrels: String,
    /// The longest line or record.
    pub max_record_bytes: usize,
}

impl Default for IrOptions {
    fn default() -> IrOptions {
        IrOptions { qrels: "test".into(), max_record_bytes: 16 * MAX_LINE_BYTES }
    }
}

/// What a collection's file holds.
#[derive(Debug)]
pub(super) enum Entry {
    Document { line: u64, document: IrDocument },
    Query { line: u64, query: IrQuery },
}

pub(super) type Entries = Box<dyn Iterator<Item = Result<Entry, Fault>> + Send>;

/// Documents and queries of one file, in its order.
pub(super) fn entries(path: &Path, format: Format, limit: usize) -> Result<Entries> {
    match format {
        Format::Trec => trec::entries(path, limit),
        Format::Smart => smart::entries(path, limit),
        _ => beir::entries(path, limit),
    }
}

/// White space collapsed.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Rows of a collection as a corpus: title and text of a document, or a query.
pub(super) struct EntryRows {
    entries: Entries,
    title: bool,
    text: bool,
    query: bool,
}

impl EntryRows {
    pub(super) fn open(path: &Path, config: &CorpusConfig) -> Result<EntryRows> {
        let columns = config.text_columns();
        let has = |name: &str| columns.contains(&Column::Name(name.into()));
        let entries = entries(path, config.format, config.max_line_bytes)?;
        Ok(EntryRows { entries, title: has("title"), text: has("text"), query: has("query") })
    }
}

impl Iterator for EntryRows {
    type Item = Result<Row, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            return Some(match self.entries.next()? {
                Ok(Entry::Document { line, document }) if self.title || self.text => {
                    let texts = [(self.title, document.title), (self.text, document.text)];
                    let texts =
                        texts.into_iter().filter_map(|(wanted, text)| wanted.then_some(text)).collect();
                    Ok(Row { line, texts, group: None })
                }
                Ok(Entry::Query { line, query }) if self.query => {
                    Ok(Row { line, texts: vec![query.text], group: None })
                }
                Ok(_) => continue,
                Err(fault) => Err(fault),
            });
        }
    }
}

fn named(fault: Fault, path: &Path) -> Error {
    match fault {
        Fault::Fatal(error) => error,
        Fault::Row { line, reason } => Error::Line { path: path.to_owned(), line, reason },
    }
}

/// Reads a collection out of its folder: BEIR (`corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`), TREC (`*.xml`, and a
/// file with `qrel` in its name) or SMART (`*.ALL`, `*.QRY`, `*.REL`).
///
/// # Errors
/// The format is another one; documents, queries or judgements are missing; a file cannot be read, or a record is
/// malformed or has the id of another.
pub fn read_ir(folder: &Path, format: Format, options: &IrOptions) -> Result<IrSet> {
    if !format.is_collection() {
        let reason = "retrieval collections are of the formats beir, trec and smart".to_owned();
        return Err(Error::Setting { key: "format".into(), value: format.to_string(), reason });
    }
    let (files, judgements) = files_of(folder, format, options)?;
    let (mut documents, mut queries) = (Vec::new(), Vec::new());
    let (mut document_ids, mut query_ids) = (HashSet::new(), HashSet::new());
    for file in &files {
        for entry in entries(file, format, options.max_record_bytes)? {
            let (line, id, new) = match entry.map_err(|fault| named(fault, file))? {
                Entry::Document { line, document } => {
                    documents.push(document.clone());
                    (line, document.id.clone(), document_ids.insert(document.id))
                }
                Entry::Query { line, query } => {
                    queries.push(query.clone());
                    (line, query.id.clone(), query_ids.insert(query.id))
                }
            };
            if !new {
                let reason = format!("the id {id:?} occurs a second time");
                return Err(Error::Line { path: file.clone(), line, reason });
            }
        }
    }
    for (empty, what) in [(documents.is_empty(), "document"), (queries.is_empty(), "query")] {
        if empty {
            return Err(Error::EmptyFile { path: folder.to_owned(), what });
        }
    }
    let mut qrels = Qrels::new();
    for file in &judgements {
        read_qrels(file, &mut qrels)?;
    }
    let queries_by_position = by_position(&mut queries, &query_ids, &qrels);
    let unknown = qrels.values().flat_map(BTreeMap::keys).filter(|id| !document_ids.contains(*id)).count();
    if unknown > 0 {
        tracing::warn!("{}: {unknown} judgements are of documents that are not there", folder.display());
    }
    Ok(IrSet { documents, queries, qrels, queries_by_position })
}

/// Replaces the queries' ids by their positions, from 1, where only so the judgements make sense: some judged id is no
/// query's, and all of them are numbers up to the number of queries.
fn by_position(queries: &mut [IrQuery], ids: &HashSet<String>, qrels: &Qrels) -> bool {
    let position =
        |id: &String| id.parse::<usize>().is_ok_and(|number| (1..=queries.len()).contains(&number));
    if qrels.keys().all(|id| ids.contains(id)) || !qrels.keys().all(position) {
        return false;
    }
    for (i, query) in queries.iter_mut().enumerate() {
        query.id = (i + 1).to_string();
    }
    true
}

/// The files with documents and queries, and those with judgements.
fn files_of(folder: &Path, format: Format, options: &IrOptions) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    if !folder.exists() {
        return Err(Error::Missing { what: "retrieval collection".into(), path: folder.to_owned() });
    }
    let (mut files, mut judgements, mut judgement_names) = (Vec::new(), Vec::new(), BTreeSet::new());
    for entry in WalkDir::new(folder).max_depth(2).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from)?;
        if !entry.file_type().is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let is_judgement = match format {
            Format::Beir => {
                let in_qrels = entry.path().parent().is_some_and(|parent| parent.ends_with("qrels"));
                let stem = name.split('.').next().unwrap_or_default().to_owned();
                in_qrels && judgement_names.insert(stem.clone()) && stem == options.qrels
            }
            Format::Trec => name.contains("qrel"),
            _ => name.split('.').nth(1) == Some("rel"),
        };
        if is_judgement {
            judgements.push(entry.path().to_owned());
        } else if is_of(format, &name) {
            files.push(entry.path().to_owned());
        }
    }
    let missing = |wanted: String| Error::NoFiles {
        what: "retrieval collection".into(),
        path: folder.to_owned(),
        format: format.as_str(),
        wanted,
    };
    if files.is_empty() {
        return Err(missing("documents and queries".into()));
    }
    if judgements.is_empty() {
        let there: Vec<String> = judgement_names.into_iter().collect();
        return Err(missing(match format {
            Format::Beir => format!("qrels/{}.tsv; there are [{}]", options.qrels, there.join(", ")),
            Format::Trec => "a file with qrel in its name".into(),
            _ => "*.REL".into(),
        }));
    }
    Ok((files, judgements))
}

/// Reads judgements of three layouts: `query 0 document grade` (TREC), `query document 0 0.000000` (SMART, all of them
/// relevant) and `query document grade` (BEIR, after a header).
fn read_qrels(path: &Path, qrels: &mut Qrels) -> Result<()> {
    for (i, line) in read_lines(path)?.iter().enumerate() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let judgement = match fields[..] {
            [] => continue,
            [query, document, "0", score] if score.contains('.') => Some((query, document, "1")),
            [query, _, document, grade] => Some((query, document, grade)),
            [query, document, grade] => Some((query, document, grade)),
            _ => None,
        };
        match judgement
            .and_then(|(query, document, grade)| Some((query, document, grade.parse::<i32>().ok()?)))
        {
            Some((query, document, grade)) => {
                qrels.entry(query.into()).or_default().insert(document.into(), grade);
            }
            // the header of BEIR
            None if i == 0 && fields.len() == 3 => {}
            None => {
                let reason = format!("no judgement: {:?}", line.chars().take(80).collect::<String>());
                return Err(Error::Line { path: path.to_owned(), line: i as u64 + 1, reason });
            }
        }
    }
    Ok(())
}
