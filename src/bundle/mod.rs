//! `bundle`: everything that a machine without Rust, compiler and network needs to train a decoder.

mod encoder;
mod parts;
mod texts;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Args;
use models::Dtype;
use serde::Serialize;
use training::recipe::OptimizerKind;

use crate::config::RecipeArgs;
use crate::failure::{ArgumentError, WorldError};
use crate::output;
use encoder::RoundedEncoder;
use parts::{Part, Parts};

/// Flags of `bundle`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  make bundle RECIPE=configs/captions.toml               builds with CUDA, and packs
  inverse-stella bundle --recipe configs/captions.toml --held-out held-out.txt --out bundle --max-mb 60

On the other machine (Linux, Python 3.10 or newer, torch 2.11), where all files of the folder must come to lie together:
  bash bundle/run.sh --minutes 15 --out results          doctor, parity, bench, gpus, train, eval, report
  bash bundle/run.sh --help")]
pub(crate) struct BundleArgs {
    #[command(flatten)]
    recipe: RecipeArgs,
    /// Folder for the bundle; it is made, and must be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Split what is packed into files of at most so many MB (10^6 bytes)
    #[arg(long, value_name = "MB", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    max_mb: u64,
    /// Texts to evaluate on, a line each; without them the recipe's own dev texts
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,
    /// The encoder's weights as they are packed: f16, bf16, or f32 for as exact as they are
    #[arg(long, value_name = "DTYPE", default_value = "f16")]
    encoder_dtype: Dtype,
    /// One JSON object: the manifest
    #[arg(long)]
    json: bool,
}

/// What a bundle is: `manifest.json`.
#[derive(Debug, Serialize)]
struct Manifest {
    schema: &'static str,
    /// Of this program.
    version: &'static str,
    /// The libtorch that the program was linked with.
    torch: String,
    /// The lowest version of the C library that the program starts with.
    glibc: Option<String>,
    recipe: PathBuf,
    encoder: RoundedEncoder,
    /// What the recipe trains with: adamw or muon.
    optimizer: &'static str,
    /// Of the recipe, for its width: larger decoders have smaller ones.
    learning_rate: f64,
    hidden: i64,
    /// Numbers in a vector.
    dim: usize,
    /// Whether the program has its part for CUDA (NCCL, CUDA graphs, kernels).
    cuda: bool,
    /// Whether there are texts of their own to evaluate on.
    held_out: bool,
    /// How many corpora the recipe has.
    corpora: usize,
    /// The archive's parts, in order (a tar, compressed with xz).
    parts: Vec<Part>,
    /// What it holds: path, bytes, SHA-256.
    files: Vec<Part>,
}

/// Packs a bundle.
pub(crate) fn run(args: &BundleArgs) -> Result<()> {
    let resolved = args.recipe.load()?;
    let mut recipe = resolved.recipe;
    if let Some(source) = &recipe.decoder.start_from {
        return Err(ArgumentError::with_hint(
            format!("the recipe starts from {source}, which a bundle does not carry"),
            "leave `decoder.start_from` out, or train where that model is",
        )
        .into());
    }
    if args.encoder_dtype == Dtype::Auto {
        return Err(ArgumentError::new("--encoder-dtype: f16, bf16 or f32").into());
    }
    make_empty(&args.out)?;
    let staging = args.out.join("staging");
    fs_err::create_dir(&staging)?;
    let manifest = match pack(args, &mut recipe, &staging) {
        Ok(manifest) => manifest,
        Err(error) => {
            // what is half done is of no use, and in the way of another try; the error is what matters
            let _ = fs_err::remove_dir_all(&args.out);
            return Err(error);
        }
    };
    fs_err::remove_dir_all(&staging)?;
    for (name, text) in RUNNER {
        fs_err::write(args.out.join(name), text)?;
    }
    output::json_file(&args.out.join("manifest.json"), &manifest)?;
    if args.json {
        return output::json(&manifest);
    }
    let bytes: u64 = manifest.parts.iter().map(|part| part.bytes).sum();
    let RoundedEncoder { dtype, cosine_mean, cosine_lowest, .. } = &manifest.encoder;
    output::write(|out| {
        writeln!(
            out,
            "bundle     {} ({} parts, {:.1} MB)",
            args.out.display(),
            manifest.parts.len(),
            mb(bytes)
        )?;
        writeln!(
            out,
            "encoder    {dtype}: cosine to the original {cosine_mean:.7}, at least {cosine_lowest:.7}"
        )?;
        writeln!(
            out,
            "needs      torch {}, glibc {}",
            manifest.torch,
            manifest.glibc.as_deref().unwrap_or("?")
        )?;
        writeln!(out, "there      bash run.sh --minutes N --out DIR")
    })
}

/// What runs a bundle.
const RUNNER: [(&str, &str); 11] = [
    ("README.md", include_str!("../../configs/box/README.md")),
    ("run.sh", include_str!("../../configs/box/run.sh")),
    ("cards.py", include_str!("../../configs/box/cards.py")),
    ("run.py", include_str!("../../configs/box/run.py")),
    ("measuring.py", include_str!("../../configs/box/measuring.py")),
    ("phases.py", include_str!("../../configs/box/phases.py")),
    ("planning.py", include_str!("../../configs/box/planning.py")),
    ("steps.py", include_str!("../../configs/box/steps.py")),
    ("payload.py", include_str!("../../configs/box/payload.py")),
    ("torch_home.py", include_str!("../../configs/box/torch_home.py")),
    ("survivors.py", include_str!("../../configs/box/survivors.py")),
];

/// Puts everything into `staging`, and `staging` into parts beside it.
fn pack(args: &BundleArgs, recipe: &mut training::Recipe, staging: &Path) -> Result<Manifest> {
    if let Some(path) = &args.held_out {
        fs_err::copy(path, staging.join("held-out.txt"))?;
    }
    let cuda = torch_ext::cuda::embedded().is_some();
    if !cuda {
        tracing::warn!(
            "this program was built without the feature cuda: where it is run, there will be one GPU, no CUDA graphs and no \
             kernels of our own; `make bundle` builds with it"
        );
    }
    tracing::info!("texts");
    texts::pack(recipe, staging)?;
    if args.held_out.is_some() {
        recipe.pairs.exclude.push(PathBuf::from("held-out.txt"));
    }
    let glibc = program(&staging.join("inverse-stella"))?;
    tracing::info!("encoder");
    let encoder = encoder::pack(recipe, args.encoder_dtype, staging)?;
    let packed = recipe.to_toml()?;
    fs_err::write(staging.join("recipe.toml"), packed)?;
    tracing::info!("compressing");
    let mut parts = Parts::new(&args.out, args.max_mb.saturating_mul(1_000_000));
    let files = parts::archive(staging, &mut parts)?;
    Ok(Manifest {
        schema: "inverse-stella/bundle/1",
        version: env!("CARGO_PKG_VERSION"),
        torch: torch_ext::libtorch_version_built().to_owned(),
        glibc,
        recipe: args.recipe.recipe.clone(),
        optimizer: match recipe.optimizer.kind {
            OptimizerKind::Muon => "muon",
            OptimizerKind::Adamw => "adamw",
        },
        learning_rate: recipe.optimizer.learning_rate,
        hidden: recipe.decoder.hidden,
        dim: encoder.dim,
        cuda,
        encoder,
        held_out: args.held_out.is_some(),
        corpora: recipe.corpus.len(),
        parts: parts.finish()?,
        files,
    })
}

fn make_empty(folder: &Path) -> Result<()> {
    fs_err::create_dir_all(folder)?;
    if fs_err::read_dir(folder)?.next().is_some() {
        return Err(WorldError::with_hint(
            format!("{} is not empty", folder.display()),
            "choose another folder, or remove this one first",
        )
        .into());
    }
    Ok(())
}

/// Copies this program without its symbols; gives the C library that it needs.
fn program(to: &Path) -> Result<Option<String>> {
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    let stripped = Command::new("strip").arg("-o").arg(to).arg(&own).output();
    if !stripped.is_ok_and(|output| output.status.success()) {
        tracing::warn!("there is no `strip` here (binutils): the program is packed with its symbols");
        fs_err::copy(&own, to)?;
    }
    fs_err::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(glibc(&fs_err::read(to)?).map(|(major, minor)| format!("{major}.{minor}")))
}

/// The highest version of glibc whose symbols a program names: they stand in its table of strings as `GLIBC_2.34`, between
/// zeros.
fn glibc(program: &[u8]) -> Option<(u32, u32)> {
    const MARK: &[u8] = b"\0GLIBC_2.";
    let places = program.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let minor = |(at, _): (usize, &[u8])| {
        let rest = &program[at + MARK.len()..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let ends = matches!(rest.get(digits), Some(0 | b'.'));
        let number = std::str::from_utf8(&rest[..digits]).ok()?.parse::<u32>().ok()?;
        (ends && digits <= 3).then_some(number)
    };
    places.filter_map(minor).max().map(|minor| (2, minor))
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_glibc_is_what_a_program_needs() {
        assert_eq!(glibc(b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0"), Some((2, 34)));
        assert_eq!(glibc(b"nothing of it: \0GLIBC_PRIVATE\0GLIBC_2.99x\0 GLIBC_2.98\0"), None);
        assert!(glibc(&fs_err::read(std::env::current_exe().unwrap()).unwrap()).unwrap() >= (2, 17));
    }
}
