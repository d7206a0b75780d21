//! Trainings from start to end on a tiny decoder: resumed equals uninterrupted, and nothing is lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod going_on;
mod normalization;
mod plan;
mod refinement;
mod small;

use std::path::Path;
use std::sync::atomic::Ordering;

use small::{Small, bytes};
use training::metric_sink::{Event, StepMetrics};
use training::{Error, NullSink, Reason, TrainOptions, train};

fn resume() -> TrainOptions {
    TrainOptions { resume: true, ..TrainOptions::default() }
}

/// Trains and collects what each step told.
fn steps(
    resolved: &training::recipe::Resolved,
    options: &TrainOptions,
    stop_at: Option<u64>,
) -> Vec<StepMetrics> {
    let mut told = Vec::new();
    let mut sink = |event: &Event| {
        if let Event::Step(metrics) = event {
            if Some(metrics.step) == stop_at {
                options.stop.store(true, Ordering::Relaxed);
            }
            told.push(metrics.clone());
        }
    };
    train(resolved, options, &mut sink).unwrap();
    told
}

#[test]
fn a_resumed_run_equals_one_that_never_stopped() {
    resumed_as_never_stopped(&[]);
    resumed_as_never_stopped(&["optimizer.kind=muon", "decoder.input_normalization=robust"]);
    resumed_as_never_stopped(&PERTURBED);
}

/// All that is drawn for the texts of a step.
const PERTURBED: [&str; 4] =
    ["noise.share=0.6", "noise.withheld=0.2", "training.length_told=0.5", "training.word_dropout=0.2"];

fn resumed_as_never_stopped(sets: &[&str]) {
    let small = Small::new();
    let whole = steps(&small.recipe("whole", sets), &TrainOptions::default(), None);
    assert_eq!(whole.len(), 12);
    assert!(whole[11].loss < whole[0].loss, "{} -> {}", whole[0].loss, whole[11].loss);

    // stopped twice: once at a step that has no checkpoint of its own, once right after one
    let parted = small.recipe("parted", sets);
    let mut told = steps(&parted, &TrainOptions::default(), Some(3));
    told.extend(steps(&parted, &resume(), Some(8)));
    told.extend(steps(&parted, &resume(), None));
    let losses = |told: &[StepMetrics]| told.iter().map(|m| (m.step, m.loss.to_bits())).collect::<Vec<_>>();
    assert_eq!(losses(&whole), losses(&told));
    for name in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
        assert!(
            bytes(&small.run("whole"), 12, name) == bytes(&small.run("parted"), 12, name),
            "{name} differs"
        );
    }
    let state = |run: &str| {
        training::checkpoint::read_state(&small.run(run).join("checkpoints/step-00000012")).unwrap()
    };
    let (whole, parted) = (state("whole"), state("parted"));
    assert_eq!(
        (whole.cursor, whole.tokens_seen, whole.best),
        (parted.cursor, parted.tokens_seen, parted.best)
    );
    assert!(parted.elapsed_seconds > 0.0);

    // each step stands once in the record, and there are no more checkpoints than are to be kept
    let record = fs_err::read_to_string(small.run("parted").join("metrics.jsonl")).unwrap();
    let of_steps = record.lines().filter(|line| line.contains("\"kind\":\"step\"")).count();
    assert_eq!(of_steps, 12);
    let kept = fs_err::read_dir(small.run("parted").join("checkpoints")).unwrap().count();
    assert!(kept <= 2 + 1 + 2, "{kept} entries in checkpoints/");
}

#[test]
fn a_run_killed_while_it_saved_goes_on() {
    let small = Small::new();
    let recipe = small.recipe("killed", &[]);
    steps(&recipe, &TrainOptions::default(), Some(6));
    let leftover = small.run("killed").join("checkpoints/.step-00000008.tmp");
    fs_err::create_dir(&leftover).unwrap();
    fs_err::write(leftover.join("model.safetensors"), "half").unwrap();
    let outcome = train(&recipe, &resume(), &mut NullSink).unwrap();
    assert_eq!((outcome.steps, outcome.steps_here, outcome.reason), (12, 6, Reason::Steps));
    assert!(!leftover.exists());
    // a finished run is finished
    let again = train(&recipe, &resume(), &mut NullSink).unwrap();
    assert_eq!((again.steps, again.steps_here), (12, 0));
    let longer =
        train(&small.recipe("killed", &["training.max_steps=14"]), &resume(), &mut NullSink).unwrap();
    assert_eq!((longer.steps, longer.steps_here), (14, 2));
}

#[test]
fn parts_of_a_batch_give_the_batch() {
    let small = Small::new();
    let whole = steps(&small.recipe("one", &["training.max_steps=4"]), &TrainOptions::default(), None);
    let sets = ["training.max_steps=4", "training.accumulate=5"];
    let parts = steps(&small.recipe("five", &sets), &TrainOptions::default(), None);
    for (a, b) in whole.iter().zip(&parts) {
        assert!((a.loss - b.loss).abs() < 1e-5, "step {}: {} and {}", a.step, a.loss, b.loss);
        let farthest = 1e-3 * a.grad_norm;
        assert!(
            (a.grad_norm - b.grad_norm).abs() < farthest,
            "step {}: {} and {}",
            a.step,
            a.grad_norm,
            b.grad_norm
        );
        assert_eq!(a.tokens_seen, b.tokens_seen);
    }
}

#[test]
fn bf16_follows_f32() {
    let small = Small::new();
    let f32 = steps(&small.recipe("f32", &["training.max_steps=6"]), &TrainOptions::default(), None);
    let sets = ["training.max_steps=6", "training.dtype=bf16", "training.accumulate=2"];
    let bf16 = steps(&small.recipe("bf16", &sets), &TrainOptions::default(), None);
    for (a, b) in f32.iter().zip(&bf16) {
        assert!((a.loss - b.loss).abs() < 0.02, "step {}: {} and {}", a.step, a.loss, b.loss);
    }
}

#[test]
fn a_loss_that_is_no_number_stops_and_keeps_the_data() {
    let small = Small::new();
    let far = ["optimizer.learning_rate=1e30", "training.clip_norm=0", "schedule.warmup_steps=0"];
    let recipe = small.recipe("nan", &[&far[..], &PERTURBED].concat());
    let error = train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap_err();
    let Error::NonFinite { step, folder, .. } = &error else { panic!("{error}") };
    assert!(*step > 1);
    assert!(error.hint().unwrap().contains("learning_rate"));
    for name in ["batch.safetensors", "texts.jsonl", "failure.json"] {
        assert!(folder.join(name).exists(), "{name}");
    }
    let weights = models::Weights::open(folder.join("batch.safetensors")).unwrap();
    for name in ["vectors", "clean_vectors", "noise", "lengths", "withheld", "tokens", "targets"] {
        assert!(weights.contains(&format!("0.{name}")), "{name}");
    }
    let kept = fs_err::read_to_string(folder.join("texts.jsonl")).unwrap();
    assert!(kept.lines().count() > 10 && kept.contains("\"vector_is_finite\":true"));
}

#[test]
fn another_recipe_and_a_second_start_are_refused() {
    let small = Small::new();
    let recipe = small.recipe("run", &["training.max_steps=2"]);
    train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap();
    let error = train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap_err();
    assert!(matches!(error, Error::RunExists { .. }), "{error}");
    let other = small.recipe("run", &["decoder.layers=3", "optimizer.beta1=0.5", "training.clip_norm=3"]);
    let error = train(&other, &resume(), &mut NullSink).unwrap_err().to_string();
    assert!(error.contains("decoder.layers: the run has 2, the recipe 3"), "{error}");
    assert!(error.contains("optimizer.beta1") && !error.contains("clip_norm"), "{error}");
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let small = Small::new();
    let recipe = small.recipe("full", &["training.max_steps=4"]);
    train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap();
    // a file stands where the folder of the next checkpoint is to be made
    let checkpoints = small.run("full").join("checkpoints");
    let longer = small.recipe("full", &["training.max_steps=8"]);
    let mut sink = |event: &Event| {
        if matches!(event, Event::Step(metrics) if metrics.step == 7) {
            fs_err::write(checkpoints.join("step-00000008"), "in the way").unwrap();
            fs_err::create_dir(checkpoints.join(".step-00000008.old.tmp")).unwrap();
            fs_err::write(checkpoints.join(".step-00000008.old.tmp/x"), "").unwrap();
        }
    };
    let error = train(&longer, &resume(), &mut sink).unwrap_err();
    assert!(matches!(error, Error::CheckpointWrite { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--resume"));
    let latest = fs_err::read_to_string(checkpoints.join("latest")).unwrap();
    assert!(checkpoints.join(latest.trim()).join("model.safetensors").exists());
}

#[test]
fn a_damaged_checkpoint_is_named() {
    let small = Small::new();
    let recipe = small.recipe("damaged", &["training.max_steps=2"]);
    train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap();
    let model = small.run("damaged").join("checkpoints/step-00000002/model.safetensors");
    let whole = fs_err::read(&model).unwrap();
    fs_err::write(&model, &whole[..whole.len() / 2]).unwrap();
    let error =
        train(&small.recipe("damaged", &["training.max_steps=3"]), &resume(), &mut NullSink).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
}

/// The checkpoint that a pointer names.
fn pointed(run: &Path, pointer: &str) -> String {
    fs_err::read_to_string(run.join("checkpoints").join(pointer)).unwrap().trim().to_owned()
}

#[test]
fn a_folder_without_a_checkpoint_begins_with_its_own_tokenizer() {
    let small = Small::new();
    let run = small.run("afresh");
    let recipe = |vocab: &str| small.recipe("afresh", &["training.max_steps=1", vocab]);
    train(&recipe("tokenizer.vocab=300"), &TrainOptions::default(), &mut NullSink).unwrap();
    let first = fs_err::read(run.join("tokenizer.json")).unwrap();
    fs_err::remove_dir_all(run.join("checkpoints")).unwrap();
    train(&recipe("tokenizer.vocab=320"), &TrainOptions::default(), &mut NullSink).unwrap();
    assert_ne!(first, fs_err::read(run.join("tokenizer.json")).unwrap());
    let shape: serde_json::Value =
        serde_json::from_slice(&fs_err::read(run.join("decoder.json")).unwrap()).unwrap();
    assert_eq!(shape["vocab"], 320);
}

#[test]
fn another_tokenizer_is_refused() {
    let small = Small::new();
    train(&small.recipe("run", &["training.max_steps=1"]), &TrainOptions::default(), &mut NullSink).unwrap();
    let path = small.run("run").join("tokenizer.json");
    let mut text = fs_err::read_to_string(&path).unwrap();
    text.push('\n');
    fs_err::write(&path, text).unwrap();
    let longer = small.recipe("run", &["training.max_steps=2"]);
    let error = train(&longer, &resume(), &mut NullSink).unwrap_err();
    assert!(matches!(error, Error::OtherTokenizer { .. }), "{error}");
    assert!(error.to_string().contains("tokenizer.json") && error.hint().is_some(), "{error}");
}

#[test]
fn a_run_goes_on_from_an_older_checkpoint() {
    let small = Small::new();
    let recipe = small.recipe("back", &["training.keep_last=10"]);
    train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap();
    let run = small.run("back");
    let whole = bytes(&run, 12, "model.safetensors");
    assert_eq!(pointed(&run, "best"), "step-00000012");

    fs_err::write(run.join("checkpoints/latest"), "step-00000004\n").unwrap();
    steps(&recipe, &resume(), Some(6));
    assert_eq!(pointed(&run, "latest"), "step-00000006");
    let checkpoints = run.join("checkpoints");
    for (step, is_there) in [(4, true), (5, true), (6, true), (8, false), (12, false)] {
        assert_eq!(checkpoints.join(format!("step-{step:08}")).exists(), is_there, "step {step}");
    }
    assert_eq!(pointed(&run, "best"), "step-00000005", "the one that was best by then");
    train(&recipe, &resume(), &mut NullSink).unwrap();
    assert!(bytes(&run, 12, "model.safetensors") == whole, "the same steps again");
}

#[test]
fn the_end_is_evaluated_once() {
    let small = Small::new();
    let evaluations = |max_steps: u64, options: &TrainOptions| {
        let mut told = Vec::new();
        let mut sink = |event: &Event| {
            if let Event::Dev(metrics) = event {
                told.push(metrics.step);
            }
        };
        let sets = [format!("training.max_steps={max_steps}"), "training.eval_every=0".to_owned()];
        let recipe = small.recipe("end", &sets.each_ref().map(String::as_str));
        let outcome = train(&recipe, options, &mut sink).unwrap();
        (told, outcome.best.unwrap().step)
    };
    // 8 is a multiple of checkpoint_every: the checkpoint is there before the evaluation
    assert_eq!(evaluations(8, &TrainOptions::default()), (vec![8], 8));
    assert_eq!(pointed(&small.run("end"), "best"), "step-00000008");
    assert_eq!(evaluations(8, &resume()), (vec![], 8));
    assert_eq!(evaluations(9, &resume()).0, [9]);
}

#[test]
fn a_learning_rate_may_change_on_the_way() {
    let small = Small::new();
    train(&small.recipe("rate", &["training.max_steps=2"]), &TrainOptions::default(), &mut NullSink).unwrap();
    let sets = ["training.max_steps=4", "optimizer.learning_rate=1e-4", "schedule.kind=constant"];
    let told = steps(&small.recipe("rate", &sets), &resume(), None);
    assert_eq!(told.last().map(|metrics| metrics.learning_rate), Some(1e-4));
    let log = fs_err::read_to_string(small.run("rate").join("log.txt")).unwrap();
    assert!(log.contains("changed: optimizer.learning_rate 0.001 -> 0.0001"), "{log}");
}

#[test]
fn a_checkpoint_of_another_type_is_refused() {
    let small = Small::new();
    let sets = ["training.max_steps=2"];
    train(&small.recipe("type", &sets), &TrainOptions::default(), &mut NullSink).unwrap();
    for file in ["ema.safetensors", "optimizer.safetensors"] {
        let path = small.run("type").join("checkpoints/step-00000002").join(file);
        let whole = fs_err::read(&path).unwrap();
        {
            let weights = models::Weights::open(&path).unwrap();
            let tensor = |name: &str| {
                let tensor = weights.get(name, &weights.shape(name).unwrap()).unwrap();
                let is_cut = name.ends_with("model.norm.weight");
                if is_cut { tensor.to_kind(tch::Kind::BFloat16) } else { tensor.copy() }
            };
            let tensors: Vec<_> = weights.names().map(|name| (name.to_owned(), tensor(name))).collect();
            models::save_tensors(&path, &tensors, &Default::default()).unwrap();
        }
        let error = train(&small.recipe("type", &["training.max_steps=3"]), &resume(), &mut NullSink);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("model.norm.weight"), "{error}");
        assert!(error.contains("BFloat16"), "{error}");
        fs_err::write(&path, whole).unwrap();
    }
}

#[test]
fn rows_of_all_prompts_are_learnt_from_alike() {
    let prompts = ["none", "s2p", "s2s"];
    let (one, several) = (Small::new(), Small::under(&prompts));
    let prepared = |small: &Small| {
        let recipe = small.recipe("prepared", &["training.eval_texts=21", "eval.texts=5"]).recipe;
        training::prepare::prepare(&recipe).unwrap()
    };
    let (single, triple) = (prepared(&one), prepared(&several));
    assert_eq!(triple.train.len(), 3 * single.train.len());
    assert_eq!(triple.train.total(), 3 * single.train.total());
    let text = |at: usize| triple.train.targets(at as u32).collect::<Vec<_>>();
    for first in (0..triple.train.len()).step_by(3) {
        assert_eq!((text(first), text(first)), (text(first + 1), text(first + 2)));
        assert_eq!(triple.train.row(first as u32 + 2), triple.train.row(first as u32) + 2);
    }
    // the vocabulary is that of the texts, however often they stand there
    let tokens = |at: u32| single.train.targets(at).collect::<Vec<_>>();
    assert_eq!(text(30), tokens(10));
    // dev texts come with all their rows, in the order of texts that one prompt has
    assert_eq!((single.dev.len(), triple.dev.len()), (21, 21));
    let first = |prepared: &training::prepare::Prepared, at: u32| {
        prepared.pairs.text(prepared.dev.row(at) as usize).to_owned()
    };
    for at in 0..7 {
        assert_eq!(first(&single, at), first(&triple, 3 * at));
        let row = |of: u32| triple.dev.row(3 * at + of) as usize;
        assert_eq!([0, 1, 2].map(|of| triple.pairs.prompt(row(of))), prompts);
    }

    let told = steps(&several.recipe("run", &[]), &TrainOptions::default(), None);
    assert_eq!(told.len(), 12);
    let space = models::Space::read(&several.run("run").join("space.json")).unwrap();
    assert_eq!(space.prompts().map(|prompt| prompt.name.as_str()).collect::<Vec<_>>(), prompts);
    // pairs of fewer prompts are not those that the run began with
    let pairs = format!("pairs.dir={}", one.path("pairs").display());
    let resolved = several.recipe("run", &["training.max_steps=14", &pairs]);
    let error = train(&resolved, &resume(), &mut NullSink).unwrap_err().to_string();
    assert!(error.contains("(prompt)") && error.contains("the run"), "{error}");
}
