//! Muon against torch.optim.Muon and against its formula in f64 (golden/make_muon.py).
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use models::ParamStore;
use models::params::{Group, Init};
use serde_json::Value;
use tch::{Device, Kind, Tensor};
use training::optimizer::{AdamWConfig, MuonConfig, Optimizer, OptimizerConfig, orthogonalize};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn golden() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/muon.json");
    serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap()
}

/// A nested list as an f32 tensor.
fn tensor(value: &Value) -> Tensor {
    match value {
        Value::Array(items) => Tensor::stack(&items.iter().map(tensor).collect::<Vec<_>>(), 0),
        number => Tensor::from(number.as_f64().unwrap()).to_kind(Kind::Float),
    }
}

fn farthest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// The parameters of the golden file after its steps, the matrices by name and the table last.
fn after_steps(golden: &Value, kind: Kind) -> Vec<(String, Tensor)> {
    let mut store = ParamStore::train(Device::Cpu, kind, 0);
    let _ = store.tensor_and_master("table", &[5, 4], Init::Zeros, Group::Embedding).unwrap();
    let _ = store.fused(&[("q", 8), ("k", 4), ("v", 12)], Some(12), Init::Zeros, Group::Matrix).unwrap();
    let _ = store.tensor("tall", &[20, 6], Init::Zeros, Group::Matrix).unwrap();
    let _ = store.tensor("wide", &[6, 20], Init::Zeros, Group::Matrix).unwrap();
    let of = |name: &str| if name == "table" { &golden["table"] } else { &golden["matrices"][name] };
    let number = |key: &str| golden[key].as_f64().unwrap();
    let named = tch::no_grad(|| store.named_tensors());
    for (name, mut live) in named {
        tch::no_grad(|| live.copy_(&tensor(&of(&name)["start"])));
    }
    let weight_decay = number("weight_decay");
    let config = OptimizerConfig {
        adamw: AdamWConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay },
        muon: Some(MuonConfig {
            momentum: number("momentum"),
            iterations: number("iterations") as usize,
            weight_decay,
        }),
    };
    let mut optimizer = Optimizer::new(config, &store).unwrap();
    for step in 0..number("steps") as usize {
        let gradient = |name: &str| tensor(&of(name)["gradients"][step]);
        let qkv = Tensor::cat(&["q", "k", "v"].map(gradient), 0);
        let gradients = [gradient("table"), qkv, gradient("tall"), gradient("wide")];
        optimizer.step(&store, &gradients, number("learning_rate")).unwrap();
    }
    // the copies that matrix products read follow
    let param = &store.params()[1];
    assert!(farthest(&param.master, &param.compute.to_kind(Kind::Float)) < 0.004);
    store.named_tensors().into_iter().map(|(name, live)| (name, live.copy())).collect()
}

#[test]
fn steps_are_those_of_torch_and_of_the_formula() {
    let golden = golden();
    let rate = golden["learning_rate"].as_f64().unwrap();
    for kind in [Kind::Float, Kind::BFloat16] {
        for (name, found) in after_steps(&golden, kind) {
            if name == "table" {
                assert!(farthest(&found, &tensor(&golden["table"]["torch"])) < 1e-6);
                continue;
            }
            let expected = &golden["matrices"][&name];
            let [by_torch, formula, start] = ["torch", "f64", "start"].map(|key| tensor(&expected[key]));
            let long = found.size().into_iter().max().unwrap() as f64;
            // of a step
            let unit = rate * 0.2 * long.sqrt();
            let [torchs, formulas] = [&by_torch, &formula].map(|of| farthest(&found, of) / unit);
            assert!(farthest(&found, &start) > 0.3 * unit, "{name} stands still");
            assert!(formulas < if kind == Kind::Float { 1e-4 } else { 0.05 }, "{name} {kind:?}: {formulas}");
            // torch's iterations are in bf16 always
            assert!(torchs < 0.1, "{name} {kind:?}: {torchs}");
        }
    }
}

/// Matrices U S V^T with the singular values `s`.
fn with_singular_values(s: &Tensor, rows: i64, columns: i64) -> Tensor {
    let basis = |size: i64| Tensor::linalg_qr(&Tensor::randn([size, size], CPU), "reduced").0;
    let count = s.size()[0];
    basis(rows).narrow(1, 0, count).matmul(&s.diag(0)).matmul(&basis(columns).narrow(1, 0, count).tr())
}

#[test]
fn singular_values_come_near_one() {
    tch::manual_seed(1);
    let s = Tensor::logspace(-2.0, 0.0, 24, 10.0, CPU);
    for (rows, columns) in [(24, 24), (24, 60), (60, 24)] {
        let matrices = [3e-5, 1.0, 700.0].map(|size| with_singular_values(&s, rows, columns) * size);
        let stacked = Tensor::stack(&matrices, 0);
        for (kind, precise) in [(Kind::Float, 1e-4), (Kind::BFloat16, 0.03)] {
            let found = orthogonalize(&stacked, 5, kind).unwrap();
            assert_eq!((found.kind(), found.size()), (kind, stacked.size()));
            let found = found.to_kind(Kind::Float);
            let singular = found.svd(true, false).1;
            let [least, most] = [singular.min(), singular.max()].map(|value| value.double_value(&[]));
            assert!(
                least > 0.6818 - precise && most < 1.1329 + precise,
                "{rows} x {columns} {kind:?}: {least} to {most}"
            );
            // each is what the polynomial makes of the one before
            let mut x = &s / s.norm();
            for _ in 0..5 {
                x = &x * 3.4445 - x.pow_tensor_scalar(3) * 4.775 + x.pow_tensor_scalar(5) * 2.0315;
            }
            let expected = x.sort(0, true).0;
            for matrix in 0..3 {
                let far = farthest(&singular.get(matrix), &expected);
                assert!(far < precise, "{rows} x {columns} {kind:?}: {far}");
            }
            // directions stay: U^T (U f(S) V^T) V is positive on its diagonal
            let along = (&found * &stacked).sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Float);
            assert!(along.min().double_value(&[]) > 0.0);
            // a matrix is what it is alone
            let alone = orthogonalize(&stacked.narrow(0, 1, 1), 5, kind).unwrap().to_kind(Kind::Float);
            assert!(farthest(&alone.get(0), &found.get(1)) < precise);
        }
    }
    let nothing = orthogonalize(&Tensor::zeros([1, 3, 4], CPU), 5, Kind::Float).unwrap();
    assert_eq!(nothing.abs().max().double_value(&[]), 0.0);
}
