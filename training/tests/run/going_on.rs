//! Where a run goes on, and by what its best checkpoint is chosen.

use std::path::Path;

use serde_json::{Value, json};
use training::checkpoint::{Best, read_state};
use training::{NullSink, TrainOptions, train};

use crate::resume;
use crate::small::Small;

#[test]
fn a_run_killed_before_its_first_latest_goes_on_from_its_checkpoint() {
    let small = Small::new();
    let short = small.recipe("early", &["training.max_steps=4"]);
    train(&short, &TrainOptions::default(), &mut NullSink).unwrap();
    fs_err::remove_file(small.run("early").join("checkpoints/latest")).unwrap();
    let outcome = train(&small.recipe("early", &["training.max_steps=6"]), &resume(), &mut NullSink).unwrap();
    assert_eq!((outcome.steps, outcome.steps_here), (6, 2));
    let latest = fs_err::read_to_string(small.run("early").join("checkpoints/latest")).unwrap();
    assert_eq!(latest.trim(), "step-00000006");
}

/// Makes the best evaluation of a checkpoint better than any other, or takes from it what it was measured on.
fn change_best(run: &Path, step: u64, change: impl FnOnce(&mut Value)) {
    let path = run.join(format!("checkpoints/step-{step:08}/state.json"));
    let mut state: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    change(&mut state["best"]);
    fs_err::write(path, state.to_string()).unwrap();
}

#[test]
fn the_best_begins_anew_with_other_dev_pairs() {
    let small = Small::new();
    let recipe = |run: &str, more: &[&str]| {
        small.recipe(run, &[&["training.max_steps=10", "training.eval_texts=20"][..], more].concat())
    };
    let unbeaten = |run: &str, change: fn(&mut Value)| {
        let begun = recipe(run, &["training.max_steps=5"]);
        let outcome = train(&begun, &TrainOptions::default(), &mut NullSink).unwrap();
        assert_eq!(outcome.best.unwrap().pairs, Some(20));
        change_best(&small.run(run), 5, change);
    };
    let best = |run: &str, more: &[&str]| -> Best {
        train(&recipe(run, more), &resume(), &mut NullSink).unwrap();
        read_state(&small.run(run).join("checkpoints/step-00000010")).unwrap().best.unwrap()
    };
    let unbeatable = |best: &mut Value| best["value"] = json!(1e-6);
    unbeaten("same", unbeatable);
    assert_eq!(best("same", &[]).step, 5);
    unbeaten("other", unbeatable);
    let found = best("other", &["training.eval_texts=30"]);
    assert_eq!((found.step, found.pairs), (10, Some(30)));
    // a run of before did not say on how many
    unbeaten("older", |best| *best = json!({"metric": "dev_loss", "value": 1e-6, "step": 5}));
    assert_eq!(best("older", &["training.eval_texts=30"]).step, 5);
}

#[test]
fn a_run_without_memory_goes_on_in_more_parts() {
    let small = Small::new();
    let sets = ["training.max_steps=2"];
    train(&small.recipe("parts", &sets), &TrainOptions::default(), &mut NullSink).unwrap();
    let sets = ["training.max_steps=4", "training.accumulate=3", "refinement.batch=7"];
    let outcome = train(&small.recipe("parts", &sets), &resume(), &mut NullSink).unwrap();
    assert_eq!((outcome.steps, outcome.steps_here), (4, 2));
}
