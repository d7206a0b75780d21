//! Everything that can go wrong with corpora and pair sets, and what to do about it.

mod hints;

use std::io;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with which file, line or column.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file failed; the message of the system names the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A file cannot be read further: the disk, or damaged compression.
    #[error("{}: cannot be read after line {line}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Lines that were read before, counted from 1.
        line: u64,
        /// What the system or the decompressor says.
        source: io::Error,
    },
    /// A row of a corpus that is not what its format asks for.
    #[error("{}, line {line}: {reason}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// Line at which the row begins, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A line that cannot be passed over: of a list of texts, of an evaluation file, or a table's header.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A corpus has malformed rows, and is `strict`.
    #[error(
        "corpus {corpus:?} has {malformed} malformed rows, skipped when this pair set was built: {example}"
    )]
    MalformedRows {
        /// Its name.
        corpus: String,
        /// Malformed rows.
        malformed: u64,
        /// The first of them: file, line, reason.
        example: String,
    },
    /// A path that leads nowhere.
    #[error("{what}: there is no {}", path.display())]
    Missing {
        /// Who asked, such as `corpus "news"`.
        what: String,
        /// The path, variables and `~` expanded.
        path: PathBuf,
    },
    /// A path with a `*` that fits no file.
    #[error("{what}: nothing fits {}", pattern.display())]
    NothingMatches {
        /// Who asked.
        what: String,
        /// The pattern, variables and `~` expanded.
        pattern: PathBuf,
    },
    /// A path within a hub repository that fits none of its files.
    #[error("{what}: nothing in {repository} fits {pattern}; it has {found}")]
    NoHubFiles {
        /// Who asked.
        what: String,
        /// The repository, or the folder that stands for it.
        repository: String,
        /// The pattern.
        pattern: String,
        /// The first few files there are.
        found: String,
    },
    /// A Parquet file that cannot be read.
    #[error("{}: {reason}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the reader found.
        reason: String,
    },
    /// A path names an environment variable that is not set.
    #[error("the path {path:?} needs the environment variable {variable}, which is not set")]
    UnsetVariable {
        /// The path as written.
        path: String,
        /// The variable.
        variable: String,
    },
    /// A folder in which nothing has the corpus's format.
    #[error("{what}: {} holds no file of the format {format} (looked for {wanted})", path.display())]
    NoFiles {
        /// Who asked.
        what: String,
        /// The folder.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// What was looked for.
        wanted: String,
    },
    /// A corpus that gave no text at all.
    #[error(
        "corpus {corpus:?} gave no text: {rows} rows read{}, {malformed} malformed, {empty} empty ({files})",
        of_share(*met, *share)
    )]
    EmptyCorpus {
        /// Its name.
        corpus: String,
        /// Rows in its files.
        met: u64,
        /// The share of them that was to be read, where it is said.
        share: Option<f64>,
        /// Rows read, the malformed and the empty ones included.
        rows: u64,
        /// Malformed rows.
        malformed: u64,
        /// Rows without text.
        empty: u64,
        /// Its files.
        files: String,
    },
    /// A file without anything in it where something is needed.
    #[error("{}: the file holds no {what}", path.display())]
    EmptyFile {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// A column that the header does not have.
    #[error("{}: there is no column {column}; its columns are {found}", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// Those there.
        found: String,
    },
    /// A setting that makes no sense.
    #[error("{key} = {value}: {reason}")]
    Setting {
        /// The key of the recipe.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: String,
    },
    /// A file whose layout is none of those known.
    #[error("{}: {reason}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What was looked for and found.
        reason: String,
    },

    /// A build was asked to stop, and stopped with everything so far kept.
    #[error("the build was stopped; what is complete is kept")]
    Stopped,
    /// No document was left after curation.
    #[error("no text is left to make pairs of: {read} documents were read, dropped: {drops}")]
    NoPairs {
        /// Documents read.
        read: u64,
        /// What each filter dropped.
        drops: String,
    },
    /// `shard_rows = 0`.
    #[error("pairs.shard_rows = 0: a shard needs at least one row")]
    EmptyShards,
    /// A shard in a folder that is not a pair set's.
    #[error("{}: there is a shard here that belongs to no pair set", path.display())]
    ForeignShard {
        /// The shard.
        path: PathBuf,
    },
    /// A JSON file that does not parse, or a value that cannot be written as JSON.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The folder holds a pair set of another recipe.
    #[error("{} holds another pair set: {differences}", dir.display())]
    OtherPairSet {
        /// The folder.
        dir: PathBuf,
        /// The keys that differ.
        differences: String,
    },
    /// The encoder gave a tensor of another shape than [texts, dim].
    #[error("the encoder gave vectors of shape {found:?}, expected {expected:?}")]
    VectorShape {
        /// [texts, dim]
        expected: Vec<i64>,
        /// What came.
        found: Vec<i64>,
    },
    /// A process that builds with others does not see the folder that rank 0 works in.
    #[error("rank {rank} does not see rank 0's working folder {}", folder.display())]
    NotShared {
        /// The working folder, by this rank's name for it.
        folder: PathBuf,
        /// The rank.
        rank: usize,
    },
    /// Processes that build together have not encoded the same stream.
    #[error("no process has encoded shard {shard}: they have not read the same texts")]
    ShardWithoutRank {
        /// Number of the shard.
        shard: usize,
    },
    /// Another process builds in the same folder.
    #[error("{} is being built by another process ({process})", dir.display())]
    BuildLocked {
        /// The folder.
        dir: PathBuf,
        /// The process, as it wrote itself into the lock.
        process: String,
    },
    /// A folder without a manifest.
    #[error("{} is no pair set: {}", dir.display(), if *unfinished { "its build has not finished" } else { "it has no manifest.json" })]
    NotAPairSet {
        /// The folder.
        dir: PathBuf,
        /// A build began there and did not end.
        unfinished: bool,
    },
    /// A pair set of another version.
    #[error("{}: this is a pair set of format {found}, known is {known}", path.display())]
    PairSetFormat {
        /// The manifest.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The one this version reads.
        known: u32,
    },
    /// A prompt under which a pair set has no vectors.
    #[error("{} has no vectors under the prompt {prompt:?} (it has: {})", dir.display(), known.join(", "))]
    NoSuchPrompt {
        /// The pair set.
        dir: PathBuf,
        /// Name of the prompt asked for.
        prompt: String,
        /// The names of its prompts.
        known: Vec<String>,
    },
    /// A shard that cannot be read as what the manifest says it is.
    #[error("{}: damaged: {what}", path.display())]
    DamagedShard {
        /// The shard.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A shard of another size than the manifest says.
    #[error("{}: damaged: {found} bytes, the manifest says {expected}", path.display())]
    ShardSize {
        /// The shard.
        path: PathBuf,
        /// Bytes in the manifest.
        expected: u64,
        /// Bytes on disk.
        found: u64,
    },
    /// A shard with another digest than the manifest says.
    #[error("{}: damaged: its digest is {found}, the manifest says {expected}", path.display())]
    ShardDigest {
        /// The shard.
        path: PathBuf,
        /// Digest in the manifest.
        expected: String,
        /// Digest of the bytes on disk.
        found: String,
    },
    /// A file of an unfinished build is damaged.
    #[error("{}: damaged: {source}", path.display())]
    DamagedPartition {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More rows than an index can count.
    #[error("{} holds {rows} pairs, more than can be indexed here", dir.display())]
    TooManyPairs {
        /// The pair set.
        dir: PathBuf,
        /// Its rows.
        rows: usize,
    },
    /// A vector of another dimension than its space.
    #[error("a vector of {found} numbers, where the space has {expected}")]
    VectorWidth {
        /// Dimension of the space.
        expected: usize,
        /// Numbers in the vector.
        found: usize,
    },
    /// A vector with a number that cannot be stored.
    #[error("the vector of {text:?} (source {source_name:?}) has {value} at position {position}{}", if *half { ", too large for half precision" } else { ", which is not finite" })]
    BadVector {
        /// The text, shortened.
        text: String,
        /// Its corpus.
        source_name: String,
        /// Index in the vector, from 0.
        position: usize,
        /// The number.
        value: f32,
        /// Finite, but not in half precision.
        half: bool,
    },
    /// Arrow refused a file.
    #[error("{}: {source}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// What Arrow says.
        source: arrow_schema::ArrowError,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] tch::TchError),
    /// Memory-mapping and the like.
    #[error(transparent)]
    TorchExt(#[from] torch_ext::Error),
    /// The encoder or its space.
    #[error(transparent)]
    Models(#[from] models::Error),
}

/// The formats of a corpus, for messages.
pub const FORMATS: &str = "text, tsv, csv, jsonl, json, parquet, sts, beir, trec, smart, arxiv, rustdoc";

fn of_share(met: u64, share: Option<f64>) -> String {
    share.map(|share| format!(" of {met}, by share = {share}")).unwrap_or_default()
}
