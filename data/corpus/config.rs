//! What a recipe says about a corpus.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::text_file::MAX_LINE_BYTES;

/// A source of texts: one `[[corpus]]` of a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// Its name: the `source` of its pairs.
    pub name: String,
    /// A file, a folder or a list of them. `~`, `$VARIABLE` and `${VARIABLE}` are filled in (`CARGO_HOME` is `~/.cargo`
    /// where it is not set), and a `*` stands for any part of one name. Of a folder, every file of the format is read,
    /// in the order of the names. With `hub`, paths within that repository, where `**` also stands for any folders.
    pub path: Paths,
    /// A data set repository on the hub that the files are in, `organisation/name[@revision]`; they are fetched as they
    /// are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The commit of `hub` that a build began with; it is no part of the recipe.
    #[serde(skip)]
    pub commit: Option<String>,
    /// What the files are.
    pub format: Format,
    /// The `domain` of its pairs; absent: the name, for Rust documentation `documentation`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Whether the `domain` of a pair is its file's name up to the first dot: one corpus of many domains.
    #[serde(default, skip_serializing_if = "is_false")]
    pub file_domains: bool,
    /// The columns (keys, for JSON) that hold text, by name or by number counted from 0. For `arxiv`, absent means
    /// `abstract, title`; for `jsonl`, `json` and `parquet`, `text`; for `beir`, `trec` and `smart`, `title, text, query`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
    /// Tables only: whether the first row names the columns; absent: it does where a column is asked for by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Tables only: whether fields may stand in double quotes; absent: in `csv` and `arxiv`, and not in `tsv`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotes: Option<bool>,
    /// Which texts belong together, so that a split never parts them; absent: those of one row, where a row has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_by: Option<GroupBy>,
    /// `text` only: a text is a paragraph (lines up to an empty one) and not a line.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paragraphs: bool,
    /// Whether each text is cut into its sentences; absent: for Rust documentation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentences: Option<bool>,
    /// The most documents to read, of all files together: the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// The share of the rows to read, from 0 to 1, spread over all files; which ones they are depends on the corpus's and
    /// their file's names and their line alone. Of JSON arrays, whose elements may stand in one line, on their number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Whether a malformed row is an error; else it is skipped and counted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
    /// A longer line (or record, of formats whose records span lines) is malformed.
    #[serde(default = "default_max_line_bytes")]
    pub max_line_bytes: usize,
    /// `rustdoc` only: larger source files are passed over (most are generated).
    #[serde(default = "default_max_file_bytes", skip_serializing_if = "is_default_max_file_bytes")]
    pub max_file_bytes: u64,
}

const fn default_max_line_bytes() -> usize {
    MAX_LINE_BYTES
}

pub(super) const fn default_max_file_bytes() -> u64 {
    1 << 20
}

fn is_default_max_file_bytes(value: &u64) -> bool {
    *value == default_max_file_bytes()
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One path, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Paths {
    /// `path = "a"`
    One(PathBuf),
    /// `path = ["a", "b"]`
    Many(Vec<PathBuf>),
}

impl Paths {
    /// The paths as they were written.
    pub fn as_slice(&self) -> &[PathBuf] {
        match self {
            Paths::One(path) => std::slice::from_ref(path),
            Paths::Many(paths) => paths,
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Paths {
    fn from(path: P) -> Paths {
        Paths::One(path.into())
    }
}

/// What the files of a corpus are. Each but Parquet, which is compressed within, may be compressed with gzip, xz or
/// Zstandard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A text a line, or a paragraph.
    Text,
    /// Fields between tabs, quotes being letters like others.
    Tsv,
    /// Comma-separated fields, RFC 4180.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Apache Parquet: text columns, lists of texts, and fields of structs by keys between dots.
    Parquet,
    /// Scored sentence pairs: STS-B (CSV), SICK (TSV with a header), SemEval STS (TSV: score, sentence, sentence; or
    /// `STS.input.*` with `STS.gs.*` beside it) or MTEB (JSON lines).
    Sts,
    /// A BEIR folder: `corpus.jsonl`, `queries.jsonl`, `qrels/*.tsv`.
    Beir,
    /// TREC documents (`<doc>`) and topics (`<top>`).
    Trec,
    /// Field files of the SMART system: `.I .T .A .W`.
    Smart,
    /// Tab-separated with a header and quotes, as the arXiv archive has it: abstracts and titles.
    Arxiv,
    /// Documentation comments of Rust source.
    Rustdoc,
}

impl Format {
    /// Its name in a recipe.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::Text => "text",
            Format::Tsv => "tsv",
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
            Format::Json => "json",
            Format::Parquet => "parquet",
            Format::Sts => "sts",
            Format::Beir => "beir",
            Format::Trec => "trec",
            Format::Smart => "smart",
            Format::Arxiv => "arxiv",
            Format::Rustdoc => "rustdoc",
        }
    }

    /// Formats of rows with fields, which a header may name.
    pub(super) fn is_table(self) -> bool {
        matches!(self, Format::Tsv | Format::Csv | Format::Arxiv)
    }

    /// Formats whose columns have names alone.
    pub(super) fn is_keyed(self) -> bool {
        matches!(self, Format::Jsonl | Format::Json | Format::Parquet)
    }

    /// Formats of retrieval collections, whose rows are documents and queries.
    pub(super) fn is_collection(self) -> bool {
        matches!(self, Format::Beir | Format::Trec | Format::Smart)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A column by its number or by its name in the header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Column {
    /// Counted from 0.
    Number(usize),
    /// As the header has it; for JSON and Parquet a key, or keys between dots.
    Name(String),
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Column::Number(number) => write!(f, "{number}"),
            Column::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// Which texts of a corpus go into the same split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// None: each text goes by itself.
    None,
    /// Those of one row, as the two sides of an STS pair.
    Row,
    /// Those of so many consecutive lines, as the five captions of a picture: `{ lines = 5 }`; of a JSON array, elements.
    Lines(u64),
    /// Those with the same value in this column: `{ column = "picture" }`.
    Column(Column),
}

impl CorpusConfig {
    /// A corpus with everything that is optional left out.
    pub fn new(name: impl Into<String>, path: impl Into<Paths>, format: Format) -> CorpusConfig {
        CorpusConfig {
            name: name.into(),
            path: path.into(),
            hub: None,
            commit: None,
            format,
            domain: None,
            file_domains: false,
            columns: Vec::new(),
            header: None,
            quotes: None,
            group_by: None,
            paragraphs: false,
            sentences: None,
            limit: None,
            share: None,
            strict: false,
            max_line_bytes: default_max_line_bytes(),
            max_file_bytes: default_max_file_bytes(),
        }
    }

    /// The domain of its documents.
    pub fn domain(&self) -> &str {
        match (&self.domain, self.format) {
            (Some(domain), _) => domain,
            (None, Format::Rustdoc) => "documentation",
            (None, _) => &self.name,
        }
    }

    /// The text columns, those of the format where none is given.
    pub(super) fn text_columns(&self) -> Vec<Column> {
        let names: &[&str] = match self.format {
            _ if !self.columns.is_empty() => return self.columns.clone(),
            Format::Arxiv => &["abstract", "title"],
            Format::Jsonl | Format::Json | Format::Parquet => &["text"],
            Format::Beir | Format::Trec | Format::Smart => &["title", "text", "query"],
            _ => &[],
        };
        names.iter().map(|&name| Column::Name(name.into())).collect()
    }

    pub(super) fn grouping(&self) -> GroupBy {
        match &self.group_by {
            Some(group_by) => group_by.clone(),
            None if self.format == Format::Sts || self.text_columns().len() > 1 => GroupBy::Row,
            None => GroupBy::None,
        }
    }

    pub(super) fn has_header(&self) -> bool {
        let named = |column: &Column| matches!(column, Column::Name(_));
        let group = matches!(&self.group_by, Some(GroupBy::Column(column)) if named(column));
        self.header.unwrap_or_else(|| group || self.text_columns().iter().any(named))
    }

    pub(super) fn has_quotes(&self) -> bool {
        self.quotes.unwrap_or(self.format != Format::Tsv)
    }

    pub(super) fn splits_sentences(&self) -> bool {
        self.sentences.unwrap_or(self.format == Format::Rustdoc)
    }
}
