//! From the paths of a recipe to the files of a corpus.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use walkdir::{DirEntry, WalkDir};

use super::config::{CorpusConfig, Format};
use crate::{Error, Result};

/// Endings of compressed files, which stand after a format's own.
const COMPRESSED: [&str; 3] = ["gz", "xz", "zst"];
/// Folders of a Rust source tree whose comments are not documentation, or that are not source.
const NOT_DOCUMENTATION: [&str; 4] = ["tests", "benches", "target", "node_modules"];

/// Fills in `~`, environment variables and `*`; the results are there, and sorted.
///
/// # Errors
/// A variable that is not set, a path that leads nowhere, a pattern that nothing fits. `what` says in the message who
/// asked.
pub fn expand(path: &Path, what: &str) -> Result<Vec<PathBuf>> {
    let filled = fill(&path.to_string_lossy(), &|name| std::env::var(name).ok())?;
    if !filled.to_string_lossy().contains('*') {
        return match filled.exists() {
            true => Ok(vec![filled]),
            false => Err(Error::Missing { what: what.to_owned(), path: filled }),
        };
    }
    let found = glob(&filled)?;
    if found.is_empty() {
        return Err(Error::NothingMatches { what: what.to_owned(), pattern: filled });
    }
    Ok(found)
}

/// Fills in a leading `~`, `$NAME` and `${NAME}`.
fn fill(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    let unset = |name: &str| Error::UnsetVariable { path: path.to_owned(), variable: name.to_owned() };
    let value = |name: &str| match variable(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ if name == "CARGO_HOME" => {
            variable("HOME").map(|home| home + "/.cargo").ok_or_else(|| unset("HOME"))
        }
        _ => Err(unset(name)),
    };
    let mut out = String::new();
    let mut rest = path;
    if rest == "~" || rest.starts_with("~/") {
        out = value("HOME")?;
        rest = &rest[1..];
    }
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (name, after) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => rest
                .split_at(rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())),
        };
        if name.is_empty() {
            out.push('$');
        } else {
            out.push_str(&value(name)?);
        }
        rest = after;
    }
    Ok(PathBuf::from(out + rest))
}

/// The paths that fit a pattern, sorted; `*` does not stand for a leading dot.
fn glob(pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        let mut next = Vec::new();
        for folder in found {
            let plain = folder.join(component);
            if !matches!(component, Component::Normal(_)) || !name.contains('*') {
                next.push(plain);
                continue;
            }
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
            if !here.is_dir() {
                continue;
            }
            for entry in fs::read_dir(here)? {
                let entry = entry?.file_name();
                let entry_name = entry.to_string_lossy();
                if fits_visibly(&name, &entry_name) {
                    next.push(folder.join(&entry));
                }
            }
        }
        found = next;
    }
    found.retain(|path| path.exists());
    found.sort();
    Ok(found)
}

/// Whether a path's parts fit those of a pattern, in which `**` stands for any number of them. The pattern of a folder
/// fits what is below it, as far as that `is_of` the format.
pub(super) fn fits_path(pattern: &[&str], path: &[&str], is_of: &dyn Fn(&str) -> bool) -> bool {
    match (pattern, path) {
        ([], [.., name]) => is_of(name),
        (["**", rest @ ..], [first, below @ ..]) => {
            fits_path(rest, path, is_of) || (!first.starts_with('.') && fits_path(pattern, below, is_of))
        }
        ([last], [name]) => fits_visibly(last, name),
        ([part, rest @ ..], [name, below @ ..]) => {
            fits_visibly(part, name) && !below.is_empty() && fits_path(rest, below, is_of)
        }
        _ => false,
    }
}

/// `*` does not stand for a leading dot.
fn fits_visibly(pattern: &str, name: &str) -> bool {
    fits(pattern, name) && (!name.starts_with('.') || pattern.starts_with('.'))
}

/// Whether a name fits a pattern in which `*` stands for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == name;
    };
    name.strip_prefix(head).is_some_and(|rest| {
        rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| fits(tail, &rest[at..]))
    })
}

/// A file that a path of the recipe leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its path below that of the recipe, which is the same on every machine; empty where the recipe names the file.
    pub(crate) name: String,
}

impl Found {
    /// `roots` is what a path of the recipe [expanded](expand) to.
    pub(crate) fn below(roots: &[PathBuf], file: PathBuf) -> Found {
        let base = match roots {
            [root] => Some(root.as_path()),
            // what a `*` stood for tells the files apart
            _ => roots.first().and_then(|first| {
                first.ancestors().skip(1).find(|folder| roots.iter().all(|root| root.starts_with(folder)))
            }),
        };
        let below = base.and_then(|base| file.strip_prefix(base).ok()).unwrap_or(&file);
        let name = below.to_string_lossy().into_owned();
        Found { file, name }
    }
}

/// The files of a corpus that lies on this machine, in the order in which they are read, each once: where it is, and its
/// path below the folder that the recipe names.
///
/// # Errors
/// A path that leads nowhere, a folder without a file of the format.
pub fn files(config: &CorpusConfig) -> Result<Vec<(PathBuf, String)>> {
    Ok(corpus_files(config)?.into_iter().map(|Found { file, name }| (file, name)).collect())
}

/// The files of a corpus in the order in which they are read, each once.
///
/// # Errors
/// A path that leads nowhere, a folder without a file of the format.
pub(crate) fn corpus_files(config: &CorpusConfig) -> Result<Vec<Found>> {
    let what = format!("corpus {:?}", config.name);
    let mut files = Vec::new();
    for path in config.path.as_slice() {
        let mut of_path = Vec::new();
        let roots = expand(path, &what)?;
        for root in &roots {
            let mut of_root = Vec::new();
            if root.is_dir() {
                walk(root, config, &mut of_root)?;
            } else {
                of_root.push(root.clone());
            }
            of_path.extend(of_root.into_iter().map(|file| Found::below(&roots, file)));
        }
        if of_path.is_empty() {
            let wanted = match config.format {
                Format::Beir => "corpus.jsonl and queries.jsonl".to_owned(),
                format => endings(format).iter().map(|end| format!("*.{end}")).collect::<Vec<_>>().join(", "),
            };
            let format = config.format.as_str();
            return Err(Error::NoFiles { what, path: path.clone(), format, wanted });
        }
        files.extend(of_path);
    }
    let mut seen = HashSet::new();
    files.retain(|found: &Found| seen.insert(found.file.clone()));
    Ok(files)
}

/// Adds the files of a folder that have the corpus's format, sorted by name.
fn walk(folder: &Path, config: &CorpusConfig, files: &mut Vec<PathBuf>) -> Result<()> {
    let rustdoc = config.format == Format::Rustdoc;
    let enter = |entry: &DirEntry| {
        let name = entry.file_name().to_string_lossy();
        let skip = name.starts_with('.') || (rustdoc && NOT_DOCUMENTATION.contains(&name.as_ref()));
        entry.depth() == 0 || !entry.file_type().is_dir() || !skip
    };
    for entry in
        WalkDir::new(folder).follow_links(!rustdoc).sort_by_file_name().into_iter().filter_entry(enter)
    {
        let entry = entry.map_err(std::io::Error::from)?;
        if !entry.file_type().is_file() || !is_of(config.format, &entry.file_name().to_string_lossy()) {
            continue;
        }
        if rustdoc && entry.metadata().map_err(std::io::Error::from)?.len() > config.max_file_bytes {
            tracing::debug!("{} is larger than max_file_bytes", entry.path().display());
            continue;
        }
        files.push(entry.into_path());
    }
    Ok(())
}

pub(super) fn endings(format: Format) -> &'static [&'static str] {
    match format {
        Format::Text => &["txt", "text"],
        Format::Tsv | Format::Arxiv => &["tsv", "tab"],
        Format::Csv => &["csv"],
        Format::Jsonl => &["jsonl", "ndjson"],
        Format::Json => &["json"],
        Format::Parquet => &["parquet"],
        Format::Sts => &["csv", "tsv", "txt", "jsonl"],
        Format::Beir => &["jsonl"],
        Format::Trec => &["xml", "trec", "sgml"],
        Format::Smart => &["all", "qry"],
        Format::Rustdoc => &["rs"],
    }
}

/// Whether a file of a folder has the format, by its name.
pub(super) fn is_of(format: Format, name: &str) -> bool {
    let lower = name.to_lowercase();
    let plain = COMPRESSED.iter().find_map(|end| lower.strip_suffix(&format!(".{end}"))).unwrap_or(&lower);
    let Some((stem, ending)) = plain.rsplit_once('.') else {
        return false;
    };
    let about = ["readme", "license", "licence", "copying"].contains(&stem);
    // scores, of which the sentences lie in a file of their own
    let scores =
        format == Format::Sts && ["sts.gs.", "sts2016.gs."].iter().any(|start| lower.starts_with(start));
    endings(format).contains(&ending)
        && !(about || scores || stem.is_empty())
        && (format != Format::Beir || ["corpus", "queries"].contains(&stem))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/a".to_owned()),
            "DATA" => Some("/data".to_owned()),
            _ => None,
        };
        let filled = |path| fill(path, &variable).unwrap();
        assert_eq!(filled("~/x"), Path::new("/home/a/x"));
        assert_eq!(filled("$CARGO_HOME/registry"), Path::new("/home/a/.cargo/registry"));
        assert_eq!(filled("${DATA}s/$DATA"), Path::new("/datas//data"));
        assert_eq!(filled("a~b/$"), Path::new("a~b/$"));
        let error = fill("$NOWHERE/x", &variable).unwrap_err();
        assert!(matches!(&error, Error::UnsetVariable { variable, .. } if variable == "NOWHERE"));
    }

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        assert!(fits("*", "") && fits("a*c*", "abcd") && fits("*.tsv", "x.tsv") && fits("é*", "éa"));
        assert!(!fits("a*c", "ab") && !fits("*.tsv", "x.tsv.gz"));
        let folder = tempfile::tempdir().unwrap();
        for name in ["b/x.txt", "a/x.txt", "a/y.md", ".c/x.txt"] {
            fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let found = expand(&folder.path().join("*/x.*"), "t").unwrap();
        assert_eq!(found, [folder.path().join("a/x.txt"), folder.path().join("b/x.txt")]);
        assert!(matches!(expand(&folder.path().join("*/z"), "t"), Err(Error::NothingMatches { .. })));
        assert!(matches!(expand(&folder.path().join("z"), "t"), Err(Error::Missing { .. })));
    }

    #[test]
    fn paths_of_a_repository_fit_patterns() {
        let fits = |pattern: &str, path: &str| {
            let (pattern, path): (Vec<&str>, Vec<&str>) =
                (pattern.split('/').collect(), path.split('/').collect());
            fits_path(&pattern, &path, &|name| name.ends_with(".parquet"))
        };
        for (pattern, path) in [
            ("data/train-*.parquet", "data/train-0.parquet"),
            ("data", "data/train-0.parquet"),
            ("data", "data/en/train-0.parquet"),
            ("*/x.parquet", "en/x.parquet"),
            ("**/x.parquet", "x.parquet"),
            ("**/x.parquet", "a/b/x.parquet"),
            ("a/**", "a/b/x.parquet"),
            ("README.md", "README.md"),
        ] {
            assert!(fits(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("data/train-*.parquet", "data/test-0.parquet"),
            ("data/*.parquet", "data/en/x.parquet"),
            ("data", "data/README.md"),
            ("data", "database/x.parquet"),
            ("*", ".gitattributes"),
            ("a/b/c", "a/b"),
        ] {
            assert!(!fits(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn a_name_does_not_depend_on_where_the_recipes_path_leads() {
        let name = |roots: &[&str], file: &str| {
            let roots: Vec<PathBuf> = roots.iter().map(PathBuf::from).collect();
            Found::below(&roots, file.into()).name
        };
        assert_eq!(name(&["/data/sick.tsv"], "/data/sick.tsv"), "");
        assert_eq!(name(&["/data/sts"], "/data/sts/2012/a.tsv"), "2012/a.tsv");
        assert_eq!(name(&["/data/a/x.tsv", "/data/b/x.tsv"], "/data/b/x.tsv"), "b/x.tsv");
        assert_eq!(name(&["a.tsv", "b.tsv"], "b.tsv"), "b.tsv");
    }

    #[test]
    fn names_tell_the_format() {
        assert!(is_of(Format::Tsv, "a.TSV.xz") && is_of(Format::Beir, "corpus.jsonl.gz"));
        assert!(
            !is_of(Format::Sts, "readme.txt")
                && is_of(Format::Sts, "STS.input.news.txt")
                && !is_of(Format::Sts, "STS.gs.news.txt")
                && !is_of(Format::Beir, "x.jsonl")
                && !is_of(Format::Text, "txt")
        );
    }
}
