//! Several prompts: a row of every text under each, together and in order, whatever interrupts the build.

use std::collections::BTreeMap;

use data::Error;
use data::curation::{Filter, Split};
use data::pairs::{BuildConfig, BuildReport, Outcome, PairSet, build, inspect};
use fs_err as fs;
use models::Embed;
use models::space::Prompt;
use proptest::prelude::*;

use crate::build::{DIM, config, config_of, contents, sentence, write_lines};
use crate::encoder::{Fault, HashEncoder};

const THREE: [&str; 3] = ["none", "s2p", "s2s"];

fn encoders(prompts: &[&str]) -> Vec<HashEncoder> {
    prompts.iter().map(|prompt| HashEncoder::new(DIM).under(prompt)).collect()
}

fn run(config: &BuildConfig, encoders: &[HashEncoder]) -> data::Result<BuildReport> {
    let encoders: Vec<&dyn Embed> = encoders.iter().map(|encoder| encoder as &dyn Embed).collect();
    build(config, &encoders, &mut |_| {})
}

#[test]
fn every_text_has_a_vector_under_each_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "pairs", 250);
    let encoders = encoders(&THREE);
    let report = run(&config, &encoders).unwrap();
    let manifest = &report.manifest;
    // 33 texts fit into 100 rows
    assert_eq!((manifest.pairs, manifest.shards.len(), manifest.shards[0].rows), (750, 8, 99));
    assert_eq!(manifest.counts.prompt, THREE.map(|prompt| (prompt.to_owned(), 250)).into());
    assert_eq!(manifest.counts.tokens, BTreeMap::from([(20, 750)]), "15 words, and 5 of the prompt");
    assert!(manifest.cosine_loss.is_some_and(|loss| loss.mean > 0.0 && loss.max < 1e-6));
    let names: Vec<_> = manifest.space.prompts().map(|prompt| prompt.name.as_str()).collect();
    assert_eq!(names, THREE);
    // a shard's texts all under one prompt, then all under the next
    assert!(encoders.iter().all(|encoder| encoder.calls.get() == 8));

    let set = PairSet::open(&config.dir).unwrap();
    set.verify().unwrap();
    for (shard, start) in (0..750).step_by(99).enumerate() {
        let end = (start + 99).min(750);
        let texts: Vec<&str> = (start..end).step_by(3).map(|row| set.text(row)).collect();
        for (at, encoder) in encoders.iter().enumerate() {
            let rows: Vec<usize> = (start + at..end).step_by(3).collect();
            assert!(rows.iter().zip(&texts).all(|(&row, text)| set.text(row) == *text));
            assert!(rows.iter().all(|&row| set.prompt(row) == THREE[at]));
            let difference = (encoder.embed(&texts).unwrap() - set.vectors(&rows)).abs().max();
            assert!(difference.double_value(&[]) < 5e-4, "shard {shard}, prompt {at}");
        }
    }
    let seen = inspect(&set, 9, 0).unwrap();
    assert!(seen.samples.iter().all(|sample| sample.prompt == set.prompt(sample.row)));
    let shown = seen.to_string();
    assert!(shown.contains("prompt    none 250 · s2p 250 · s2s 250"), "{shown}");
    for told in [shown, report.to_string()] {
        assert!(told.contains("f16, which costs a cosine of") && told.contains("on average"), "{told}");
    }
}

#[test]
fn rows_of_a_prompt_are_found_by_its_text() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "pairs", 250);
    run(&config, &encoders(&THREE)).unwrap();
    let set = PairSet::open(&config.dir).unwrap();
    let mut all = Vec::new();
    for prompt in set.space().prompts() {
        let renamed = Prompt { name: "another name".into(), ..prompt.clone() };
        let rows = set.indices_under(Split::Dev, &renamed).unwrap();
        assert!(rows.iter().all(|&row| set.prompt(row as usize) == prompt.name));
        all.extend(rows);
    }
    all.sort_unstable();
    assert_eq!(all, set.indices(Split::Dev).unwrap());
    assert!(!all.is_empty());
    let stranger = Prompt { name: "web".into(), text: "web: ".into() };
    let error = set.indices_under(Split::Dev, &stranger).unwrap_err();
    assert!(error.to_string().contains("\"web\" (it has: none, s2p, s2s)"), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn rows_are_complete_in_order_and_never_parted() {
    let folder = tempfile::tempdir().unwrap();
    let cases = (1usize..=4, 1usize..=25, 1usize..=40);
    let case = std::cell::Cell::new(0);
    proptest!(ProptestConfig::with_cases(16), |((prompts, shard_rows, texts) in cases)| {
        case.set(case.get() + 1);
        let names: Vec<String> = (0..prompts).map(|i| format!("prompt{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut config = config(folder.path(), &format!("pairs-{}", case.get()), texts);
        config.shard_rows = shard_rows;
        let manifest = run(&config, &encoders(&names)).unwrap().manifest;
        prop_assert_eq!(manifest.pairs, (prompts * texts) as u64);
        let whole = (shard_rows / prompts).max(1) * prompts;
        let (last, before) = manifest.shards.split_last().unwrap();
        prop_assert!(before.iter().all(|shard| shard.rows == whole as u64));
        prop_assert!(last.rows % prompts as u64 == 0 && last.rows <= whole as u64);
        let set = PairSet::open(&config.dir).unwrap();
        let mut found = Vec::new();
        for row in 0..set.len() {
            prop_assert_eq!(set.prompt(row), names[row % prompts]);
            let first = row - row % prompts;
            prop_assert_eq!(set.text(row), set.text(first));
            prop_assert_eq!(set.split(row).unwrap(), set.split(first).unwrap());
            if row == first {
                found.push(set.text(row).to_owned());
            }
        }
        let mut expected: Vec<String> = (0..texts).map(sentence).collect();
        found.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
    });
}

#[test]
fn interrupted_under_any_prompt_it_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let whole = config(folder.path(), "whole", 250);
    run(&whole, &encoders(&THREE)).unwrap();
    let broken = config(folder.path(), "broken", 250);
    for (at, prompt) in THREE.iter().enumerate() {
        let mut encoders = encoders(&THREE);
        encoders[at] = HashEncoder::with_fault(DIM, Fault::Fail(2)).under(prompt);
        let error = run(&broken, &encoders).unwrap_err();
        assert!(error.to_string().contains("the encoder broke"), "{error}");
    }
    let mut told = Vec::new();
    let encoders = encoders(&THREE);
    let encoders: Vec<&dyn Embed> = encoders.iter().map(|encoder| encoder as &dyn Embed).collect();
    let report = build(&broken, &encoders, &mut |at| told.push((at.done, at.total))).unwrap();
    assert_eq!((report.outcome, report.resumed_shards), (Outcome::Resumed, 6));
    // texts are counted, not rows
    assert_eq!(told, [(7 * 33, Some(250)), (250, Some(250))]);
    assert_eq!(contents(&broken.dir), contents(&whole.dir));
}

#[test]
fn other_prompts_are_another_pair_set() {
    let folder = tempfile::tempdir().unwrap();
    let finished = config(folder.path(), "finished", 130);
    run(&finished, &encoders(&THREE)).unwrap();
    let before = contents(&finished.dir);
    let unfinished = config(folder.path(), "unfinished", 130);
    let mut faulty = encoders(&THREE);
    faulty[2].fault = Fault::Fail(1);
    run(&unfinished, &faulty).unwrap_err();
    for config in [&finished, &unfinished] {
        let error = run(config, &encoders(&["s2p", "none", "s2s"])).unwrap_err();
        let wanted =
            "encoder.prompts: [\"none\", \"s2p\", \"s2s\"] there, [\"s2p\", \"none\", \"s2s\"] wanted";
        assert!(error.to_string().contains(wanted), "{error}");
        let error = run(config, &encoders(&["none", "s2p"])).unwrap_err();
        assert!(matches!(&error, Error::Models(models::Error::SpaceMismatch { .. })), "{error}");
    }
    assert_eq!(contents(&finished.dir), before);
    // a folder of an earlier layout is not mixed with this one's
    let manifest = finished.dir.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"format\": 2", "\"format\": 1", 1)).unwrap();
    let error = run(&finished, &encoders(&THREE)).unwrap_err();
    assert!(matches!(error, Error::PairSetFormat { found: 1, .. }), "{error}");
}

#[test]
fn a_text_must_fit_under_every_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.txt");
    // the encoder reads 64 words, of which a prompt takes 5
    let words = |n: usize| (0..n).map(|i| format!("word{}", char::from(b'a' + (i % 26) as u8)));
    write_lines(&file, [59, 60, 64].map(|n| words(n).collect::<Vec<_>>().join(" ")).into_iter());
    let corpora = serde_json::json!([{"name": "a", "path": file, "format": "text"}]);
    for (prompts, kept, longest) in [(&["none"][..], 3, 64), (&["none", "s2p"], 1, 64)] {
        let config = config_of(folder.path(), &format!("pairs-{}", prompts.len()), &corpora);
        let manifest = run(&config, &encoders(prompts)).unwrap().manifest;
        assert_eq!(manifest.pairs, kept * prompts.len() as u64);
        assert_eq!(manifest.flow.drops.get(Filter::MaxTokens), 3 - kept);
        assert_eq!(manifest.counts.tokens.last_key_value().unwrap().0, &longest);
    }
}
