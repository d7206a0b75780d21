//! Whether a CPU kernel equals the composition of libtorch's operations that it stands for.
#![allow(clippy::unwrap_used)]

use tch::{Device, Kind, Tensor};

/// An operation twice.
pub(crate) struct Case<'a> {
    /// f32.
    pub(crate) inputs: &'a [Tensor],
    pub(crate) kernel: &'a dyn Fn(&[Tensor]) -> Vec<Tensor>,
    /// In any type.
    pub(crate) composed: &'a dyn Fn(&[Tensor]) -> Vec<Tensor>,
}

/// Normal numbers, others each time.
pub(crate) fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Results and gradients in `kind`, as f64. The gradient of every result is a wave, another for each.
fn run(inputs: &[Tensor], kind: Kind, operation: &dyn Fn(&[Tensor]) -> Vec<Tensor>) -> Vec<Tensor> {
    // a copy in the same strides
    let inputs: Vec<Tensor> =
        inputs.iter().map(|t| (t.to_kind(Kind::Double)).to_kind(kind).set_requires_grad(true)).collect();
    let outputs = operation(&inputs);
    let loss = outputs.iter().enumerate().map(|(i, output)| {
        let wave = Tensor::arange(output.numel() as i64, (Kind::Float, Device::Cpu)) * 0.7 + i as f64;
        (output * wave.sin().view(output.size().as_slice()).to_kind(kind)).sum(Kind::Double)
    });
    loss.reduce(|a, b| a + b).unwrap().backward();
    outputs
        .iter()
        .map(Tensor::detach)
        .chain(inputs.iter().map(Tensor::grad))
        .map(|t| t.to_kind(Kind::Double))
        .collect()
}

fn farthest(a: &Tensor, b: &Tensor) -> f64 {
    if a.numel() == 0 { 0.0 } else { (a - b).abs().max().double_value(&[]) }
}

/// Forward and backward: in f32 the kernel is the composition of f64 up to rounding; in bf16 it is no farther from that of
/// its own (rounded) inputs than libtorch's composition in bf16 is.
pub(crate) fn check(case: &Case<'_>) {
    let truth = run(case.inputs, Kind::Double, case.composed);
    let kernel = run(case.inputs, Kind::Float, case.kernel);
    for (number, (found, expected)) in kernel.iter().zip(&truth).enumerate() {
        assert_eq!(found.size(), expected.size());
        let size = farthest(expected, &expected.zeros_like()).max(1.0);
        let off = farthest(found, expected);
        assert!(off < 1e-5 * size, "f32, tensor {number} of {:?}: off by {off:e} of {size}", found.size());
    }
    let rounded: Vec<Tensor> =
        case.inputs.iter().map(|t| t.to_kind(Kind::BFloat16).to_kind(Kind::Float)).collect();
    let truth = run(&rounded, Kind::Double, case.composed);
    let composed = run(&rounded, Kind::BFloat16, case.composed);
    let kernel = run(&rounded, Kind::BFloat16, case.kernel);
    let plain: Vec<Tensor> = rounded.iter().map(|t| t.to_kind(Kind::BFloat16)).collect();
    for (with, without) in kernel.iter().zip(&(case.kernel)(&plain)) {
        assert_eq!(farthest(with, &without.to_kind(Kind::Double)), 0.0, "a graph changes the result");
    }
    for (number, ((found, other), expected)) in kernel.iter().zip(&composed).zip(&truth).enumerate() {
        let mean = |t: &Tensor| {
            if t.numel() == 0 { 0.0 } else { (t - expected).abs().mean(Kind::Double).double_value(&[]) }
        };
        let size = farthest(expected, &expected.zeros_like()).max(1e-3);
        let (off, theirs) = (mean(found), mean(other));
        // the mean of a few numbers is chance: one may be rounded the other way
        let few = if expected.numel() < 64 { 2f64.powi(-8) } else { 0.0 };
        assert!(
            off <= 1.05 * theirs + 1e-6 * size + few * size,
            "bf16, tensor {number} of {:?}: off by {off:e} in the mean, libtorch by {theirs:e}",
            found.size()
        );
        assert!(
            farthest(found, expected) < 0.02 * size,
            "bf16, tensor {number}: {:e} of {size}",
            farthest(found, expected)
        );
    }
}
