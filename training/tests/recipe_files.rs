//! The recipes in configs/: they load, and the manual among them is complete and right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use training::recipe::{Recipe, load};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("configs")
}

#[test]
fn the_recipes_load() {
    for (name, parameters) in [("captions", 15e6..19e6), ("demo", 4e6..8e6)] {
        let resolved = load(configs().join(format!("{name}.toml")), &[]).unwrap();
        let recipe = resolved.recipe;
        assert_eq!(recipe.name, name);
        assert_eq!(recipe.run.dir, Path::new("runs").join(name));
        assert_eq!(recipe.pairs.dir, Path::new("runs").join(format!("{name}-pairs")));
        assert!(recipe.training.max_minutes.is_some());
        let vocab = i64::try_from(recipe.tokenizer.vocab).unwrap();
        let total = recipe.decoder_config(384, vocab, 1, 2, 0).parameters().total as f64;
        assert!(parameters.contains(&total), "{name}: {total} parameters");
    }
}

#[test]
fn the_manual_gives_the_programs_own_defaults() {
    let sets = ["encoder.source=x".to_owned(), "training.max_steps=1".to_owned()];
    let manual = load(configs().join("base.toml"), &sets).unwrap().recipe;
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("base.toml");
    fs_err::write(&empty, "").unwrap();
    assert_eq!(manual, load(&empty, &sets).unwrap().recipe);
}

/// What the manual says behind a `#` is right too: with every key uncommented it loads.
#[test]
fn the_manual_names_every_key() {
    let text = fs_err::read_to_string(configs().join("base.toml")).unwrap();
    let uncommented: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.toml");
    // one prompt or several, not both
    let alone = |line: &&str| !line.starts_with("prompt = ");
    let loadable = uncommented.lines().filter(alone).collect::<Vec<_>>().join("\n");
    assert_ne!(loadable, uncommented);
    fs_err::write(&path, &loadable).unwrap();
    let manual = load(&path, &[]).unwrap_or_else(|error| panic!("{error}\n{loadable}"));

    // each key that serde knows stands there: the refusal of an unknown one lists them
    let sections: toml::Table = toml::from_str(&uncommented).unwrap();
    for (section, value) in &sections {
        let table = match value {
            toml::Value::Array(elements) => elements[0].as_table(),
            other => other.as_table(),
        };
        let Some(table) = table else { continue };
        let key = if value.is_array() { format!("{section}.0") } else { section.clone() };
        let error = load(&path, &[format!("{key}.qqqqqqqq=1")]).unwrap_err().to_string();
        let (_, known) = error.split_once(" are ").unwrap_or_else(|| panic!("{error}"));
        for known in known.split(", ") {
            assert!(table.contains_key(known), "configs/base.toml does not explain {section}.{known}");
        }
    }
    let top: toml::Table = toml::from_str(&manual.to_toml()).unwrap();
    for section in top.keys() {
        assert!(sections.contains_key(section), "configs/base.toml does not explain [{section}]");
    }
    assert_ne!(manual.recipe, Recipe::default());
}

/// `# key = value` and `# [[section]]` without the `# `; prose as it is.
fn uncomment(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("# ") else { return line };
    let word: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
    let is_key = !word.is_empty() && rest[word.len()..].starts_with(" = ");
    if is_key || rest.starts_with("[[") { rest } else { line }
}
