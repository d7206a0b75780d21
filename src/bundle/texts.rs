//! The texts of a recipe, as files of the bundle.

use std::path::{Path, PathBuf};

use anyhow::Result;
use data::corpus::{Paths, expand};

use crate::failure::ArgumentError;

/// Copies the files that a recipe reads below `bundle`, and makes the recipe name the copies, as seen from there.
pub(super) fn pack(recipe: &mut training::Recipe, bundle: &Path) -> Result<()> {
    for (number, corpus) in recipe.corpus.iter_mut().enumerate() {
        if let Some(hub) = &corpus.hub {
            return Err(ArgumentError::with_hint(
                format!("the corpus {} lies on the hub ({hub}), which a bundle does not carry", corpus.name),
                "fetch its files, and name them by `path`",
            )
            .into());
        }
        let what = format!("the corpus {}", corpus.name);
        let copies =
            copies(corpus.path.as_slice(), &what, &PathBuf::from(format!("texts/{number}")), bundle)?;
        corpus.path = Paths::Many(copies);
    }
    let excluded = std::mem::take(&mut recipe.pairs.exclude);
    recipe.pairs.exclude = copies(&excluded, "`pairs.exclude`", Path::new("texts/excluded"), bundle)?;
    // where the runner of the bundle looks for them
    recipe.pairs.dir = PathBuf::from("work/pairs");
    recipe.run.dir = PathBuf::from("work/run");
    Ok(())
}

/// Copies what paths and patterns name to `folder` of the bundle: one copy each, in their order.
fn copies(paths: &[PathBuf], what: &str, folder: &Path, bundle: &Path) -> Result<Vec<PathBuf>> {
    let mut copies = Vec::new();
    for path in paths {
        for found in expand(path, what)? {
            // two files of one name may come from two folders
            let name = found.file_name().unwrap_or(found.as_os_str());
            let copy = folder.join(copies.len().to_string()).join(name);
            copy_all(&found, &bundle.join(&copy))?;
            copies.push(copy);
        }
    }
    Ok(copies)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        fs_err::create_dir_all(to)?;
        for entry in fs_err::read_dir(from)? {
            let entry = entry?;
            copy_all(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::copy(from, to)?;
    Ok(())
}
