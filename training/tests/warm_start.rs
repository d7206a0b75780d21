//! Trainings that start from a pre-trained model (models/tests/golden/make_pretrained.py): what the recipe may say of it,
//! and that a run needs it once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, non_snake_case)]

#[path = "run/small.rs"]
mod small;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use models::{
    DeviceChoice, Dtype, ExportOptions, GenerateOptions, Inverter, StartedFrom, check_golden, write_export,
};
use small::{Small, bytes};
use training::metric_sink::Event;
use training::recipe::{Recipe, Resolved, load};
use training::{Error, NullSink, PlanOptions, SpeedOptions, TrainOptions, plan, train};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/golden/pretrained").join(name)
}

/// A copy of a model that can be taken away.
fn copy(small: &Small, name: &str) -> PathBuf {
    let to = small.path(name);
    fs_err::create_dir_all(&to).unwrap();
    for entry in fs_err::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

fn starting(small: &Small, run: &str, model: &Path, sets: &[&str]) -> Resolved {
    let start = format!("decoder.start_from={}", model.display());
    let sets: Vec<&str> =
        [start.as_str(), "optimizer.learning_rate=3e-3"].iter().chain(sets).copied().collect();
    small.recipe(run, &sets)
}

/// Trains to the end, or to a step at which it is asked to stop; the losses of its steps.
fn losses(resolved: &Resolved, options: &TrainOptions, stop_at: Option<u64>) -> Vec<f64> {
    let mut losses = Vec::new();
    let mut sink = |event: &Event| {
        if let Event::Step(metrics) = event {
            if Some(metrics.step) == stop_at {
                options.stop.store(true, Ordering::Relaxed);
            }
            losses.push(metrics.loss);
        }
    };
    train(resolved, options, &mut sink).unwrap();
    losses
}

fn resume() -> TrainOptions {
    TrainOptions { resume: true, ..TrainOptions::default() }
}

#[test]
fn a_run_learns_goes_on_without_the_model_and_is_exported() {
    let small = Small::new();
    for (name, cut) in [("llama", false), ("qwen2", false), ("qwen2", true)] {
        let (run, set) = (format!("{name}-{cut}"), format!("tokenizer.cut={cut}"));
        let model = copy(&small, name);
        let whole = losses(
            &starting(&small, &format!("{run}-whole"), &model, &[&set]),
            &TrainOptions::default(),
            None,
        );
        assert!(whole.len() == 12 && whole.iter().all(|loss| loss.is_finite()), "{whole:?}");
        assert!(whole[11] < 0.9 * whole[0], "{whole:?}");

        losses(&starting(&small, &run, &model, &[&set]), &TrainOptions::default(), Some(8));
        // a run that goes on has all of it
        fs_err::remove_dir_all(&model).unwrap();
        let rest = losses(&starting(&small, &run, &model, &[&set]), &resume(), None);
        assert_eq!(rest, whole[8..]);
        for file in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
            let [one, two] =
                [format!("{run}-whole"), run.clone()].map(|run| bytes(&small.run(&run), 12, file));
            assert!(one == two, "{run}: {file} differs");
        }
        let from = StartedFrom::of_run(&small.run(&run)).unwrap().unwrap();
        assert_eq!((from.model.as_str(), from.revision), (name, None));
        assert!(from.weights_digest.starts_with("blake3:"));
        exports(&small, &run, name, cut);
    }
}

/// The export of a run opens and writes what the run writes; its files name the model's own tokens.
fn exports(small: &Small, run: &str, name: &str, cut: bool) {
    let inverter = Inverter::open(&small.run(run), DeviceChoice::Cpu, Dtype::F32).unwrap();
    let recipe = starting(small, run, Path::new("gone"), &[]).recipe;
    let pairs = data::pairs::PairSet::open(&recipe.pairs.dir).unwrap();
    let golden_ND = pairs.vectors(&[0u32, 1, 2, 3]);
    let out = small.path(&format!("export-{run}"));
    let options = ExportOptions { dtype: Dtype::F32, golden_ND: &golden_ND, readme: "# x\n" };
    write_export(&inverter, &out, &options).unwrap();
    check_golden(&out).unwrap();
    let opened = Inverter::open(&out, DeviceChoice::Cpu, Dtype::F32).unwrap();
    assert_eq!((&opened.config, opened.vocabulary.marks()), (&inverter.config, inverter.vocabulary.marks()));
    let greedy = GenerateOptions::default();
    assert_eq!(opened.invert(&golden_ND, &greedy).unwrap(), inverter.invert(&golden_ND, &greedy).unwrap());

    let json = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&fs_err::read(out.join(file)).unwrap()).unwrap()
    };
    let (config, tokens) = (json("config.json"), json("tokenizer_config.json"));
    let [architecture, bos, eos, pad] = match name {
        "llama" => ["LlamaForCausalLM", "<s>", "</s>", "<s>"],
        _ => ["Qwen2ForCausalLM", "<|endoftext|>", "<|endoftext|>", "<|im_start|>"],
    };
    assert_eq!(config["architectures"][0], architecture);
    assert_eq!([&tokens["bos_token"], &tokens["eos_token"], &tokens["pad_token"]], [bos, eos, pad]);
    assert_eq!(json("tokenizer.json")["padding"]["pad_token"], pad);
    let rows = config["vocab_size"].as_u64().unwrap();
    match (name, cut) {
        ("llama", _) => assert_eq!(rows, 300),
        (_, false) => assert_eq!(rows, 304),
        // these few texts use nearly all of so few tokens
        (_, true) => assert!((259..304).contains(&rows), "{rows}"),
    }
}

#[test]
fn what_stands_beside_the_model_must_agree_with_it() {
    let small = Small::new();
    let model = golden("llama");
    // the file beneath says 16, of another decoder
    let taken = starting(&small, "taken", &model, &["training.max_steps=1"]);
    assert!(taken.recipe.decoder.said.is_empty());
    train(&taken, &TrainOptions::default(), &mut NullSink).unwrap();
    let agreeing =
        ["decoder.hidden=32", "decoder.head_dim=12", "decoder.rope_theta=5e4", "training.max_steps=1"];
    train(&starting(&small, "agreeing", &model, &agreeing), &TrainOptions::default(), &mut NullSink).unwrap();
    for (set, parts) in [
        ("decoder.hidden=512", ["`decoder.hidden` is 512", "hidden_size in", "config.json is 32"]),
        ("decoder.kv_heads=4", ["`decoder.kv_heads` is 4", "num_key_value_heads", "is 2"]),
        ("decoder.tie_embeddings=true", ["is true", "tie_word_embeddings", "is false"]),
    ] {
        let recipe = starting(&small, "other", &model, &[set]);
        let error = train(&recipe, &TrainOptions::default(), &mut NullSink).unwrap_err();
        assert!(matches!(error, Error::OtherShape { .. }) && error.hint().is_some(), "{error}");
        assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    }
    let long = starting(&small, "long", &model, &["decoder.max_tokens=94"]);
    let error = train(&long, &TrainOptions::default(), &mut NullSink).unwrap_err().to_string();
    assert!(error.contains("97 positions") && error.contains("96"), "{error}");
}

#[test]
fn a_recipe_that_starts_from_a_model_is_checked_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let start =
        "[encoder]\nsource = \"x\"\n[training]\nmax_steps = 1\n[decoder]\nstart_from = \"org/model@v1\"\n";
    let read = |text: &str| {
        fs_err::write(at("r.toml"), text).unwrap();
        load(at("r.toml"), &[])
    };
    let refused = |text: &str| read(text).unwrap_err().to_string();
    for (text, part) in [
        (format!("{start}[tokenizer]\nkind = \"bpe\"\n"), "`tokenizer.kind` is said beside"),
        (format!("{start}[tokenizer]\nvocab = 300\n"), "`tokenizer.vocab` is said beside"),
        (start.replace("org/model@v1", " "), "`decoder.start_from` is empty"),
        (
            start.replace("start_from = \"org/model@v1\"", "\n[tokenizer]\ncut = true"),
            "`tokenizer.cut` is true",
        ),
    ] {
        assert!(refused(&text).contains(part), "{}", refused(&text));
    }

    fs_err::write(
        at("under.toml"),
        "[decoder]\nhidden = 48\nheads = 3\nmax_tokens = 40\n[tokenizer]\nkind = \"encoder\"\n",
    )
    .unwrap();
    let resolved = read(&format!("extends = \"under.toml\"\n{start}heads = 9\n")).unwrap();
    let decoder = &resolved.recipe.decoder;
    assert_eq!(decoder.said.iter().collect::<Vec<_>>(), ["decoder.heads"]);
    assert_eq!(
        (decoder.heads, decoder.hidden, decoder.max_tokens),
        (9, Recipe::default().decoder.hidden, 40)
    );
    let shown = resolved.to_toml_with_origins();
    assert!(shown.contains("start_from = \"org/model@v1\"") && shown.contains("heads = 9"), "{shown}");
    assert!(
        !shown.contains("hidden") && !shown.contains("vocab") && !shown.contains("kind = \"encoder\""),
        "{shown}"
    );
    // a run's config.toml says the same again
    let again = read(&resolved.recipe.to_toml().unwrap()).unwrap();
    assert_eq!(again.recipe, resolved.recipe);
}

#[test]
fn plans_and_timings_know_the_model() {
    let small = Small::new();
    let recipe = starting(&small, "planned", &golden("qwen2"), &[]).recipe;
    let found = plan(&recipe, &PlanOptions::default()).unwrap();
    assert_eq!(found.vocabulary, 304);
    assert!(found.first_step.is_some_and(|step| step.loss.is_finite()));
    assert_eq!(found.parameters.blocks, 2 * (32 * 96 + 64 + 3 * 32 * 48 + 64) + 32);
    let alone = std::sync::Arc::new(torch_ext::World::alone());
    let options = SpeedOptions { steps: 2, warmup: 0, muon: false, profile: false, trace: None };
    let speed = training::speed::of_recipe(&recipe, &options, &alone).unwrap().0.speed;
    assert!(speed.loss.is_finite() && speed.parameters == found.parameters.total);
    assert!(!small.run("planned").exists());

    // without pairs, from config.json alone
    let bare = small.path("bare");
    fs_err::create_dir(&bare).unwrap();
    fs_err::copy(golden("qwen2").join("config.json"), bare.join("config.json")).unwrap();
    let pairs = format!("pairs.dir={}", small.path("none").display());
    let on_paper = starting(&small, "paper", &bare, &[&pairs, "encoder.dim=16"]).recipe;
    let paper = plan(&on_paper, &PlanOptions::default()).unwrap();
    assert_eq!((paper.vocabulary, paper.parameters), (304, found.parameters));
}
