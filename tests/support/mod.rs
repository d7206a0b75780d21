//! What the tests of the command share: the command itself, a small corpus, the encoder.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

pub mod small;

use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// The command, with nothing of the caller's environment that would change what it does.
pub fn inverse_stella() -> Command {
    let mut command = Command::cargo_bin("inverse-stella").unwrap();
    for name in
        ["RUST_LOG", "INVERSE_STELLA_DECODER", "INVERSE_STELLA_THREADS", "HF_HUB_OFFLINE", "HF_ENDPOINT"]
    {
        command.env_remove(name);
    }
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// The folder of all-MiniLM-L6-v2 that set-up leaves, or a printed reason why the test is skipped.
pub fn minilm() -> Option<PathBuf> {
    let folder = std::env::var_os("INVERSE_STELLA_MINILM")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/all-MiniLM-L6-v2"));
    if folder.join("modules.json").exists() {
        return Some(folder);
    }
    eprintln!("skipped: no all-MiniLM-L6-v2 at {} (make setup brings it)", folder.display());
    None
}

/// The same model in `folder`, with two prompts that it was never told of: `query` and `passage`.
pub fn minilm_with_prompts(folder: &Path) -> Option<PathBuf> {
    let (model, with_prompts) = (minilm()?, folder.join("minilm"));
    fs_err::create_dir(&with_prompts).unwrap();
    for entry in fs_err::read_dir(fs_err::canonicalize(model).unwrap()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "config_sentence_transformers.json" {
            fs_err::os::unix::fs::symlink(entry.path(), with_prompts.join(entry.file_name())).unwrap();
        }
    }
    let prompts =
        r#"{"prompts": {"query": "Instruct: find what answers this.\nQuery: ", "passage": "passage: "}}"#;
    fs_err::write(with_prompts.join("config_sentence_transformers.json"), prompts).unwrap();
    Some(with_prompts)
}

/// `n` different plain sentences, always the same ones.
pub fn sentences(n: usize) -> Vec<String> {
    let who = [
        "A man",
        "The old woman",
        "A young girl",
        "Two dogs",
        "The teacher",
        "A tall player",
        "Some children",
    ];
    let does = ["watches", "carries", "paints", "finds", "throws", "cleans", "follows", "repairs", "draws"];
    let what = [
        "a red ball",
        "the wooden boat",
        "a small horse",
        "the broken chair",
        "an empty bottle",
        "the blue kite",
        "a long rope",
    ];
    let place = [
        "near the river",
        "in the garden",
        "on the beach",
        "behind the house",
        "at the market",
        "under a tree",
    ];
    let mut all = Vec::new();
    for p in place {
        for w in what {
            for d in does {
                for s in who {
                    all.push(format!("{s} {d} {w} {p}."));
                }
            }
        }
    }
    // a step coprime to the number of sentences, so that neighbours differ in every part
    let step = 1009;
    (0..n).map(|i| all[i * step % all.len()].clone()).collect()
}

/// Writes lines to a file.
pub fn write_lines(path: &Path, lines: &[String]) {
    fs_err::write(path, lines.join("\n") + "\n").unwrap();
}

/// Every file below `folder` with its bytes, sorted by name, without those for which `leave_out` says so.
pub fn files(folder: &Path, leave_out: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, found);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs_err::read(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.retain(|(name, _)| !leave_out(name));
    found.sort();
    found
}
