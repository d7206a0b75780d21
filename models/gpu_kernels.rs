//! Whether this GPU gets our kernels: they are compared with libtorch's operations once a process, and left alone where
//! they are not there or do not agree.
#![allow(non_snake_case)]

use std::fmt;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};
use torch_ext::cuda;

use crate::blocks::{self, Apart};
use crate::rope::{self, Rope, Rotation};
use crate::{Result, swiglu};

/// Set to `off`, it leaves all to libtorch's operations.
pub const SWITCH: &str = "INVERSE_STELLA_GPU_KERNELS";

/// What became of the kernels for GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuKernels {
    /// They agree with libtorch's operations, and are used.
    Used,
    /// They are not wanted ([`SWITCH`]).
    Off,
    /// They cannot be loaded: why.
    Absent(String),
    /// They computed something else, or failed: what. libtorch's operations are used.
    Wrong(String),
}

impl fmt::Display for GpuKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used => f.write_str("used"),
            Self::Off => write!(f, "off ({SWITCH})"),
            Self::Absent(why) => write!(f, "absent: {why}"),
            Self::Wrong(what) => write!(f, "not used: {what}"),
        }
    }
}

/// What became of the kernels, found on the first GPU that is asked for; `None` for the CPU, which has others.
pub fn gpu_kernels(device: Device) -> Option<&'static GpuKernels> {
    static FOUND: OnceLock<GpuKernels> = OnceLock::new();
    device.is_cuda().then(|| FOUND.get_or_init(|| find(device)))
}

/// Whether they take such a tensor.
pub(crate) fn take(x: &Tensor) -> bool {
    matches!(x.kind(), Kind::Float | Kind::BFloat16) && gpu_kernels(x.device()) == Some(&GpuKernels::Used)
}

fn find(device: Device) -> GpuKernels {
    if std::env::var_os(SWITCH).is_some_and(|value| value == "off") {
        return GpuKernels::Off;
    }
    if let Err(error) = cuda::load_kernels() {
        return GpuKernels::Absent(error.to_string());
    }
    let kernels = Kernels {
        swiglu: &|x| Ok(cuda::fused::swiglu(x)?),
        turn: &|x, rotation, heads| {
            let [cos, sin] = &rotation.half;
            Ok(cuda::fused::turn(x, [cos, sin], heads)?)
        },
    };
    let found = match disagreement(device, &kernels) {
        Ok(None) => GpuKernels::Used,
        Ok(Some(what)) => GpuKernels::Wrong(what),
        Err(error) => GpuKernels::Wrong(error.to_string()),
    };
    if let GpuKernels::Wrong(what) = &found {
        tracing::warn!("our kernels for GPUs are not used: {what}");
    }
    found
}

type TurnApart = dyn Fn(&Tensor, &Rotation, (i64, i64)) -> Result<Apart>;

/// The operations that are compared; the tests put others in their place.
struct Kernels<'a> {
    swiglu: &'a dyn Fn(&Tensor) -> Result<Tensor>,
    turn: &'a TurnApart,
}

/// Of each type, farther from f64 than this, in parts of the largest number, is wrong: some units of the last place.
const ALLOWED: [(Kind, f64); 2] = [(Kind::Float, 2e-6), (Kind::BFloat16, 8e-3)];

/// The first result or gradient that is not what f64 gives on the CPU. Widths that 16 bytes divide, and others.
fn disagreement(device: Device, kernels: &Kernels<'_>) -> Result<Option<String>> {
    for (kind, allowed) in ALLOWED {
        for (width, (heads, kv_heads, head_dim)) in [(1048, (4, 2, 64)), (13, (3, 1, 10))] {
            let x = wave(&[2, 5, 2 * width]);
            let differs = far(&x, kind, device, kernels.swiglu, &swiglu::composed)?;
            // NaN is far off too
            if !differs.iter().all(|far| *far <= allowed) {
                return Ok(Some(format!("SwiGLU of {kind:?}, width {width}: {differs:?} from f64")));
            }
            let qkv = wave(&[2, 5, (heads + 2 * kv_heads) * head_dim]);
            let rotation = |kind: Kind, device: Device| {
                Rope::new(rope::frequencies(head_dim, 1e3)?, kind, device)?.at(0, 5)
            };
            let (ours, exact) = (rotation(kind, device)?, rotation(Kind::Double, Device::Cpu)?);
            let joined = |(q, k, v): Apart| Ok(Tensor::f_cat(&[q, k, v], 2)?);
            let turn = |x: &Tensor| joined((kernels.turn)(x, &ours, (heads, kv_heads))?);
            let composed = |x: &Tensor| joined(blocks::turned_apart(x, &exact, (heads, kv_heads), None)?);
            let differs = far(&qkv, kind, device, &turn, &composed)?;
            if !differs.iter().all(|far| *far <= allowed) {
                return Ok(Some(format!("rotation of {kind:?}, heads of {head_dim}: {differs:?} from f64")));
            }
        }
    }
    Ok(None)
}

type Operation<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;

/// How far result and gradient of `ours` are from those of `exact` in f64, in parts of the largest number there.
fn far(
    x: &Tensor,
    kind: Kind,
    device: Device,
    ours: Operation<'_>,
    exact: Operation<'_>,
) -> Result<[f64; 2]> {
    let x = x.f_to_kind(kind)?;
    let found = with_gradient(&x.f_to_device(device)?, ours)?;
    let expected = with_gradient(&x.f_to_kind(Kind::Double)?, exact)?;
    let mut differs = [0.0; 2];
    for ((far, found), expected) in differs.iter_mut().zip(&found).zip(&expected) {
        let found = found.f_to_device(Device::Cpu)?.f_to_kind(Kind::Double)?;
        let most = |x: &Tensor| -> Result<f64> { Ok(f64::try_from(x.f_abs()?.f_max()?)?) };
        *far = most(&found.f_sub(expected)?)? / most(expected)?;
    }
    Ok(differs)
}

/// What an operation gives, and the gradient of its weighted sum.
fn with_gradient(x: &Tensor, operation: Operation<'_>) -> Result<[Tensor; 2]> {
    tch::with_grad(|| {
        let x = x.detach().f_set_requires_grad(true)?;
        let y = operation(&x)?;
        let weights = wave(&y.size()).f_to_kind(y.kind())?.f_to_device(y.device())?;
        let sum = y.f_mul(&weights)?.f_sum(Kind::Double)?;
        let mut gradient = Tensor::f_run_backward(&[sum], &[&x], false, false)?;
        Ok([y.detach(), gradient.remove(0)])
    })
}

/// Numbers from -12 to 12 without a pattern that rows share; drawn ones would move the generator of the program.
fn wave(shape: &[i64]) -> Tensor {
    let numbers = Tensor::arange(shape.iter().product::<i64>(), (Kind::Double, Device::Cpu));
    ((numbers * 1.7).sin() * 12.0).view(shape).to_kind(Kind::Float)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// In f32 and rounded at the end, as the kernels compute.
    fn turn(x: &Tensor, rotation: &Rotation, heads: (i64, i64)) -> Result<Apart> {
        let half = rotation.half.each_ref().map(Tensor::shallow_clone);
        let rotation = Rotation::of_half(half, Kind::Float)?;
        let (q, k, v) = blocks::turned_apart(&x.to_kind(Kind::Float), &rotation, heads, None)?;
        Ok((q.to_kind(x.kind()), k.to_kind(x.kind()), v.to_kind(x.kind())))
    }

    fn told(kernels: &Kernels<'_>) -> Option<String> {
        disagreement(Device::Cpu, kernels).unwrap()
    }

    #[test]
    fn what_agrees_is_used_and_what_does_not_is_named() {
        let swiglu = |x: &Tensor| Ok(swiglu::composed(&x.to_kind(Kind::Float))?.to_kind(x.kind()));
        let right = Kernels { swiglu: &swiglu, turn: &turn };
        assert_eq!(told(&right), None);

        let exchanged = |x: &Tensor| swiglu(&x.roll([x.size()[2] / 2], [-1]));
        let without_gradient = |x: &Tensor| Ok(swiglu(x)?.detach() + x.narrow(-1, 0, x.size()[2] / 2) * 0.0);
        let not_a_number = |x: &Tensor| Ok(swiglu(x)? * f64::NAN);
        for wrong in [&exchanged as Operation<'_>, &without_gradient, &not_a_number] {
            let said = told(&Kernels { swiglu: wrong, turn: &turn }).unwrap();
            assert!(said.starts_with("SwiGLU of Float, width 1048: "), "{said}");
        }
        let back = |x: &Tensor, rotation: &Rotation, heads: (i64, i64)| {
            let [cos, sin] = &rotation.half;
            turn(x, &Rotation::of_half([cos.shallow_clone(), sin.neg()], Kind::Float)?, heads)
        };
        let said = told(&Kernels { swiglu: &swiglu, turn: &back }).unwrap();
        assert!(said.starts_with("rotation of Float, heads of 64: "), "{said}");
        assert_eq!(gpu_kernels(Device::Cpu), None);
    }
}
