//! The kernels for GPUs, compiled for the CPU: a thread of theirs is a call here, and what they compute is compared with
//! libtorch's operations. What only a GPU shows, `inverse-stella parity` asks there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

use std::path::Path;
use std::process::Command;

use libloading::Library;
use tch::{Device, Kind, Tensor};

/// What CUDA C++ has and C++ has not.
const AS_CPP: &str = r#"
#include <cmath>
#define __device__
#define __global__
struct Place { unsigned x, y, z; };
static Place blockIdx, threadIdx, blockDim;
static float exponential(float x) { return std::exp(x); }
static float quotient(float a, float b) { return a / b; }
extern "C" void at(unsigned block, unsigned thread, unsigned threads) {
  blockIdx.x = block, threadIdx.x = thread, blockDim.x = threads;
}
#include "kernels.cu"
"#;

fn kernels(folder: &Path) -> Library {
    let (source, object) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    #[allow(clippy::disallowed_methods)]
    std::fs::write(&source, AS_CPP).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let output = Command::new(compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fsanitize=undefined",
            "-fno-sanitize-recover",
        ])
        .arg("-I")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda"))
        .arg(&source)
        .arg("-o")
        .arg(&object)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: an object without initialisers.
    unsafe { Library::new(object) }.unwrap()
}

/// Calls a kernel for every thread of every block.
fn launch<A: Copy>(library: &Library, name: &str, blocks: i64, threads: u32, arguments: A) {
    // SAFETY: the functions are those of kernels.cu, whose arguments the caller mirrors.
    unsafe {
        let at = library.get::<unsafe extern "C" fn(u32, u32, u32)>(b"at").unwrap();
        let kernel = library.get::<unsafe extern "C" fn(A)>(name.as_bytes()).unwrap();
        for block in 0..u32::try_from(blocks).unwrap() {
            for thread in 0..threads {
                at(block, thread, threads);
                kernel(arguments);
            }
        }
    }
}

type Data = *mut std::ffi::c_void;

/// The structs of `kernels.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SwigluForward {
    x: Data,
    y: Data,
    width: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SwigluBackward {
    x: Data,
    dy: Data,
    dx: Data,
    width: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Heads {
    data: Data,
    text: i64,
    position: i64,
    head: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Turn {
    qkv: Data,
    apart: [Heads; 3],
    cos: Data,
    sin: Data,
    length: i32,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

fn heads(x: &Tensor) -> Heads {
    let strides = x.stride();
    Heads { data: x.data_ptr(), text: strides[0], position: strides[1], head: strides[2] }
}

fn random(shape: &[i64], kind: Kind) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 2.0).to_kind(kind)
}

/// Numbers that no kernel leaves as they are, so that one that was not written shows.
fn unwritten(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::full(shape, 1e4, (kind, Device::Cpu))
}

#[track_caller]
fn close(found: &Tensor, expected: &Tensor, what: &str) {
    let allowed = if found.kind() == Kind::Float { 1e-6 } else { 4e-3 };
    let far = (found.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
    let size = expected.abs().max().double_value(&[]).max(1.0);
    assert!(far <= allowed * size, "{what}: off by {far:e} of {size}");
}

/// (type, its name, how many numbers are taken at once, widths)
const CASES: [(Kind, &str, [i64; 2]); 4] = [
    (Kind::Float, "f32_4", [4, 24]),
    (Kind::Float, "f32_1", [1, 13]),
    (Kind::BFloat16, "bf16_8", [8, 40]),
    (Kind::BFloat16, "bf16_1", [3, 7]),
];

#[test]
fn swiglu_and_its_gradient() {
    tch::manual_seed(1);
    let folder = tempfile::tempdir().unwrap();
    let library = kernels(folder.path());
    for (kind, name, widths) in CASES {
        for width in widths {
            let (rows, x, dy) = (3, random(&[3, 2 * width], kind), random(&[3, width], kind));
            let y = unwritten(&[rows, width], kind);
            let forward = SwigluForward { x: x.data_ptr(), y: y.data_ptr(), width };
            launch(&library, &format!("swiglu_{name}"), rows, 2, forward);
            let exact = x.to_kind(Kind::Double).set_requires_grad(true);
            let parts = exact.chunk(2, -1);
            let expected = parts[0].silu() * &parts[1];
            close(&y, &expected.detach(), &format!("{name}, width {width}"));

            let dx = unwritten(&[rows, 2 * width], kind);
            let backward = SwigluBackward { x: x.data_ptr(), dy: dy.data_ptr(), dx: dx.data_ptr(), width };
            launch(&library, &format!("swiglu_backward_{name}"), rows, 2, backward);
            (expected * dy.to_kind(Kind::Double)).sum(Kind::Double).backward();
            close(&dx, &exact.grad(), &format!("{name} backward, width {width}"));
        }
    }
}

#[test]
fn extremes_stay_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let library = kernels(folder.path());
    let gates = [-200.0, -0.0, 3e38, f32::NAN, f32::INFINITY];
    for kind in [Kind::Float, Kind::BFloat16] {
        let x = Tensor::from_slice(&gates).unsqueeze(1);
        let x = Tensor::cat(&[&x, &x.ones_like()], 1).to_kind(kind);
        let y = unwritten(&[5, 1], kind);
        let name = if kind == Kind::Float { "swiglu_f32_1" } else { "swiglu_bf16_1" };
        launch(&library, name, 5, 1, SwigluForward { x: x.data_ptr(), y: y.data_ptr(), width: 1 });
        let found = Vec::<f64>::try_from(y.view([5]).to_kind(Kind::Double)).unwrap();
        assert_eq!(&found[..2], [0.0, 0.0]);
        assert!(found[2] > 2.9e38 && found[3].is_nan() && found[4] == f64::INFINITY, "{found:?}");
    }
}

/// bf16 is rounded as libtorch rounds it, ties and NaN too.
#[test]
fn bf16_is_rounded_to_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let library = kernels(folder.path());
    // sin 0 and cos a: x cos a with x = 1 is any f32 there is
    let bits: Vec<i32> = (0..4096).map(|i| 0x3f7f_0000 + i * 0x1003).collect();
    let exact: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits as u32)).collect();
    let cos = Tensor::from_slice(&exact).view([-1, 1]);
    let (sin, length) = (cos.zeros_like(), exact.len() as i64);
    let qkv = Tensor::ones([1, length, 6], (Kind::BFloat16, Device::Cpu));
    let apart = [(); 3].map(|()| unwritten(&[1, length, 1, 2], Kind::BFloat16));
    let turn = turn_of(&qkv, [&apart[0], &apart[1], &apart[2]], [&cos, &sin]);
    launch(&library, "turn_bf16_1", length, 1, turn);
    assert!(apart[0].select(3, 0).reshape([-1, 1]).equal(&cos.to_kind(Kind::BFloat16)));
}

fn turn_of(qkv: &Tensor, apart: [&Tensor; 3], [cos, sin]: [&Tensor; 2]) -> Turn {
    let (shape, kv) = (apart[0].size(), apart[1].size());
    Turn {
        qkv: qkv.data_ptr(),
        apart: apart.map(heads),
        cos: cos.data_ptr(),
        sin: sin.data_ptr(),
        length: shape[1] as i32,
        heads: shape[2] as i32,
        kv_heads: kv[2] as i32,
        head_dim: shape[3] as i32,
    }
}

/// Rotate-half of `modeling_llama.py`.
fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Tensor {
    let whole = |table: &Tensor| Tensor::cat(&[table, table], 1).unsqueeze(1).to_kind(Kind::Double);
    let parts = x.chunk(2, -1);
    x * whole(cos) + Tensor::cat(&[parts[1].neg(), parts[0].shallow_clone()], -1) * whole(sin)
}

#[test]
fn heads_are_turned_and_their_gradients_turned_back() {
    tch::manual_seed(2);
    let folder = tempfile::tempdir().unwrap();
    let library = kernels(folder.path());
    let (batch, length) = (2, 3);
    for (kind, name, halves) in CASES {
        for (half, (heads, kv_heads)) in halves.into_iter().zip([(4, 2), (2, 2)]) {
            let (head_dim, all) = (2 * half, heads + 2 * kv_heads);
            let what = format!("{name}, heads of {head_dim}");
            let angles = random(&[length, half], Kind::Float);
            let (cos, sin) = (angles.cos(), angles.sin());
            let qkv = random(&[batch, length, all * head_dim], kind);
            let apart = [heads, kv_heads, kv_heads].map(|n| unwritten(&[batch, length, n, head_dim], kind));
            let exact = qkv.to_kind(Kind::Double).set_requires_grad(true);
            let parts =
                exact.view([batch, length, all, head_dim]).split_with_sizes([heads, kv_heads, kv_heads], 2);
            let expected =
                [rotated(&parts[0], &cos, &sin), rotated(&parts[1], &cos, &sin), parts[2].shallow_clone()];
            let tables = [&cos, &sin];
            let turn = turn_of(&qkv, [&apart[0], &apart[1], &apart[2]], tables);
            launch(&library, &format!("turn_{name}"), batch * length, 3, turn);
            for (found, expected) in apart.iter().zip(&expected) {
                close(found, &expected.detach(), &what);
            }

            // gradients as attention leaves them: heads before positions
            let grads = [heads, kv_heads, kv_heads]
                .map(|n| random(&[batch, n, length, head_dim], kind).transpose(1, 2));
            let d_qkv = unwritten(&[batch, length, all * head_dim], kind);
            let turn = turn_of(&d_qkv, [&grads[0], &grads[1], &grads[2]], tables);
            launch(&library, &format!("turn_backward_{name}"), batch * length, 3, turn);
            let sums =
                expected.iter().zip(&grads).map(|(y, dy)| (y * dy.to_kind(Kind::Double)).sum(Kind::Double));
            sums.reduce(|a, b| a + b).unwrap().backward();
            close(&d_qkv, &exact.grad(), &format!("{what} backward"));
        }
    }
}
