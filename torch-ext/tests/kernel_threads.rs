//! The CPU kernels give the same bytes however many threads OpenMP lends them, fewer than were asked for included.
//!
//! A test starts this same program again, since OpenMP reads its variables once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::process::Command;

use tch::{Device, Kind, Tensor};
use torch_ext::{ShortAttention, add_rms_norm, cross_entropy_into_gradient, short_attention, swiglu};

/// Threads that the kernels ask for.
const ASKED: i32 = 4;

/// What the kernels say of each name, in a process with such variables.
fn said(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for name in ["OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC"] {
        command.env_remove(name);
    }
    command.args(["member", "--exact", "--ignored", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = String::from_utf8(output.stdout).unwrap();
    output.lines().find_map(|line| line.split_once("said: ")).unwrap().1.to_owned()
}

#[test]
fn fewer_threads_than_asked_for_compute_all() {
    let expected = said(&[]);
    for variables in [("OMP_THREAD_LIMIT", "1"), ("OMP_THREAD_LIMIT", "3"), ("OMP_DYNAMIC", "true")] {
        assert_eq!(said(&[variables]), expected, "with {variables:?}");
    }
}

#[test]
#[ignore = "the process that the other test starts"]
fn member() {
    tch::set_num_threads(ASKED);
    let mut said = Vec::new();
    for kind in [Kind::Float, Kind::BFloat16] {
        for (name, tensors) in [
            ("norm", norm(kind)),
            ("swiglu", gated(kind)),
            ("attention", attention(kind)),
            ("cross-entropy", loss(kind)),
        ] {
            let found: Vec<u64> = tensors.iter().map(digest).collect();
            said.push(format!("{name} {found:x?}"));
        }
    }
    println!("said: {}", said.join(", "));
}

fn digest(tensor: &Tensor) -> u64 {
    let numbers = Vec::<f32>::try_from(tensor.to_kind(Kind::Float).flatten(0, -1)).unwrap();
    let mut hasher = DefaultHasher::new();
    numbers.iter().for_each(|number| number.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// Numbers between -2 and 2 that have no order to speak of.
fn numbers(shape: &[i64], kind: Kind) -> Tensor {
    let count = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    ((count * 12.9898).sin() * 2.0).to_kind(kind).view(shape)
}

fn leaf(shape: &[i64], kind: Kind) -> Tensor {
    numbers(shape, kind).set_requires_grad(true)
}

/// Results, and the gradients that reach the leaves from them.
fn with_gradients(results: &[Tensor], leaves: &[&Tensor]) -> Vec<Tensor> {
    let weighted = |y: &Tensor| (y * numbers(&y.size(), y.kind())).sum(Kind::Float);
    let total = results.iter().map(weighted).reduce(|a, b| a + b).unwrap();
    total.backward();
    results.iter().map(Tensor::detach).chain(leaves.iter().map(|leaf| leaf.grad())).collect()
}

fn norm(kind: Kind) -> Vec<Tensor> {
    let (x, a, gain) = (leaf(&[256, 1024], kind), leaf(&[256, 1024], kind), leaf(&[1024], kind));
    let (sum, y) = add_rms_norm(&x, &a, &gain, 1e-5).unwrap();
    with_gradients(&[sum, y], &[&x, &a, &gain])
}

fn gated(kind: Kind) -> Vec<Tensor> {
    let x = leaf(&[256, 2048], kind);
    with_gradients(&[swiglu(&x).unwrap()], &[&x])
}

fn attention(kind: Kind) -> Vec<Tensor> {
    let (heads, kv_heads, dim, length) = (8, 4, 64, 20);
    let qkv = leaf(&[32, length, (heads + 2 * kv_heads) * dim], kind);
    let angles = numbers(&[length, dim / 2], Kind::Float);
    let (cos, sin) = (angles.cos(), angles.sin());
    let asked =
        ShortAttention { cos: &cos, sin: &sin, key_mask: None, heads, kv_heads, from: 0, causal: true };
    with_gradients(&[short_attention(&qkv, &asked).unwrap()], &[&qkv])
}

fn loss(kind: Kind) -> Vec<Tensor> {
    let (mut scores, targets) =
        (numbers(&[128, 2000], kind), Tensor::arange(128, (Kind::Int64, Device::Cpu)));
    let losses = cross_entropy_into_gradient(&mut scores, &targets, 0.1).unwrap();
    vec![losses, scores]
}
