//! The recipes in configs/: they load, and the manual among them is complete and right.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use training::PlanOptions;
use training::recipe::{Recipe, load};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("configs")
}

#[test]
fn the_recipes_load() {
    for (name, parameters) in [
        ("captions", 15e6..21e6),
        ("general", 15e6..21e6),
        ("science", 15e6..21e6),
        ("lengths", 19e6..27e6),
        ("all-domains", 90e6..110e6),
        ("demo", 4e6..8e6),
    ] {
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

/// Their name, the range of their parameters.
const STELLA: [(&str, std::ops::Range<f64>); 4] = [
    ("stella-small", 30e6..60e6),
    ("stella-base", 100e6..160e6),
    ("stella-large", 300e6..500e6),
    ("stella-en-1.5b-v5", 0.9e9..1.2e9),
];

#[test]
fn the_stella_recipes_share_encoder_pairs_and_vocabulary() {
    let of = |name: &str| load(configs().join(format!("{name}.toml")), &[]).unwrap().recipe;
    let main = of("stella-en-1.5b-v5");
    assert_eq!(main.encoder.source, "NovaSearch/stella_en_1.5B_v5@d03be74b361d4eb24f42a2fe5bd2e29917df4604");
    assert_eq!((main.encoder.dim, main.encoder.max_tokens), (Some(1024), Some(512)));
    assert_eq!((main.tokenizer.vocab, main.decoder.hidden, main.decoder.max_tokens), (50_000, 2048, 512));
    assert_eq!(main.pairs.dir, Path::new("runs/stella-en-1.5b-v5-pairs"));
    for (name, parameters) in STELLA {
        let recipe = of(name);
        let total = recipe.decoder_config(1024, 50_000, 1, 2, 0).parameters().total as f64;
        assert!(parameters.contains(&total), "{name}: {total} parameters");
        assert_eq!(recipe.run.dir, Path::new("runs").join(name));
        assert_eq!((&recipe.pairs, &recipe.corpus), (&main.pairs, &main.corpus), "{name} has its own pairs");
        assert_eq!(
            (&recipe.curation, recipe.split),
            (&main.curation, main.split),
            "{name} has its own pairs"
        );
        assert_eq!((&recipe.encoder, &recipe.tokenizer), (&main.encoder, &main.tokenizer), "{name}");
        let shape = &recipe.decoder;
        assert_eq!((shape.prefix_tokens, shape.max_tokens), (8, 512), "{name}");
        assert_eq!(
            (shape.ffn % 128, shape.hidden % 128),
            (0, 0),
            "{name}: matrix units like multiples of 128"
        );
    }
}

#[test]
fn the_stella_recipes_can_be_planned_where_nothing_is_there() {
    let (mut work, mut memory) = (0.0, 0);
    for (name, _) in STELLA {
        // tests run in the crate's folder, which has no runs/
        let recipe = load(configs().join(format!("{name}.toml")), &[]).unwrap().recipe;
        let plan = training::plan(&recipe, &PlanOptions::default()).unwrap();
        assert!(!plan.measured && plan.first_step.is_none());
        assert_eq!((plan.dim, plan.vocabulary), (1024, 50_000));
        assert!(plan.fits.iter().all(|fit| fit.fits), "{name}: {:?}", plan.fits);
        assert_eq!(plan.warning(), None);
        let m = plan.memory;
        let parts = m.weights + m.gradients + m.optimizer + m.averages + m.activations + m.evaluation;
        assert_eq!((m.total, m.encoder), (parts, None));
        // masters and bf16 copies, moments, averages, the bf16 decoder that evaluates
        let total = plan.parameters.total as u64;
        assert_eq!((m.weights, m.optimizer, m.averages), (6 * total, 8 * total, 4 * total));
        assert_eq!(m.evaluation, 2 * total);
        assert!(plan.notes.iter().any(|note| note.contains("stella_en_1.5B_v5@")), "{:?}", plan.notes);
        // 6 operations a weight, but the projector is used once a text and the prefix is computed too
        let per_weight = plan.cost.flops_per_token.training / plan.parameters.total as f64;
        assert!((5.5..7.0).contains(&per_weight), "{name}: {per_weight}");
        assert!(plan.cost.flops_per_token.training > work && m.weights > memory, "{name} is no larger");
        (work, memory) = (plan.cost.flops_per_token.training, m.weights);
    }
}

#[test]
fn a_process_of_several_holds_its_share_of_step_and_optimizer() {
    let planned = |sets: &[&str], processes: usize| {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let recipe = load(configs().join("1b.toml"), &sets).unwrap().recipe;
        training::plan(&recipe, &PlanOptions { processes, on_paper: true, ..PlanOptions::default() })
    };
    let sharded = ["distributed.shard_optimizer=true"];
    let memory = |sets: &[&str], processes: usize| planned(sets, processes).unwrap().memory;
    let (alone, one, eight) = (memory(&[], 8), memory(&sharded, 1), memory(&sharded, 8));
    assert_eq!((one.optimizer, alone.optimizer), (8 * eight.optimizer, 8 * eight.optimizer));
    assert!(eight.activations < one.activations && eight.weights == one.weights);
    assert!(planned(&sharded, 8).unwrap().to_string().contains("one of 8 processes"));
    assert!(planned(&[], 0).unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn the_recipes_for_gpus_share_pairs_and_fit_on_an_h100() {
    let of = |name: &str| load(configs().join(format!("{name}.toml")), &[]).unwrap().recipe;
    let pairs = of("300m").pairs;
    for (name, parameters) in [("300m", 300e6..350e6), ("1b", 1e9..1.2e9)] {
        let recipe = of(name);
        assert_eq!((&recipe.pairs, recipe.encoder.dim), (&pairs, Some(384)), "{name}");
        assert_eq!(recipe.run.dir, Path::new("runs").join(name));
        // the larger one by two at least, or in more parts
        let processes = if name == "1b" { 2 } else { 1 };
        let plan = training::plan(&recipe, &PlanOptions { processes, ..PlanOptions::default() }).unwrap();
        assert!(parameters.contains(&(plan.parameters.total as f64)), "{name}: {:?}", plan.parameters);
        assert!(plan.fits.iter().all(|fit| fit.fits), "{name}: {:?}", plan.fits);
    }
}

#[test]
fn a_plan_says_what_does_not_fit() {
    let of = |sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let recipe = load(configs().join("stella-en-1.5b-v5.toml"), &sets).unwrap().recipe;
        training::plan(&recipe, &PlanOptions::default()).unwrap().warning()
    };
    let warning = of(&["training.accumulate=1"]).unwrap();
    assert!(warning.contains("141 GB") && warning.contains("training.accumulate"), "{warning}");
    let warning = of(&["decoder.layers=80", "training.accumulate=64"]).unwrap();
    assert!(warning.contains("a smaller decoder"), "{warning}");
}

#[test]
fn the_five_corpora_are_a_recipe_that_others_extend() {
    let sets = ["encoder.source=x".to_owned(), "training.max_steps=1".to_owned()];
    let folder = tempfile::tempdir().unwrap();
    let mine = folder.path().join("mine.toml");
    fs_err::write(&mine, format!("extends = {:?}\nname = \"mine\"\n", configs().join("corpora.toml")))
        .unwrap();
    let recipe = load(&mine, &sets).unwrap().recipe;
    let corpora = load(configs().join("corpora.toml"), &sets).unwrap().recipe.corpus;
    assert_eq!(recipe.corpus, corpora);
    let domains: Vec<&str> = recipe.corpus.iter().map(|corpus| corpus.domain()).collect();
    assert_eq!(domains, ["general", "sts", "retrieval", "documentation", "science"]);
    for corpus in &recipe.corpus {
        corpus.validate().unwrap();
        assert!(corpus.hub.is_some() && !corpus.columns.is_empty(), "{}", corpus.name);
    }
    assert_eq!((recipe.corpus[0].limit, recipe.corpus[0].sentences), (Some(10_000_000), Some(true)));
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
    // one prompt or several, and a shape or a model that has one, not both
    let alone = |line: &&str| !line.starts_with("prompt = ") && !line.starts_with("start_from = ");
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
