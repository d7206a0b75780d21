//! Corpora -> curated texts -> (vector, text) pairs on disk.
//!
//! [`corpus`] reads documents out of files of many formats, [`curation`] decides which of them are fit to be learnt
//! and in which split they go, [`pairs`] stores them with their vectors.

pub mod corpus;
pub mod curation;
pub mod error;
mod fraction;
pub mod pairs;
pub mod text_file;

pub use corpus::{Corpus, CorpusConfig, Document, Origin, RowReport, open_corpus};
pub use curation::{Curated, CurationConfig, Curator, Drops, Split, SplitConfig, Verdict, split_of};
pub use error::{Error, Result};
pub use text_file::read_lines;
