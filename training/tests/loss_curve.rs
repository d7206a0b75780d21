//! Fifty steps of a small decoder against the curve in `golden/`: a change that is to be speed alone moves no loss by
//! more than rounding. `INVERSE_STELLA_WRITE_GOLDEN=1 cargo test --release -p training --test loss_curve` writes the
//! curves anew, after a change that is meant to move them.
#![allow(non_snake_case, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use models::{Condition, Decoder, DecoderConfig, ParamStore};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};
use training::batch::{Batch, MicroBatch};
use training::loss::LossOptions;
use training::optimizer::{AdamWConfig, Optimizer, OptimizerConfig};
use training::step::Model;

const STEPS: usize = 50;
const DIM: usize = 12;
const FIRST_WORD: i64 = 3;
const WORDS: i64 = 94;

/// Key heads that are shared, several layers, an odd feed-forward width: what kernels trip over.
fn model(kind: Kind) -> (Model, Optimizer) {
    let config: DecoderConfig = serde_json::from_value(serde_json::json!({
        "dim": DIM, "hidden": 32, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 50,
        "vocab": FIRST_WORD + WORDS, "prefix_tokens": 3, "projector_hidden": 40, "max_tokens": 16, "rope_theta": 1e4,
        "rms_norm_eps": 1e-5, "tie_embeddings": true, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "input_scale": 3.5}))
    .unwrap();
    let mut store = ParamStore::train(Device::Cpu, kind, 11);
    let decoder = Decoder::new(&config, &mut store).unwrap();
    let adamw = AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
    let optimizer = Optimizer::new(OptimizerConfig { adamw, muon: None }, &store).unwrap();
    (Model::new(store, decoder).unwrap(), optimizer)
}

/// Texts that follow from their vectors: a start and a stride, which the vector tells by two angles.
fn part(random: &mut ChaCha8Rng, texts: usize) -> MicroBatch {
    let drawn: Vec<[i64; 3]> =
        (0..texts).map(|_| [WORDS, 7, 8].map(|most| i64::from(random.next_u32()) % most)).collect();
    let lengths: Vec<usize> = drawn.iter().map(|[_, _, more]| 5 + *more as usize).collect();
    let width = lengths.iter().copied().max().unwrap();
    let (mut vectors, mut inputs, mut targets, mut positions) = (vec![], vec![], vec![], vec![]);
    for (row, ([start, stride, _], length)) in drawn.iter().zip(&lengths).enumerate() {
        for i in 0..DIM / 4 {
            let turn = std::f64::consts::TAU * (i + 1) as f64;
            let (a, b) = (turn * *start as f64 / WORDS as f64, turn * *stride as f64 / 7.0);
            vectors
                .extend([a.cos(), a.sin(), b.cos(), b.sin()].map(|x| (x / (DIM as f64 / 2.0).sqrt()) as f32));
        }
        let words = (0..length - 1).map(|i| FIRST_WORD + (start + (1 + stride) * i as i64) % WORDS);
        let ids: Vec<i64> = words.chain([1]).collect();
        inputs.push(0);
        inputs.extend(&ids[..length - 1]);
        inputs.extend(vec![2; width - length]);
        positions.extend((0..*length).map(|at| (row * width + at) as i64));
        targets.extend(ids);
    }
    MicroBatch {
        rows: Vec::new(),
        condition: Condition::first(&Tensor::from_slice(&vectors).view([texts as i64, DIM as i64])),
        clean_BD: None,
        tokens_BT: Tensor::from_slice(&inputs).view([texts as i64, width as i64]),
        positions_N: Some(Tensor::from_slice(&positions)),
        targets_N: Tensor::from_slice(&targets),
    }
}

/// The losses of fifty steps, each of two parts of unlike length.
fn curve(kind: Kind) -> Vec<f64> {
    let (mut model, mut optimizer) = model(kind);
    let mut random = ChaCha8Rng::seed_from_u64(5);
    (0..STEPS)
        .map(|step| {
            let parts = vec![part(&mut random, 24), part(&mut random, 9)];
            let batch = Batch::whole(parts, Default::default(), STEPS);
            let options = LossOptions { label_smoothing: 0.0, chunk: Some(100) };
            let found = model.backward(&batch, options).unwrap();
            let learning_rate = 3e-3 * ((step + 1) as f64 / 5.0).min(1.0);
            model.apply(&mut optimizer, found, Some(1.0), learning_rate).unwrap();
            found.loss
        })
        .collect()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the file, or writes it.
fn check(name: &str, losses: &[f64], tolerance: f64) {
    let path = golden(name);
    if std::env::var_os("INVERSE_STELLA_WRITE_GOLDEN").is_some() {
        let mut text = format!(
            "# Mean loss of each of {STEPS} steps, written by training/tests/loss_curve.rs with INVERSE_STELLA_WRITE_GOLDEN=1,\n\
             # libtorch {}. A change that is to be speed alone leaves this file as it is.\n",
            torch_ext::libtorch_version_built()
        );
        losses.iter().for_each(|loss| writeln!(text, "{loss:.9}").unwrap());
        fs_err::write(&path, text).unwrap();
    }
    let text = fs_err::read_to_string(&path).unwrap();
    let expected: Vec<f64> =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.parse().unwrap()).collect();
    assert_eq!(expected.len(), STEPS);
    assert!(expected[STEPS - 1] < 0.7 * expected[0], "the golden decoder learns: {expected:?}");
    let farthest = expected.iter().zip(losses).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
    assert!(farthest < tolerance, "{name}: the curve is off by {farthest:.2e}, more than {tolerance:.0e}");
}

/// Another order of additions in other kernels, on other processors and thread counts, grows over the steps to this.
#[test]
fn fifty_steps_in_f32_are_the_golden_ones() {
    check("loss_curve_f32.txt", &curve(Kind::Float), 1e-4);
}

/// bf16 has three digits, and where a value lies between two of them any other order of additions decides: what comes
/// of that over fifty steps is no more than this, and a kernel that is wrong is off by more.
#[test]
fn fifty_steps_in_bf16_are_near_the_golden_ones() {
    let losses = curve(Kind::BFloat16);
    check("loss_curve_bf16.txt", &losses, 1e-2);
}

#[test]
fn threads_change_the_curve_by_rounding_at_most() {
    let before = tch::get_num_threads();
    tch::set_num_threads(1);
    let one = curve(Kind::Float);
    tch::set_num_threads(before.max(2));
    let two = curve(Kind::Float);
    tch::set_num_threads(before);
    let farthest = one.iter().zip(&two).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
    assert!(farthest < 1e-5, "one thread and two differ by {farthest:.2e}");
}
