//! The texts of a recipe, as files of the bundle.

use std::path::{Path, PathBuf};

use anyhow::Result;
use data::corpus::{Paths, expand, files};

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
        let folder = PathBuf::from(format!("texts/{number}"));
        let mut copies = Vec::new();
        for (at, (file, name)) in files(corpus)?.into_iter().enumerate() {
            // a file that is named itself lies below no folder
            let own = file.file_name().unwrap_or(file.as_os_str());
            let name = if name.is_empty() { PathBuf::from(own) } else { PathBuf::from(name) };
            let mut copy = folder.join(&name);
            if bundle.join(&copy).exists() {
                // files of one name from two folders
                copy = folder.join(at.to_string()).join(&name);
            }
            copy_to(&file, &bundle.join(&copy))?;
            copies.push(copy);
        }
        corpus.path = Paths::Many(copies);
    }
    let mut excluded = Vec::new();
    for path in &recipe.pairs.exclude {
        for file in expand(path, "`pairs.exclude`")? {
            let name = file.file_name().unwrap_or(file.as_os_str());
            let copy = Path::new("texts/excluded").join(excluded.len().to_string()).join(name);
            copy_to(&file, &bundle.join(&copy))?;
            excluded.push(copy);
        }
    }
    recipe.pairs.exclude = excluded;
    // where the runner of the bundle looks for them
    recipe.pairs.dir = PathBuf::from("work/pairs");
    recipe.run.dir = PathBuf::from("work/run");
    Ok(())
}

fn copy_to(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::copy(from, to)?;
    Ok(())
}
