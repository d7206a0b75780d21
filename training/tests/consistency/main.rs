//! The consistency loss on a tiny decoder and tiny real encoders: its gradient, what it does, and that it keeps the rules
//! of the training.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, non_snake_case)]

#[path = "../run/small.rs"]
#[allow(dead_code)]
mod small;

use std::sync::atomic::Ordering;

use models::{Decoder, ParamStore};
use small::{Small, bytes};
use tch::{Device, Kind, Tensor};
use training::batch::Batch;
use training::consistency::{Consistency, ConsistencyResult};
use training::loss::LossOptions;
use training::metric_sink::{Event, StepMetrics};
use training::optimizer::{AdamWConfig, Optimizer, OptimizerConfig};
use training::prepare::{Prepared, prepare};
use training::recipe::{Recipe, Resolved};
use training::step::Model;
use training::{Error, NullSink, TrainOptions, train};

/// What all the recipes here have in common: the loss from the first step on, at every step.
const SETS: [&str; 4] =
    ["consistency.begin=0", "consistency.ramp=0", "consistency.every=1", "tokenizer.kind=encoder"];

fn recipe(small: &Small, run: &str, sets: &[&str]) -> Resolved {
    small.recipe(run, &[&SETS, sets].concat())
}

/// A fresh decoder with one batch of texts, and the loss of a recipe.
struct Scene {
    model: Model,
    batch: Batch,
    consistency: Consistency,
}

impl Scene {
    fn of(recipe: &Recipe, texts: u32, parts: usize) -> Self {
        let prepared = prepare(recipe).unwrap();
        let mut store = ParamStore::train(Device::Cpu, Kind::Float, 5);
        let decoder = Decoder::new(&prepared.config, &mut store).unwrap();
        let consistency = Consistency::open(recipe, &prepared).unwrap().unwrap();
        Self {
            model: Model::new(store, decoder).unwrap(),
            batch: batch(&prepared, texts, parts),
            consistency,
        }
    }

    /// The gradient of all parameters as one row, with the loss (at step `step`) and without.
    fn gradient(&mut self, step: u64, with: bool) -> (Tensor, Option<ConsistencyResult>) {
        let turn = self.consistency.turn(step, 1.0).filter(|_| with);
        let found = self.model.backward_with(&self.batch, LossOptions::default(), turn).unwrap();
        let flat: Vec<Tensor> = self
            .model
            .gradients()
            .iter()
            .map(|gradient| gradient.reshape([-1]).to_kind(Kind::Double))
            .collect();
        (Tensor::cat(&flat, 0), found.consistency)
    }

    /// Moves all parameters by so much of a row.
    fn shift(&mut self, row: &Tensor, by: f64) {
        let mut start = 0;
        for param in self.model.store.params() {
            let part = row.narrow(0, start, param.numel()).view(param.master.size().as_slice());
            tch::no_grad(|| {
                let _ = param.master.shallow_clone().g_add_(&(part * by).to_kind(Kind::Float));
            });
            start += param.numel();
        }
    }

    /// Steps of AdamW; the mean distances 1 - cosine that they met.
    fn train(&mut self, steps: u64) -> Vec<f64> {
        let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
        let mut optimizer = Optimizer::new(OptimizerConfig { adamw, muon: None }, &self.model.store).unwrap();
        let mut told = Vec::new();
        for step in 0..steps {
            let turn = self.consistency.turn(step, 1.0);
            let found = self.model.backward_with(&self.batch, LossOptions::default(), turn).unwrap();
            self.model.apply(&mut optimizer, found, Some(1.0), 3e-3).unwrap();
            told.push(1.0 - found.consistency.unwrap().cosine);
        }
        told
    }
}

fn batch(prepared: &Prepared, texts: u32, parts: usize) -> Batch {
    let texts: Vec<u32> = (0..texts).collect();
    let collator = prepared.collator(&prepared.train);
    let parts =
        texts.chunks(texts.len().div_ceil(parts)).map(|part| collator.collate(part).unwrap()).collect();
    Batch::whole(parts, Default::default(), 1)
}

/// The first texts as a training has them, with the noise of step 5.
fn perturbed(prepared: &Prepared, texts: u32) -> Batch {
    let texts: Vec<u32> = (0..texts).collect();
    let part = prepared.collator(&prepared.train).collate_at(5, &texts).unwrap();
    Batch::whole(vec![part], Default::default(), 1)
}

fn size(x: &Tensor) -> f64 {
    x.norm().double_value(&[])
}

#[test]
fn the_gradient_of_the_mean_is_that_of_finite_differences() {
    for backbone in ["bert", "new", "qwen2_stella"] {
        let small = Small::encoded(backbone, "none");
        let sets = ["consistency.kind=soft", "consistency.temperature=0.7"];
        let mut scene = Scene::of(&recipe(&small, "fd", &sets).recipe, 6, 1);
        let (with, found) = scene.gradient(0, true);
        let gradient = with - scene.gradient(0, false).0;
        let loss = found.unwrap().loss;
        assert!(loss > 0.0 && size(&gradient) > 1e-3 * loss, "{backbone}: {loss} {}", size(&gradient));
        // along the gradient, where the difference is largest
        let direction = &gradient / size(&gradient);
        let step = 0.02;
        let mut at = |by: f64| {
            scene.shift(&direction, by);
            scene.gradient(0, true).1.unwrap().loss
        };
        let (up, down) = (at(step), at(-2.0 * step));
        let found = (up - down) / (2.0 * step);
        let off = (found / size(&gradient) - 1.0).abs();
        assert!(off < 0.02, "{backbone}: {found} by differences, {} by gradient", size(&gradient));
    }
}

#[test]
fn each_kind_brings_the_vectors_nearer_to_their_targets() {
    let small = Small::encoded("bert", "none");
    for sets in [&["consistency.kind=soft"][..], &["consistency.kind=sampled", "consistency.samples=8"]] {
        // the cross-entropy, which would do so too, has next to no weight
        let weights = ["consistency.weight=1e6", "consistency.similarity_weight=1e6"];
        let mut scene = Scene::of(&recipe(&small, "nearer", &[sets, &weights].concat()).recipe, 8, 1);
        let told = scene.train(100);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&told[..5]), mean(&told[95..]));
        assert!(last < 0.75 * first, "{sets:?}: {first} -> {last}");
    }
}

#[test]
fn parts_give_the_gradient_of_the_whole() {
    let small = Small::encoded("bert", "none");
    // texts of different parts are not compared with each other
    let sets = ["consistency.kind=soft", "consistency.similarity_weight=0", "consistency.texts=7"];
    for estimator in ["mean", "straight_through", "gumbel"] {
        let estimator = format!("consistency.estimator={estimator}");
        let recipe = recipe(&small, "parts", &[&sets[..], &[&estimator]].concat()).recipe;
        let [(whole, one), (parted, three)] = [1, 3].map(|parts| {
            let mut scene = Scene::of(&recipe, 10, parts);
            let (with, found) = scene.gradient(3, true);
            (with - scene.gradient(3, false).0, found.unwrap())
        });
        assert!(size(&whole) > 1e-4, "{}", size(&whole));
        assert!(size(&(&whole - parted)) < 1e-3 * size(&whole), "{estimator}");
        assert!((one.loss - three.loss).abs() < 1e-5 && (one.cosine - three.cosine).abs() < 1e-5);
    }
}

#[test]
fn targets_are_the_vectors_without_noise() {
    let small = Small::encoded("bert", "none");
    let loud = ["noise.share=1", "noise.lowest=3", "noise.highest=3", "consistency.similarity_weight=0"];
    let scene = |kind: &str| {
        let recipe = recipe(&small, "noise", &[&[kind][..], &loud].concat()).recipe;
        let (scene, prepared) = (Scene::of(&recipe, 6, 1), prepare(&recipe).unwrap());
        (scene, perturbed(&prepared, 6), prepared)
    };
    // what is drawn, and what it is compared with, is that of the same texts without noise
    let (mut sampled, noisy, _) = scene("consistency.kind=sampled");
    let clean = sampled.gradient(0, true).1.unwrap();
    sampled.batch = noisy;
    let found = sampled.gradient(0, true).1.unwrap();
    assert!((found.loss - clean.loss).abs() < 1e-6 && (found.cosine - clean.cosine).abs() < 1e-6);

    let (mut soft, noisy, prepared) = scene("consistency.kind=soft");
    let part = &noisy.parts[0];
    let clean_BD = prepared.pairs.vectors(&part.rows);
    assert!(part.vectors().equal(&clean_BD) && !part.condition.v_BD.equal(&clean_BD));
    soft.batch = noisy;
    let found = soft.gradient(0, true).1.unwrap();
    soft.batch.parts[0].clean_BD = Some(-clean_BD);
    let turned = soft.gradient(0, true).1.unwrap();
    assert!((found.cosine + turned.cosine).abs() < 1e-5, "{} {}", found.cosine, turned.cosine);
    assert!((found.cosine - turned.cosine).abs() > 1e-3, "{} {}", found.cosine, turned.cosine);
}

#[test]
fn texts_whose_vector_is_withheld_have_no_target() {
    let small = Small::encoded("bert", "none");
    for kind in ["consistency.kind=soft", "consistency.kind=sampled"] {
        let recipe = recipe(&small, "withheld", &[kind, "noise.withheld=1"]).recipe;
        let mut scene = Scene::of(&recipe, 6, 1);
        scene.batch = perturbed(&prepare(&recipe).unwrap(), 6);
        let (with, found) = scene.gradient(0, true);
        let found = found.unwrap();
        assert_eq!((found.loss, found.cosine), (0.0, 0.0), "{kind}");
        let without = scene.gradient(0, false).0;
        assert!(size(&(&with - &without)) < 1e-6 * size(&without), "{kind}");
    }
}

fn steps(resolved: &Resolved, resume: bool, stop_at: Option<u64>) -> Vec<StepMetrics> {
    let options = TrainOptions { resume, ..TrainOptions::default() };
    let mut told = Vec::new();
    let mut sink = |event: &Event| {
        if let Event::Step(metrics) = event {
            if Some(metrics.step) == stop_at {
                options.stop.store(true, Ordering::Relaxed);
            }
            told.push(metrics.clone());
        }
    };
    train(resolved, &options, &mut sink).unwrap();
    told
}

#[test]
fn a_resumed_run_equals_one_that_never_stopped() {
    let small = Small::encoded("bert", "none");
    for (name, sets) in [
        ("gumbel", ["consistency.kind=soft", "consistency.estimator=gumbel"]),
        ("sampled", ["consistency.kind=sampled", "consistency.texts=4"]),
    ] {
        // every other step, from the third on
        let sets =
            [&sets[..], &["training.max_steps=9", "consistency.every=2", "consistency.begin=0.2"]].concat();
        let (whole, parted) = (format!("{name}-whole"), format!("{name}-parted"));
        let of = |run: &str| recipe(&small, run, &sets);
        let uninterrupted = steps(&of(&whole), false, None);
        let mut told = steps(&of(&parted), false, Some(5));
        told.extend(steps(&of(&parted), true, None));
        let numbers = |told: &[StepMetrics]| -> Vec<_> {
            let bits = |m: &StepMetrics| m.consistency_loss.map(f64::to_bits);
            told.iter().map(|m| (m.step, m.loss.to_bits(), bits(m))).collect()
        };
        assert_eq!(numbers(&uninterrupted), numbers(&told), "{name}");
        let has: Vec<bool> = told.iter().map(|m| m.consistency_loss.is_some()).collect();
        // progress 0.2 is reached at step number 2 (from 0): 2, 4, 6, 8
        assert_eq!(has, [false, false, true, false, true, false, true, false, true], "{name}");
        assert!(told.iter().all(|m| m.consistency_ms.is_none_or(|ms| ms > 0.0)));
        for file in ["model.safetensors", "optimizer.safetensors", "ema.safetensors"] {
            let both = [&whole, &parted].map(|run| bytes(&small.run(run), 9, file));
            assert!(both[0] == both[1], "{name}: {file} differs");
        }
        let record = fs_err::read_to_string(small.run(&whole).join("metrics.jsonl")).unwrap();
        assert_eq!(record.matches("\"consistency_loss\":").count(), 4, "{name}");
    }
}

#[test]
fn without_it_nothing_changes() {
    let small = Small::encoded("bert", "none");
    let plain = steps(&small.recipe("plain", &["tokenizer.kind=encoder"]), false, None);
    // it would begin behind the last step
    let late = ["tokenizer.kind=encoder", "consistency.kind=soft", "consistency.begin=1"];
    let late = steps(&small.recipe("late", &late), false, None);
    let losses = |told: &[StepMetrics]| told.iter().map(|m| m.loss.to_bits()).collect::<Vec<_>>();
    assert_eq!(losses(&plain), losses(&late));
    assert!(late.iter().all(|m| m.consistency_loss.is_none()));
}

#[test]
fn soft_needs_the_encoders_tokens() {
    let small = Small::encoded("bert", "none");
    let sets = ["consistency.kind=soft", "tokenizer.kind=bpe"];
    let error =
        training::recipe::load(small.path("small.toml"), &sets.map(str::to_owned)).unwrap_err().to_string();
    assert!(error.contains("`consistency.kind` is soft") && error.contains("take sampled"), "{error}");

    // the space that ends this prompt is one token with a text's first word
    let prompted = Small::encoded("qwen2_stella", "s2s_query");
    let soft = recipe(&prompted, "soft", &["consistency.kind=soft"]);
    let error = train(&soft, &TrainOptions::default(), &mut NullSink).unwrap_err();
    assert!(matches!(error, Error::OtherWords { .. }), "{error}");
    assert!(error.to_string().contains("s2s_query") && error.hint().unwrap().contains("sampled"), "{error}");
    let sampled = ["consistency.kind=sampled", "consistency.texts=2", "training.max_steps=2"];
    let told = steps(&recipe(&prompted, "sampled", &sampled), false, None);
    assert!(told.iter().all(|m| m.consistency_cosine.unwrap().abs() <= 1.0));
}
