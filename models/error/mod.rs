//! What can go wrong in this crate, said so that a user can act on it.

mod hints;

pub use hints::io_hint;
use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed; the message of the source names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// libtorch refused an operation.
    #[error("libtorch: {}", first_lines(.0))]
    Torch(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    TorchExt(#[from] torch_ext::Error),

    /// A safetensors file whose header or length is wrong.
    #[error("{}: not a whole safetensors file: {reason}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("{}: no tensor named `{name}`{}", path.display(), nearest_note(nearest))]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar names in the file.
        nearest: Vec<String>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{name}` has shape {found:?}, the configuration needs {expected:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<i64>,
        /// The shape that the configuration needs.
        expected: Vec<i64>,
    },
    /// A tensor of an element type that is not read here.
    #[error("{}: tensor `{name}` has element type {dtype}, which is not supported", path.display())]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The element type.
        dtype: String,
    },
    /// A tensor whose numbers are beyond what a narrower type holds.
    #[error("{}: tensor `{name}` has numbers that {dtype} cannot hold", path.display())]
    TensorOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The narrower type.
        dtype: &'static str,
    },
    /// Tensors in the file that the model has no place for.
    #[error("{}: {} tensors that the model has no place for, first `{}`", path.display(), names.len(), names.first().map_or("", String::as_str))]
    ExtraTensors {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A checkpoint that does not hold exactly the tensors of the model.
    #[error("{}: not the tensors of this model: {}", path.display(), listed(problems))]
    TensorsDiffer {
        /// The file.
        path: PathBuf,
        /// One sentence a tensor.
        problems: Vec<String>,
    },
    /// Two parameters of one model have the same name.
    #[error("the model has two tensors named `{tensor}`")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// The numbers of a decoder's configuration do not fit together.
    #[error("decoder configuration: `{field}` {problem}")]
    DecoderConfig {
        /// The field.
        field: String,
        /// What is wrong with it and what it may be.
        problem: String,
    },

    /// A JSON file that does not parse or has a wrong type at some key.
    #[error("{}: {}{reason}", path.display(), key_note(key))]
    Json {
        /// The file.
        path: PathBuf,
        /// The key, dotted; empty where the whole file is meant.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A value in a configuration that cannot be used.
    #[error("{}: `{key}` is {value}: {reason}", path.display())]
    Config {
        /// The file (or a word that stands for it).
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A model with parts that this program has no implementation of.
    #[error("{}: {what} `{name}` is not supported (supported: {})", path.display(), supported.join(", "))]
    Unsupported {
        /// The file that names it.
        path: PathBuf,
        /// Kind of part: architecture, module, pooling, activation.
        what: &'static str,
        /// The name found.
        name: String,
        /// The names that would do.
        supported: Vec<&'static str>,
    },
    /// A file that a model folder must have is not there.
    #[error("{folder}: `{file}` is missing: {why}")]
    MissingFile {
        /// The folder or repository.
        folder: String,
        /// The file.
        file: String,
        /// What it is needed for.
        why: String,
    },
    /// A model folder with weights in Python's pickle format alone.
    #[error(
        "{folder}: the weights are `{file}` alone, a Python pickle; reading one can run code, so it is refused"
    )]
    PickledWeights {
        /// The folder or repository.
        folder: String,
        /// The pickle file.
        file: String,
    },
    /// Vectors of two spaces were about to be mixed.
    #[error("{this_what} and {other_what} are of different spaces ({}):\n  {this_what}: {this}\n  {other_what}: {other}", fields.join(", "))]
    SpaceMismatch {
        /// What has the first space.
        this_what: String,
        /// The first space, described in full.
        this: String,
        /// What has the second space.
        other_what: String,
        /// The second space, described in full.
        other: String,
        /// The fields that differ.
        fields: Vec<&'static str>,
    },
    /// A prompt name that the encoder does not have.
    #[error("{encoder} has no prompt named `{name}` (it has: {})", known.join(", "))]
    UnknownPrompt {
        /// The encoder.
        encoder: String,
        /// The name asked for.
        name: String,
        /// The names it has.
        known: Vec<String>,
    },
    /// A dimension for which the encoder has no dense head.
    #[error("{encoder} gives {found} numbers a vector and has no head for {asked}{}", heads_note(known))]
    UnknownDim {
        /// The encoder.
        encoder: String,
        /// What it gives.
        found: usize,
        /// What was asked for.
        asked: usize,
        /// The sizes that it has heads for; empty where it has none or they are not known.
        known: Vec<usize>,
    },
    /// Vectors of a wrong shape were given to a decoder.
    #[error("vectors of shape {found:?}; this decoder takes (any number, {dim})")]
    VectorShape {
        /// The shape found.
        found: Vec<i64>,
        /// Numbers a vector has in the decoder's space.
        dim: i64,
    },
    /// A vector with NaN or infinity was given to a decoder.
    #[error("vector {index} has a number that is not finite")]
    VectorNotFinite {
        /// Zero-based position among the vectors given.
        index: usize,
    },
    /// Hypotheses were given to a decoder that has not learnt to refine.
    #[error("the decoder reads no hypotheses: it was trained for first guesses alone")]
    DoesNotRefine,
    /// Guidance was asked of a decoder that has not learnt to write without a vector.
    #[error("the decoder cannot be guided: it has not learnt to write without a vector")]
    DoesNotGuide,
    /// A level of noise was told to a decoder that does not know what it means.
    #[error("the decoder knows nothing of noise: it was trained on clean vectors alone")]
    KnowsNoNoise,
    /// A length was told to a decoder that does not know what it means.
    #[error("the decoder cannot be told a length: it was trained with lengths left open")]
    KnowsNoLength,
    /// Parts of a source that are not one a vector.
    #[error("{found} {what} for {vectors} vectors")]
    SourceLength {
        /// Which part.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many vectors.
        vectors: usize,
    },
    /// A generation option that cannot be.
    #[error("generation option `{option}` {problem}")]
    GenerateOption {
        /// Its name.
        option: &'static str,
        /// What it may be.
        problem: String,
    },
    /// Vectors that do not go into the rows of static tensors.
    #[error("{found} vectors for {rows} rows that are decoded together")]
    RowsOfVectors {
        /// How many vectors.
        found: i64,
        /// How many rows.
        rows: i64,
    },
    /// A folder that is no run, checkpoint or export.
    #[error("{}: neither a run, nor a checkpoint of one, nor an export", path.display())]
    NotADecoder {
        /// The folder.
        path: PathBuf,
    },
    /// A run that has saved no checkpoint, or whose checkpoints are gone.
    #[error("{}: the run has no checkpoint", run.display())]
    NoCheckpoint {
        /// The run.
        run: PathBuf,
    },
    /// Something that is no export stands where an export should go.
    #[error("{}: something that is not an export is there already", path.display())]
    ExportExists {
        /// The place.
        path: PathBuf,
    },
    /// An export in a number format that it cannot have.
    #[error("an export holds f32 or bf16 weights, made from f32: {found}")]
    ExportDtype {
        /// What is otherwise.
        found: String,
    },
    /// An export that, read back, decodes its golden vectors otherwise than it should.
    #[error("{}: vector {index} gives {found:?} instead of {expected:?}", path.display())]
    GoldenDiffers {
        /// The golden file.
        path: PathBuf,
        /// Zero-based position of the vector in it.
        index: usize,
        /// The text that it should give.
        expected: String,
        /// The text that it gives.
        found: String,
    },
    /// A vector came out with NaN or infinity in it.
    #[error("the vector of text {index} has a number that is not finite")]
    NonFinite {
        /// Zero-based position among the texts given.
        index: usize,
    },

    /// A tokenizer file that cannot be read.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer failed: {0}")]
    Tokenize(String),
    /// A tokenizer with ids that the embedding table has no row for.
    #[error("{}: token `{token}` has id {id}, but the embedding table has {rows} rows", path.display())]
    TokenizerFit {
        /// The tokenizer file.
        path: PathBuf,
        /// A token out of range.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding table.
        rows: i64,
    },

    /// A file of a hub repository could not be had.
    #[error("{repository}{}: `{file}`: {detail}", revision.as_ref().map(|r| format!("@{r}")).unwrap_or_default())]
    Hub {
        /// Repository, `organisation/name`.
        repository: String,
        /// Revision asked for.
        revision: Option<String>,
        /// File asked for.
        file: String,
        /// What kind of failure.
        kind: HubFailure,
        /// What was said.
        detail: String,
    },
    /// Neither a folder nor a hub name.
    #[error(
        "`{source_name}` is neither a folder here nor a hub name of the form organisation/name[@revision]"
    )]
    NotASource {
        /// What was given.
        source_name: String,
    },

    /// A device that is not there.
    #[error("device {choice}: {reason}")]
    Device {
        /// What was asked for.
        choice: String,
        /// Why it cannot be had.
        reason: String,
    },
    /// A word that is none of the words expected.
    #[error("`{value}` is no {what} (expected {expected})")]
    Parse {
        /// What kind of word.
        what: &'static str,
        /// The word.
        value: String,
        /// The words that would do.
        expected: &'static str,
    },
}

/// Kinds of hub failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubFailure {
    /// 401: a token is needed, or the repository does not exist (the hub tells strangers no more).
    Unauthorized,
    /// 403: the token does not open this repository.
    Forbidden,
    /// 404: no such file; or no such repository or revision, where the hub does not say which.
    NotFound,
    /// 404: no such repository.
    NoRepository,
    /// 404: no such revision.
    NoRevision,
    /// 429: too many requests, even after waiting.
    RateLimited,
    /// 5xx: the hub fails, again and again.
    Server,
    /// Offline by choice, and the file is not in the cache.
    Offline,
    /// No connection, or one that breaks off or falls silent.
    Network,
    /// The endpoint answers, but not as a hub does.
    NotAHub,
    /// The bytes that came are not those that the hub promised, by their number or their digest.
    Damaged,
    /// No room on the disk of the cache.
    NoSpace,
    /// The cache cannot be read or written.
    Cache,
    /// Anything else.
    Other,
}

fn first_lines(error: &tch::TchError) -> String {
    // libtorch appends a C++ stack trace, which says nothing to a user
    let text = error.to_string();
    text.split("\nException raised from").next().unwrap_or_default().trim_end().to_owned()
}

/// The first few of many problems.
fn listed(problems: &[String]) -> String {
    let shown = problems.iter().take(8).cloned().collect::<Vec<_>>().join("; ");
    if problems.len() > 8 { format!("{shown}; and {} more", problems.len() - 8) } else { shown }
}

fn heads_note(known: &[usize]) -> String {
    let known: Vec<String> = known.iter().map(usize::to_string).collect();
    if known.is_empty() { String::new() } else { format!(" (it has heads for {})", known.join(", ")) }
}

fn nearest_note(nearest: &[String]) -> String {
    if nearest.is_empty() { String::new() } else { format!(" (nearest: {})", nearest.join(", ")) }
}

fn key_note(key: &str) -> String {
    if key.is_empty() || key == "." { String::new() } else { format!("at `{key}`: ") }
}
