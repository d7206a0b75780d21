//! A decoder whose vectors say nothing learns from its hypotheses alone: from their tokens, and from their vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, non_snake_case)]

use models::{Condition, Decoder, DecoderConfig, ParamStore};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};
use training::batch::{Batch, MicroBatch};
use training::loss::LossOptions;
use training::optimizer::{AdamWConfig, Optimizer, OptimizerConfig};
use training::step::Model;

const DIM: usize = 12;
const WORDS: i64 = 12;
const TEXTS: usize = 64;

fn model() -> (Model, Optimizer) {
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "dim": DIM, "hidden": 32, "layers": 2, "heads": 4, "kv_heads": 4, "head_dim": 8, "ffn": 64,
        "vocab": 3 + WORDS, "prefix_tokens": 2, "projector_hidden": 32, "max_tokens": 8, "rope_theta": 1e4,
        "rms_norm_eps": 1e-5, "tie_embeddings": true, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "input_scale": 3.5, "refines": true}))
    .unwrap();
    let mut store = ParamStore::train(Device::Cpu, Kind::Float, 11);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 };
    let optimizer = Optimizer::new(OptimizerConfig { adamw, muon: None }, &store).unwrap();
    (Model::new(store, decoder).unwrap(), optimizer)
}

/// Hypotheses of three random words. The text is those words moved on by `turn`, which only `vectors_of` says.
fn batch(random: &mut ChaCha8Rng, vectors_of: impl Fn(i64) -> [Tensor; 2]) -> Batch {
    let (mut inputs, mut targets, mut positions) = (vec![], vec![], vec![]);
    let (mut targets_of, mut hypotheses) = (vec![], vec![]);
    for row in 0..TEXTS {
        let turn = i64::from(random.next_u32()) % 3;
        let words: Vec<i64> = (0..3).map(|_| i64::from(random.next_u32()) % WORDS).collect();
        let text: Vec<i64> = words.iter().map(|word| 3 + (word + turn) % WORDS).collect();
        inputs.extend(words.iter().map(|word| 3 + word).chain([0]).chain(text.iter().copied()));
        targets.extend(text.into_iter().chain([1]));
        positions.extend((3..7).map(|at| (row * 7 + at) as i64));
        let [target, hypothesis] = vectors_of(turn);
        targets_of.push(target);
        hypotheses.push(hypothesis);
    }
    let part = MicroBatch {
        rows: (0..TEXTS as u32).collect(),
        condition: Condition::refinement(&Tensor::stack(&targets_of, 0), Tensor::stack(&hypotheses, 0)),
        clean_BD: None,
        tokens_BT: Tensor::from_slice(&inputs).view([TEXTS as i64, 7]),
        positions_N: Some(Tensor::from_slice(&positions)),
        targets_N: Tensor::from_slice(&targets),
    };
    Batch::whole(vec![part], Default::default(), 1)
}

/// Mean loss of the last ten of 300 steps.
fn learnt(vectors_of: impl Fn(i64) -> [Tensor; 2] + Copy) -> f64 {
    let (mut model, mut optimizer) = model();
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut losses = Vec::new();
    for _ in 0..300 {
        let found = model.backward(&batch(&mut random, vectors_of), LossOptions::default()).unwrap();
        model.apply(&mut optimizer, found, Some(1.0), 5e-3).unwrap();
        losses.push(found.loss);
    }
    losses[290..].iter().sum::<f64>() / 10.0
}

fn one_hot(at: i64) -> Tensor {
    Tensor::eye(DIM as i64, (Kind::Float, Device::Cpu)).get(at)
}

#[test]
fn the_text_follows_from_the_hypothesis_and_from_how_far_it_is_off() {
    // the difference says which of the three turns it is
    let told = learnt(|turn| [one_hot(turn), one_hot(5)]);
    // nothing says it
    let silent = learnt(|_| [one_hot(4), one_hot(5)]);
    println!("loss {told:.3} where the vectors say the turn, {silent:.3} where not");
    // a third is ln 3 = 1.10 for the first of four tokens; the words after it follow
    assert!(told < 0.12, "{told}");
    assert!(silent > 0.2, "{silent}");
}
