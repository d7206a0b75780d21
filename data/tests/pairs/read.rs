//! Reading: what was written is what is read, by us and by pyarrow; damage is named.

use std::path::{Path, PathBuf};
use std::process::Command;

use data::Error;
use data::curation::Split;
use data::pairs::{PairSet, Storage, inspect};
use fs_err as fs;
use models::Embed;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::build::{DIM, config, run, sentence};
use crate::encoder::HashEncoder;

/// A pair set of `n` sentences.
fn built(folder: &Path, n: usize, storage: Storage) -> PathBuf {
    let mut config = config(folder, "pairs", n);
    config.storage = storage;
    run(&config, &HashEncoder::new(DIM)).unwrap();
    config.dir
}

#[test]
fn every_row_has_the_vector_of_its_text() {
    for (storage, tolerance) in [(Storage::F32, 0.0), (Storage::F16, 5e-4)] {
        let folder = tempfile::tempdir().unwrap();
        let set = PairSet::open(&built(folder.path(), 250, storage)).unwrap();
        assert_eq!((set.len(), set.dim()), (250, DIM));
        let encoder = HashEncoder::new(DIM);
        // in the shards' own chunks, since the vectors of this encoder depend on them
        for rows in [0..100usize, 100..200, 200..250] {
            let texts: Vec<&str> = rows.clone().map(|row| set.text(row)).collect();
            let expected = encoder.embed(&texts).unwrap();
            let found = set.vectors(&rows.collect::<Vec<_>>());
            let difference = (expected - found).abs().max().double_value(&[]);
            assert!(difference <= tolerance, "{difference}");
        }
        match set.manifest().cosine_loss {
            None => assert_eq!(storage, Storage::F32),
            Some(loss) => assert!(loss.mean > 0.0 && loss.mean < 1e-6 && loss.max < 1e-6, "{loss:?}"),
        }
        set.verify().unwrap();
    }
}

#[test]
fn splits_part_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let set = PairSet::open(&built(folder.path(), 450, Storage::F16)).unwrap();
    let mut all = Vec::new();
    for split in [Split::Train, Split::Dev, Split::Test] {
        let rows = set.indices(split).unwrap();
        assert_eq!(rows.len() as u64, set.manifest().counts.split[split.as_str()]);
        assert!(rows.iter().all(|&row| set.split(row as usize).unwrap() == split));
        all.extend(rows);
    }
    all.sort_unstable();
    assert_eq!(all, (0..450).collect::<Vec<u32>>());
    let mut texts: Vec<&str> = (0..set.len()).map(|row| set.text(row)).collect();
    let mut expected: Vec<String> = (0..450).map(sentence).collect();
    // the order is that of hashes, not of the corpus
    assert_ne!(texts, expected);
    texts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(texts, expected);
}

#[test]
fn random_access_is_sequential_access() {
    let folder = tempfile::tempdir().unwrap();
    let set = PairSet::open(&built(folder.path(), 350, Storage::F16)).unwrap();
    let sequential: Vec<(String, Vec<f32>)> =
        (0..set.len()).map(|row| (set.text(row).to_owned(), set.vector(row))).collect();
    proptest!(ProptestConfig::with_cases(32), |(picks in prop::collection::vec(any::<Index>(), 0..40))| {
        let rows: Vec<usize> = picks.iter().map(|pick| pick.index(set.len())).collect();
        let vectors = set.vectors(&rows);
        prop_assert_eq!(vectors.size(), vec![rows.len() as i64, DIM as i64]);
        let numbers = Vec::<f32>::try_from(vectors.view([-1])).unwrap();
        for (i, &row) in rows.iter().enumerate() {
            prop_assert_eq!(set.text(row), &sequential[row].0);
            prop_assert_eq!(&numbers[i * DIM..(i + 1) * DIM], &sequential[row].1[..]);
        }
    });
}

#[test]
fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let dir = built(folder.path(), 250, Storage::F16);
    let shard = dir.join("shard-00001.arrow");
    let whole = fs::read(&shard).unwrap();

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&shard, &flipped).unwrap();
    let error = PairSet::open(&dir).unwrap().verify().unwrap_err();
    assert!(matches!(&error, Error::ShardDigest { path, .. } if *path == shard), "{error}");

    fs::write(&shard, &whole[..whole.len() - 1]).unwrap();
    let error = PairSet::open(&dir).unwrap_err();
    assert!(matches!(&error, Error::ShardSize { path, .. } if *path == shard), "{error}");

    // whatever byte of the footer and of the batch's header is damaged, opening ends in an error or in a readable set
    for at in (0..1200).chain(whole.len() - 2000..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        fs::write(&shard, &damaged).unwrap();
        if let Ok(set) = PairSet::open(&dir) {
            assert!(set.verify().is_err());
            for row in 0..set.len() {
                let _ = set.split(row);
                assert_eq!((set.text(row).len() < whole.len(), set.vector(row).len()), (true, DIM));
            }
        }
    }

    fs::remove_file(&shard).unwrap();
    let error = PairSet::open(&dir).unwrap_err();
    assert!(error.to_string().contains("shard-00001.arrow"), "{error}");
}

#[test]
fn a_shard_of_another_space_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = built(folder.path(), 130, Storage::F16);
    let manifest = dir.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let other = text.replace("blake3:8\"", "blake3:other\"");
    assert_ne!(text, other);
    fs::write(&manifest, other).unwrap();
    let error = PairSet::open(&dir).unwrap_err();
    assert!(matches!(&error, Error::Models(models::Error::SpaceMismatch { .. })), "{error}");
}

#[test]
fn a_folder_without_pairs_is_no_pair_set() {
    let folder = tempfile::tempdir().unwrap();
    let error = PairSet::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NotAPairSet { unfinished: false, .. }), "{error}");
    fs::write(folder.path().join("manifest.json"), "{\"format\": 2}").unwrap();
    let error = PairSet::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("manifest.json"), "{error}");
    // one of before there was a column of prompts
    fs::write(folder.path().join("manifest.json"), "{\"format\": 1, \"pairs\": 3}").unwrap();
    let error = PairSet::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::PairSetFormat { found: 1, known: 2, .. }), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("build it again")));
}

#[test]
fn inspection_agrees_with_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let set = PairSet::open(&built(folder.path(), 250, Storage::F16)).unwrap();
    let seen = inspect(&set, 5, 1).unwrap();
    assert_eq!((seen.pairs, seen.shards, seen.tokens.n, seen.words.n), (250, 3, 250, 250));
    // these sentences are of one length, and the encoder's tokens are words
    assert_eq!((seen.words.min, seen.words.max), (15.0, 15.0));
    assert_eq!(seen.tokens.p50, 15.0);
    assert!((seen.norms.mean - 1.0).abs() < 1e-3, "{:?}", seen.norms);
    assert_eq!(seen.samples.len(), 5);
    for sample in &seen.samples {
        assert_eq!(sample.text, set.text(sample.row));
        assert_eq!(sample.vector_head, set.vector(sample.row)[..4]);
    }
    assert_eq!(inspect(&set, 1000, 1).unwrap().samples.len(), 250);
}

/// A Python that has pyarrow, or why there is none.
fn python() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("INVERSE_STELLA_PYTHON").map(PathBuf::from);
    let candidates = named.into_iter().chain([root.join(".venv/bin/python"), "python3".into()]);
    for python in candidates {
        let imported = Command::new(&python).args(["-c", "import pyarrow"]).output();
        if imported.is_ok_and(|output| output.status.success()) {
            return Ok(python);
        }
    }
    Err("no Python with pyarrow (INVERSE_STELLA_PYTHON names one)".into())
}

#[test]
fn pyarrow_reads_the_same_rows() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    for (storage, prompts) in [(Storage::F16, &["none"][..]), (Storage::F32, &["none", "s2p"])] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), "pairs", 250);
        config.storage = storage;
        let encoders: Vec<_> = prompts.iter().map(|prompt| HashEncoder::new(DIM).under(prompt)).collect();
        let encoders: Vec<&dyn Embed> = encoders.iter().map(|encoder| encoder as &dyn Embed).collect();
        data::pairs::build(&config, &encoders, &mut |_| {}).unwrap();
        let dir = config.dir;
        let set = PairSet::open(&dir).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_pairs.py");
        let output = Command::new(&python).arg(script).arg(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let rows: Vec<serde_json::Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), set.len());
        for (row, found) in rows.iter().enumerate() {
            assert_eq!(found["text"], set.text(row));
            assert_eq!(found["source"], set.source(row));
            assert_eq!(found["domain"], set.domain(row));
            assert_eq!(found["split"], set.split(row).unwrap().as_str());
            assert_eq!(found["prompt"], set.prompt(row));
            assert_eq!(found["space"], serde_json::to_value(set.space()).unwrap());
            let vector: Vec<f32> = serde_json::from_value(found["vector"].clone()).unwrap();
            assert_eq!(vector, set.vector(row));
        }
    }
}
