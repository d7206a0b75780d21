//! `config`: what a recipe says once everything is resolved.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::output;

/// Flags of `config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print the resolved recipe; a comment behind each value says where it comes from
    #[command(
        after_help = "Example:\n  inverse-stella config show --recipe configs/captions.toml --set training.max_minutes=5"
    )]
    Show {
        #[command(flatten)]
        recipe: RecipeArgs,
        /// One JSON object: value and origin by key
        #[arg(long)]
        json: bool,
    },
}

/// Which recipe, and what is changed in it; shared by the verbs that take a recipe.
#[derive(Debug, Args)]
pub(crate) struct RecipeArgs {
    /// The recipe
    #[arg(long, value_name = "FILE.toml")]
    pub(crate) recipe: PathBuf,
    /// Change one value, for instance optimizer.learning_rate=5e-4 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

impl RecipeArgs {
    /// The recipe with everything resolved and checked.
    pub(crate) fn load(&self) -> Result<training::recipe::Resolved> {
        Ok(training::recipe::load(&self.recipe, &self.sets)?)
    }
}

/// Runs `config show`.
pub(crate) fn run(args: &ConfigArgs) -> Result<()> {
    let ConfigVerb::Show { recipe, json } = &args.verb;
    let resolved = recipe.load()?;
    if *json {
        return output::json(&resolved.to_json());
    }
    output::write(|out| out.write_all(resolved.to_toml_with_origins().as_bytes()))
}
