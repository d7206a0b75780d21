//! Trainings from start to end on a tiny decoder: resumed equals uninterrupted, and nothing is lost on the way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod small;

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
    let small = Small::new();
    let whole = steps(&small.recipe("whole", &[]), &TrainOptions::default(), None);
    assert_eq!(whole.len(), 12);
    assert!(whole[11].loss < whole[0].loss, "{} -> {}", whole[0].loss, whole[11].loss);

    // stopped twice: once at a step that has no checkpoint of its own, once right after one
    let parted = small.recipe("parted", &[]);
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
    let recipe = small
        .recipe("nan", &["optimizer.learning_rate=1e30", "training.clip_norm=0", "schedule.warmup_steps=0"]);
    let error = train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap_err();
    let Error::NonFinite { step, folder, .. } = &error else { panic!("{error}") };
    assert!(*step > 1);
    assert!(error.hint().unwrap().contains("learning_rate"));
    for name in ["batch.safetensors", "texts.jsonl", "failure.json"] {
        assert!(folder.join(name).exists(), "{name}");
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
    let other = small.recipe("run", &["decoder.layers=3", "optimizer.learning_rate=0.5"]);
    let error = train(&other, &resume(), &mut NullSink).unwrap_err().to_string();
    assert!(error.contains("decoder.layers: the run has 2, the recipe 3"), "{error}");
    assert!(error.contains("optimizer.learning_rate"), "{error}");
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

#[test]
fn a_plan_says_what_would_be_and_leaves_nothing() {
    let small = Small::new();
    let recipe = small.recipe("plan", &[]).recipe;
    let plan = training::plan(&recipe).unwrap();
    assert!((plan.first_step.loss - (plan.vocabulary as f64).ln()).abs() < 0.3, "{}", plan.first_step.loss);
    assert!(plan.steps_per_epoch > 5 && plan.padding_percent < 20.0);
    assert_eq!(plan.memory.optimizer, plan.parameters.total as u64 * 8);
    assert!(plan.to_string().contains("tokens/s"));
    assert!(!small.run("plan").exists());
}
