//! How an error leaves the command: the chain of causes, a hint, an exit status.

use std::io::Write as _;
use std::process::ExitCode;

/// The data or the world is wrong.
const WRONG_WORLD: u8 = 1;
/// The arguments are wrong (clap uses the same).
const WRONG_ARGUMENTS: u8 = 2;

/// An argument that clap could not know to be wrong.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ArgumentError {
    message: String,
    hint: Option<String>,
}

impl ArgumentError {
    /// An error about arguments, exit status 2.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with a line that says what to do.
    pub(crate) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Data or the world being wrong where no library had the say, exit status 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct WorldError {
    message: String,
    hint: Option<String>,
}

impl WorldError {
    /// An error with a line that says what to do.
    pub(crate) fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Prints `error: ...` with its causes and, where one is known, `hint: ...`; gives the exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut text = format!("error: {error}\n");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // a transparent error repeats its source
        if !said.contains(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        said = cause;
    }
    if let Some(hint) = hint(error) {
        text.push_str(&format!("\nhint: {hint}\n"));
    }
    // nothing is left to tell the user through if stderr is gone
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(if is_about_arguments(error) { WRONG_ARGUMENTS } else { WRONG_WORLD })
}

/// Whether the command line is to blame, and not a file.
fn is_about_arguments(error: &anyhow::Error) -> bool {
    if error.chain().any(|cause| cause.is::<ArgumentError>()) {
        return true;
    }
    match error.chain().find_map(|cause| cause.downcast_ref::<training::Error>()) {
        Some(error) => error.is_about_arguments(),
        // no recipe had a say: what a model refuses was a flag's wish
        None => error.chain().filter_map(|cause| cause.downcast_ref::<models::Error>()).any(|error| {
            use models::Error;
            matches!(
                error,
                Error::UnknownPrompt { .. }
                    | Error::UnknownDim { .. }
                    | Error::GenerateOption { .. }
                    | Error::DoesNotRefine
                    | Error::DoesNotGuide
                    | Error::KnowsNoNoise
                    | Error::KnowsNoLength
            )
        }),
    }
}

/// The first hint along the chain of causes.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<ArgumentError>() {
            return error.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<WorldError>() {
            return error.hint.clone();
        }
        cause
            .downcast_ref::<training::Error>()
            .and_then(training::Error::hint)
            .or_else(|| cause.downcast_ref::<eval::Error>().and_then(eval::Error::hint))
            .or_else(|| cause.downcast_ref::<data::Error>().and_then(data::Error::hint))
            .or_else(|| cause.downcast_ref::<models::Error>().and_then(models::Error::hint))
            .or_else(|| cause.downcast_ref::<torch_ext::Error>().and_then(torch_ext::Error::hint))
            .or_else(|| cause.downcast_ref::<std::io::Error>().and_then(models::error::io_hint))
    })
}

/// A panic is a bug of ours: say so, and how to report it.
pub(crate) fn install_panic_message() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if data::corpus::panic_is_damage() {
            return;
        }
        default(info);
        let _ = writeln!(
            std::io::stderr().lock(),
            "\nThis is a bug in inverse-stella {}. Please report it with the lines above and the command you ran.",
            env!("CARGO_PKG_VERSION")
        );
    }));
}
