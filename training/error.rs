//! What can go wrong in this crate, said so that a user can act on it.

use std::path::PathBuf;

use crate::recipe::Problem;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading or writing failed; the message of the source names the path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// libtorch refused an operation.
    #[error("libtorch: {0}")]
    Torch(#[from] tch::TchError),
    /// The layer over libtorch refused an operation.
    #[error(transparent)]
    TorchExt(#[from] torch_ext::Error),
    /// The encoder, the decoder or their files.
    #[error(transparent)]
    Models(#[from] models::Error),
    /// Corpora or pairs.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Metrics or a round trip.
    #[error(transparent)]
    Eval(#[from] eval::Error),

    /// A recipe, or a file that one extends, that cannot be read.
    #[error("{}cannot read the recipe {}: {source}", extended_by(.extended_by), path.display())]
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
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
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
            _ => return None,
        };
        Some(hint)
    }

    /// Whether the command line is to blame, and not a file: the exit status is 2 then.
    pub fn is_about_arguments(&self) -> bool {
        match self {
            Self::Set { .. } => true,
            Self::Recipe { problems, .. } => problems.iter().all(|problem| problem.origin.is_set()),
            _ => false,
        }
    }
}

fn extended_by(place: &Option<(PathBuf, usize)>) -> String {
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
