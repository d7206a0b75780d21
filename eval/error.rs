//! What can go wrong in an evaluation.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to evaluate.
    #[error("there is no text to evaluate in {what}")]
    NoTexts {
        /// Where texts were looked for.
        what: String,
    },
    /// A suite without anything to judge by.
    #[error("the suite {suite} has nothing to judge by: there is no {lacks}")]
    NoSet {
        /// The suite.
        suite: &'static str,
        /// What it takes.
        lacks: &'static str,
    },
    /// Two lists that belong together are not of one length.
    #[error("{got} {what} for {want} texts")]
    Unequal {
        /// What the other list holds.
        what: &'static str,
        /// Its length.
        got: usize,
        /// Number of texts.
        want: usize,
    },
    /// A tensor of vectors that has not the shape of one.
    #[error("{what} have the shape {got:?}, not {want:?}")]
    Shape {
        /// Which vectors.
        what: &'static str,
        /// Their shape.
        got: Vec<i64>,
        /// The shape they should have.
        want: Vec<i64>,
    },
    /// A vector that holds NaN or infinity.
    #[error("row {row} of {what} holds a number that is not finite")]
    NonFinite {
        /// Which vectors.
        what: &'static str,
        /// Row, from 0.
        row: usize,
    },
    /// A file that cannot be written.
    #[error("{path}: cannot write what was found", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration of suites that cannot be read.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the program that is JSON and is none.
    #[error("what belongs to the suites is no JSON")]
    EdgeCases(#[from] serde_json::Error),
    /// A page that could not be made.
    #[error("the report's page cannot be made: {reason}")]
    Template {
        /// What the template engine says.
        reason: String,
    },
    /// The encoder's tokenizer refused a text.
    #[error("the encoder's tokenizer cannot split a text: {reason}")]
    Tokenize {
        /// What the tokenizer says.
        reason: String,
    },
    /// libtorch refused.
    #[error("libtorch refused an operation on vectors")]
    Torch(#[from] tch::TchError),
    /// An error of the encoder or the decoder.
    #[error(transparent)]
    Models(#[from] models::Error),
    /// An error of the pair set or the texts.
    #[error(transparent)]
    Data(#[from] data::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::NoTexts { .. } => {
                "give texts with at least one line, a split that has pairs, or sets that hold what docs/eval.md says"
            }
            Error::NoSet { lacks: "texts", .. } => "give texts with --texts or --pairs",
            Error::NoSet { .. } => "--config names a file with the sets; configs/eval.toml is an example",
            Error::Unequal { .. } => "give one of them for each text",
            Error::Shape { .. } => "give one vector a text, each with as many numbers as the space says",
            Error::NonFinite { .. } => "make the vectors again; a sound encoder gives finite numbers",
            Error::Write { .. } => "choose a folder that exists, that you may write to and that has room",
            Error::Config { .. } => "docs/eval.md names every key; configs/eval.toml is an example",
            Error::EdgeCases(_) | Error::Template { .. } | Error::Torch(_) | Error::Tokenize { .. } => {
                return None;
            }
            Error::Models(error) => return error.hint(),
            Error::Data(error) => return error.hint(),
        };
        Some(hint.to_owned())
    }
}
