//! The recipe that a run was made by, for the verbs that need more than its weights.

use std::path::Path;

use training::Recipe;

/// The run at `decoder`, or the run that the checkpoint at `decoder` belongs to.
pub(crate) fn run_folder(decoder: &Path) -> Option<&Path> {
    let of_checkpoint = decoder.parent().and_then(Path::parent);
    [Some(decoder), of_checkpoint].into_iter().flatten().find(|folder| folder.join("decoder.json").exists())
}

/// The recipe of the run at `decoder`, or of the run that the checkpoint at `decoder` belongs to. None for an export,
/// and for a run whose recipe cannot be read any more (its weights are of use all the same).
pub(crate) fn recipe_of(decoder: &Path) -> Option<Recipe> {
    let run = run_folder(decoder)?;
    match training::recipe::load(run.join("config.toml"), &[]) {
        Ok(resolved) => Some(resolved.recipe),
        Err(error) => {
            tracing::warn!("the run's recipe is passed over: {error}");
            None
        }
    }
}
