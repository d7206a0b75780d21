//! What a plan says of a training, and that it leaves nothing.

use training::{Error, PlanOptions};

use crate::small::Small;

#[test]
fn a_plan_says_what_would_be_and_leaves_nothing() {
    let small = Small::new();
    let recipe = small.recipe("plan", &["encoder.device=cpu"]).recipe;
    let plan = training::plan(&recipe, &PlanOptions::default()).unwrap();
    let step = plan.first_step.unwrap();
    assert!((step.loss - (plan.vocabulary as f64).ln()).abs() < 0.3, "{}", step.loss);
    assert!(plan.measured && plan.steps_per_epoch.unwrap() > 5 && plan.padding_percent.unwrap() < 20.0);
    assert_eq!(plan.memory.optimizer, plan.parameters.total as u64 * 8);
    // a second decoder evaluates, and the encoder is nowhere to be found
    let m = plan.memory;
    assert_eq!((m.evaluation, m.encoder), (plan.parameters.total as u64 * 4, None));
    let parts = m.weights + m.gradients + m.optimizer + m.averages + m.activations + m.evaluation;
    assert_eq!(m.total, parts);
    assert!(plan.to_string().contains("the encoder no-such-encoder is on the same device"), "{plan}");
    let muon =
        training::plan(&small.recipe("plan", &["optimizer.kind=muon"]).recipe, &PlanOptions::default());
    let by_muon = (plan.parameters.blocks + plan.parameters.projector) as u64;
    assert_eq!(muon.unwrap().memory.optimizer, plan.memory.optimizer - 4 * by_muon);
    assert!(plan.to_string().contains("tokens/s"));
    assert!(!small.run("plan").exists());
}

#[test]
fn a_plan_without_a_step_measures_the_same_texts() {
    let small = Small::new();
    let recipe = small.recipe("paper", &[]).recipe;
    let with = training::plan(&recipe, &PlanOptions::default()).unwrap();
    let on_paper = PlanOptions { on_paper: true, ..PlanOptions::default() };
    let without = training::plan(&recipe, &on_paper).unwrap();
    assert!(without.first_step.is_none() && without.device == "H200", "{}", without.device);
    assert_eq!(
        (with.texts, with.tokens_per_epoch, with.cost, &with.fits),
        (without.texts, without.tokens_per_epoch, without.cost, &without.fits)
    );
    // the time is reckoned for the texts that are there, with their padding
    let cost = with.cost;
    assert_eq!(cost.pairs, with.texts.unwrap() as u64);
    let tokens = with.tokens_per_epoch.unwrap() as f64;
    assert!((cost.tokens_per_text - tokens / cost.pairs as f64).abs() < 1e-9);
    let padded = cost.pass_flops / (cost.peak * cost.mfu) / (1.0 - with.padding_percent.unwrap() / 100.0);
    assert!((cost.pass_seconds / padded - 1.0).abs() < 1e-9);

    // or for those that are asked for
    let more = PlanOptions { pairs: Some(1_000_000), tokens_per_text: Some(10.0), ..on_paper };
    let cost = training::plan(&recipe, &more).unwrap().cost;
    assert_eq!((cost.pairs, cost.tokens_per_text), (1_000_000, 10.0));
}

#[test]
fn a_plan_without_pairs_needs_the_dimension() {
    let small = Small::new();
    let away = format!("pairs.dir={}", small.run("no-pairs").display());
    let of =
        |sets: &[&str], options: &PlanOptions| training::plan(&small.recipe("away", sets).recipe, options);
    let error = of(&[&away], &PlanOptions::default()).unwrap_err();
    assert!(matches!(error, Error::UnknownDim { .. }), "{error}");
    assert!(error.hint().unwrap().contains("encoder.dim"));

    let sets = [away.as_str(), "encoder.dim=16", "tokenizer.vocab=400"];
    let plan = of(&sets, &PlanOptions::default()).unwrap();
    assert!(!plan.measured && plan.texts.is_none() && plan.first_step.is_none());
    assert_eq!((plan.dim, plan.vocabulary, plan.cost.pairs), (16, 400, training::plan::PAIRS));
    assert!(plan.notes[0].contains("no-pairs"), "{:?}", plan.notes);

    let too_long = PlanOptions { tokens_per_text: Some(1e4), ..PlanOptions::default() };
    let error = of(&sets, &too_long).unwrap_err();
    assert!(error.is_about_arguments() && error.to_string().contains("decoder.max_tokens"), "{error}");
}

#[test]
fn a_plan_counts_the_encoder_where_one_is_needed() {
    let small = Small::encoded("bert", "none");
    let paper = PlanOptions { on_paper: true, ..PlanOptions::default() };
    let of = |sets: &[&str]| training::plan(&small.recipe("counts", sets).recipe, &paper).unwrap();
    let without = of(&["eval.texts=0"]);
    assert_eq!(without.memory.encoder, Some(0));
    assert!(!without.to_string().contains("+ encoder"), "{without}");
    for needs_it in ["eval.texts=1", "refinement.share=0.5", "consistency.kind=sampled"] {
        let set = if needs_it.starts_with("eval") { needs_it } else { "eval.texts=0" };
        let with = of(&[set, needs_it]);
        let encoder = with.memory.encoder.unwrap();
        assert!(encoder > 4 * 139 * 32, "{needs_it}: {encoder}");
        assert_eq!(with.fits[0].needs, with.memory.total);
        assert!(with.to_string().contains("+ encoder"), "{with}");
    }
}
