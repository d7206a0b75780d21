//! What can go wrong in this crate, said so that a user can act on it.

use std::path::PathBuf;

use crate::recipe::Problem;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of this crate. The wrapped errors are boxed: results are moved about a lot, errors seldom.
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
    /// The encoder, the decoder or their files.
    #[error(transparent)]
    Models(Box<models::Error>),
    /// Corpora or pairs.
    #[error(transparent)]
    Data(Box<data::Error>),
    /// Metrics or a round trip.
    #[error(transparent)]
    Eval(Box<eval::Error>),

    /// A recipe, or a file that one extends, that cannot be read.
    #[error("{}cannot read the recipe {}: {source}", said_at(.extended_by), path.display())]
    RecipeFile {
        /// The file.
        path: PathBuf,
        /// File and line of the `extends` that names it, if one does.
        extended_by: Option<(PathBuf, usize)>,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A recipe that is no TOML.
    #[error("{}:{line}:{column}: not TOML: {message}", path.display())]
    RecipeSyntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What the parser found.
        message: String,
    },
    /// Recipes that extend each other in a circle.
    #[error("recipes extend each other in a circle: {}", circle(.chain))]
    RecipeCircle {
        /// The files, from the first one on to the one that closes the circle.
        chain: Vec<PathBuf>,
    },
    /// A `--set` that is not `KEY=VALUE`, or whose key leads nowhere.
    #[error("--set {argument}: {reason}")]
    Set {
        /// The argument as typed.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Keys and values of a recipe that are wrong: all of them.
    #[error("{}", problem_list(path, problems))]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong, in the order of the files' lines.
        problems: Vec<Problem>,
    },
    /// A recipe that cannot be written as TOML.
    #[error("the recipe cannot be written as TOML: {0}")]
    RecipeWrite(#[from] toml::ser::Error),

    /// A run folder that another process is at work in.
    #[error("another process is training in {}", dir.display())]
    RunLocked {
        /// The folder.
        dir: PathBuf,
    },
    /// A run folder that holds a run, where a new one was asked for.
    #[error("{} holds a run already", dir.display())]
    RunExists {
        /// The folder.
        dir: PathBuf,
    },
    /// A folder without the record of a training.
    #[error("{} is no run that has trained: it has no metrics.jsonl with a step in it", run.display())]
    NoRecord {
        /// The folder.
        run: PathBuf,
    },
    /// A line of a run's record that cannot be read.
    #[error("{}:{line}: not a line of a run's record: {reason}", path.display())]
    RecordLine {
        /// The record.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A run that is to be resumed with another recipe or other pairs.
    #[error("the run in {} is of another recipe:{}", dir.display(), indented(.differences))]
    OtherRecipe {
        /// The folder.
        dir: PathBuf,
        /// What differs, one line each.
        differences: Vec<String>,
    },
    /// A run that is to be resumed with another tokenizer than it was trained with.
    #[error("{} is not the file that the run was trained with: its digest is {found}, state.json says {expected}", path.display())]
    OtherTokenizer {
        /// The tokenizer's file.
        path: PathBuf,
        /// Digest in the checkpoint.
        expected: String,
        /// Digest of the file.
        found: String,
    },
    /// A pair set that gives nothing to train on.
    #[error("{} has nothing to train on: {rows} training pairs, {too_long} of them longer than decoder.max_tokens", dir.display())]
    NoTrainingPairs {
        /// Folder of the pair set.
        dir: PathBuf,
        /// Its training pairs.
        rows: usize,
        /// Those with too many tokens.
        too_long: usize,
    },
    /// A soft consistency loss for a decoder whose tokens are not the encoder's.
    #[error("consistency.kind is soft, but the decoder's tokens are not the encoder's: {reason}")]
    OtherWords {
        /// Where they differ.
        reason: String,
    },
    /// A plan on paper, for vectors of which nobody says how many numbers they have.
    #[error("the dimension of the vectors is not known: there is no pair set at {}, and the recipe has no encoder.dim", dir.display())]
    UnknownDim {
        /// Where the pair set would be.
        dir: PathBuf,
    },
    /// A recipe that says otherwise of the decoder's shape than the pre-trained model that it starts from.
    #[error("`decoder.{key}` is {said}, but {name} in {} is {found}", path.display())]
    OtherShape {
        /// The key of the recipe.
        key: &'static str,
        /// Its value.
        said: String,
        /// The model's `config.json`.
        path: PathBuf,
        /// The key there.
        name: &'static str,
        /// Its value.
        found: String,
    },
    /// An assumption of a plan that cannot be.
    #[error("{what} is {value}; it must be {wanted}")]
    Assumption {
        /// What is assumed.
        what: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: String,
    },
    /// A loss or a gradient that is no number.
    #[error("step {step} gave a loss of {loss} and a gradient norm of {grad_norm}; its data are kept in {}", folder.display())]
    NonFinite {
        /// The step.
        step: u64,
        /// Mean loss.
        loss: f64,
        /// Norm of the gradients.
        grad_norm: f64,
        /// Where texts, token ids and vectors of the step lie.
        folder: PathBuf,
    },
    /// A timed step whose loss or gradients are no numbers: its speed says nothing.
    #[error("timed step {step} gave a loss of {loss} and a gradient norm of {grad_norm}")]
    TimedNonFinite {
        /// The step, from 0, those before the clock starts included.
        step: usize,
        /// Mean loss.
        loss: f64,
        /// Norm of the gradients.
        grad_norm: f64,
    },
    /// A decoder that is to learn refining without an encoder at hand.
    #[error("learning to refine needs the recipe's encoder, which cannot be used here; the log says why")]
    NoEncoder,
    /// Hypotheses of a run that cannot be read.
    #[error("hypotheses {path}", path = path.display())]
    Hypotheses {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// Ranks that would not train the same decoder.
    #[error("rank {rank} has another {what} than rank 0")]
    RanksDiffer {
        /// What differs.
        what: &'static str,
        /// The first rank that has another.
        rank: usize,
    },
    /// Ranks whose weights are not equal any more.
    #[error("step {step}: the ranks' weights differ, with norms from {least} to {most}")]
    WeightsDiffer {
        /// The step.
        step: u64,
        /// The smallest norm.
        least: f64,
        /// The largest norm.
        most: f64,
    },
    /// A checkpoint, or another file of a run, that cannot be used.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that could not be written.
    #[error("the checkpoint {} could not be written: {source}", path.display())]
    CheckpointWrite {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },
    /// The thread that makes batches failed.
    #[error("making batches failed: {reason}")]
    Loader {
        /// Why.
        reason: String,
    },
}

macro_rules! boxed_from {
    ($($variant:ident: $inner:ty),*) => {$(
        impl From<$inner> for Error {
            fn from(error: $inner) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )*};
}
boxed_from!(Models: models::Error, Data: data::Error, Eval: eval::Error);

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            // keys that --resume takes too
            _ if self.is_out_of_memory() => {
                "raise training.accumulate; where texts are decoded or encoded, lower eval.batch, refinement.batch or encoder.batch_tokens"
                    .into()
            }
            Self::Io(error) => return models::error::io_hint(error),
            Self::TorchExt(error) => return error.hint(),
            Self::Models(error) => return error.hint(),
            Self::Data(error) => return error.hint(),
            Self::Eval(error) => return error.hint(),
            Self::RecipeFile { extended_by: Some(_), .. } => {
                "the path behind `extends` is relative to the file that says it".into()
            }
            Self::RecipeFile { .. } => "recipes lie in configs/; relative paths start at the current directory".into(),
            Self::RecipeSyntax { .. } => "strings stand in quotes, sections in [brackets]; see https://toml.io".into(),
            Self::RecipeCircle { .. } => "take the `extends` out of one of these files".into(),
            Self::Set { .. } => {
                "write --set section.key=value, such as --set optimizer.learning_rate=5e-4 or --set corpus.0.limit=100".into()
            }
            Self::Recipe { problems, .. } => match problems.iter().find_map(|problem| problem.hint.clone()) {
                Some(hint) => hint,
                None => "configs/base.toml explains every key; `inverse-stella config show` prints what a recipe resolves to"
                    .into(),
            },
            Self::NoRecord { .. } => "name a run folder, such as runs/captions, not a checkpoint or an export".into(),
            Self::RunLocked { .. } => "wait for it, stop it, or train in another folder with --set run.dir=DIR".into(),
            Self::RunExists { .. } => {
                "go on with it with --resume, or train in another folder with --set run.dir=DIR".into()
            }
            Self::OtherRecipe { .. } => {
                "use the recipe that the run began with (its config.toml), or train in another folder with --set run.dir=DIR"
                    .into()
            }
            Self::OtherTokenizer { .. } => {
                "put back the tokenizer.json that the run began with, or train in another folder with --set run.dir=DIR"
                    .into()
            }
            Self::OtherWords { .. } => {
                "take --set consistency.kind=sampled, which is for any tokenizer and prompt".into()
            }
            Self::NoTrainingPairs { rows: 0, .. } => {
                "`inverse-stella pairs inspect DIR` shows what is in it; split.dev and split.test may take too much".into()
            }
            Self::NoTrainingPairs { .. } => "raise decoder.max_tokens".into(),
            Self::UnknownDim { .. } => {
                "make the pairs (`inverse-stella pairs build`), or plan with --set encoder.dim=N: 384 for all-MiniLM-L6-v2, 1024 for STELLA"
                    .into()
            }
            Self::OtherShape { key, .. } => {
                format!("leave decoder.{key} out: with decoder.start_from the shape is the pre-trained model's")
            }
            Self::NonFinite { .. } => {
                "look at the kept data, or lower optimizer.learning_rate or training.clip_norm, or raise schedule.warmup_steps; with these changed --resume goes on from the last checkpoint"
                    .into()
            }
            Self::TimedNonFinite { .. } => {
                "take --dtype f32 or bf16, or a lower optimizer.learning_rate of the recipe; if neither helps, this machine computes wrongly"
                    .into()
            }
            Self::NoEncoder => "set encoder.source to the encoder that made the pairs, or refinement.share to 0".into(),
            Self::Hypotheses { .. } => {
                "the checkpoint needs this file to go on: restore it, or write an earlier step's folder name into checkpoints/latest"
                    .into()
            }
            Self::RanksDiffer { .. } => {
                "start all ranks with the same arguments, and let all see the same files: one folder on a shared file system, or equal copies".into()
            }
            Self::WeightsDiffer { .. } => {
                "go on from the last checkpoint with --resume; if it happens again, a machine computes wrongly or the ranks differ in version or device".into()
            }
            Self::CheckpointWrite { .. } => {
                "the earlier checkpoints are whole: make room on the disk (training.keep_last keeps fewer), then --resume"
                    .into()
            }
            Self::Checkpoint { .. } => {
                "checkpoints/latest names the checkpoint that is resumed; write another step's folder name into it".into()
            }
            _ => return None,
        };
        Some(hint)
    }

    /// Whether libtorch found no memory for a tensor.
    fn is_out_of_memory(&self) -> bool {
        let is_of_libtorch = match self {
            Self::Torch(_) | Self::TorchExt(_) => true,
            Self::Models(error) => matches!(**error, models::Error::Torch(_) | models::Error::TorchExt(_)),
            _ => false,
        };
        let text = if is_of_libtorch { self.to_string() } else { String::new() };
        torch_ext::error::is_out_of_memory(&text)
    }

    /// Whether the command line is to blame, and not a file: the exit status is 2 then.
    pub fn is_about_arguments(&self) -> bool {
        match self {
            Self::Set { .. } | Self::Assumption { .. } => true,
            Self::Recipe { problems, .. } => problems.iter().all(|problem| problem.origin.is_set()),
            _ => false,
        }
    }
}

fn first_lines(error: &tch::TchError) -> String {
    // libtorch appends a C++ stack trace, which says nothing to a user
    let text = error.to_string();
    text.split("\nException raised from").next().unwrap_or_default().trim_end().to_owned()
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

fn said_at(place: &Option<(PathBuf, usize)>) -> String {
    place.as_ref().map(|(path, line)| format!("{}:{line}: ", path.display())).unwrap_or_default()
}

fn circle(chain: &[PathBuf]) -> String {
    let names: Vec<_> = chain.iter().map(|path| path.display().to_string()).collect();
    names.join(" -> ")
}

fn problem_list(path: &std::path::Path, problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => {
            let lines: String = many.iter().map(|problem| format!("\n  {problem}")).collect();
            format!("{} problems in the recipe {}:{lines}", many.len(), path.display())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_refuses_gets_a_hint() {
        for kind in [std::io::ErrorKind::ReadOnlyFilesystem, std::io::ErrorKind::StorageFull] {
            let error = Error::from(std::io::Error::from(kind));
            assert!(error.hint().unwrap().contains("folder"), "{kind}");
        }
    }

    #[test]
    fn memory_that_is_not_there_gets_a_hint_and_no_stack_trace() {
        let error = tch::Tensor::f_zeros([1 << 46], (tch::Kind::Double, tch::Device::Cpu)).unwrap_err();
        for error in [Error::from(error), Error::from(models::Error::from(out_of_memory()))] {
            assert!(error.hint().unwrap().contains("training.accumulate"), "{error}");
            assert!(!error.to_string().contains("Exception raised from"), "{error}");
        }
        let other = tch::Tensor::from_slice(&[1.0f32]).f_view([2, 2]).unwrap_err();
        assert_eq!(Error::from(other).hint(), None);
    }

    fn out_of_memory() -> tch::TchError {
        tch::TchError::Torch("CUDA out of memory. Tried to allocate 2 GiB\nException raised from x".into())
    }
}
