//! What needs CUDA, on machines without: the embedded shared object is whole, and what cannot be is refused with words.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tch::{Device, Kind, Tensor};
use torch_ext::cuda::{self, CudaGraph, NoCuda};
use torch_ext::{CudaLibrary, Error, load_cuda};

/// What binutils, which come with every C++ compiler, say of the embedded object.
fn examined(object: &[u8], program: &str, flags: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("object.so");
    #[allow(clippy::disallowed_methods)]
    std::fs::write(&path, object).unwrap();
    let output = std::process::Command::new(program).args(flags).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_cuda_object_exports_what_its_header_declares() {
    let Some(object) = cuda::embedded() else { return };
    let symbols = examined(object, "nm", &["--dynamic", "--defined-only"]);
    let exported: Vec<&str> = symbols.lines().filter_map(|line| line.split(" T ").nth(1)).collect();
    let mut declared: Vec<&str> = include_str!("../cuda/cuda.h")
        .lines()
        .filter_map(|line| line.strip_prefix("TEC_EXPORT "))
        .map(|line| line[..line.find('(').unwrap()].rsplit(' ').next().unwrap())
        .collect();
    declared.sort_unstable();
    assert_eq!(exported, declared);
    assert!(declared.len() >= 10);
}

#[test]
fn the_cuda_object_needs_nothing_but_libtorch_and_the_runtime() {
    let Some(object) = cuda::embedded() else { return };
    let lib = torch_ext::cuda_library::libtorch_folder().unwrap();
    let dynamic = examined(object, "readelf", &["--dynamic", "--wide"]);
    let needed: Vec<&str> = dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .map(|line| line.split(['[', ']']).nth(1).unwrap())
        .collect();
    for library in ["libtorch_cuda.so", "libc10_cuda.so", "libtorch_cpu.so", "libc10.so"] {
        assert!(needed.contains(&library), "{needed:?}");
        assert!(lib.join(library).exists(), "{library}");
    }
    let of_the_system = ["libstdc++.so.6", "libgcc_s.so.1", "libc.so.6", "libm.so.6"];
    let others = needed.iter().filter(|name| !name.starts_with("libtorch") && !name.starts_with("libc10"));
    for library in others {
        assert!(*library == "libcudart.so.13" || of_the_system.contains(library), "{library}");
    }
    assert!(!dynamic.contains("RUNPATH"), "it is opened where its libraries are loaded already");
}

#[test]
fn the_cuda_object_is_there_where_it_was_built() {
    assert_eq!(cuda::embedded().is_some(), cfg!(feature = "cuda"));
}

#[test]
fn without_cuda_it_is_refused_with_words() {
    let CudaLibrary::Absent { reason } = load_cuda() else { return };
    let expected = match cuda::embedded() {
        Some(_) => NoCuda::NoLibrary(reason),
        None => NoCuda::NotBuilt,
    };
    let gpu = Device::Cuda(0);
    let refusals = [
        cuda::nccl_version().map(|_| ()),
        cuda::set_device(gpu),
        cuda::synchronize(gpu),
        CudaGraph::capture(gpu, || Ok::<_, Error>(Tensor::zeros([1], (Kind::Float, gpu)))).map(|_| ()),
    ];
    for refusal in refusals {
        let error = refusal.unwrap_err();
        assert!(matches!(&error, Error::NoCuda { reason } if *reason == expected), "{error}");
        assert!(error.hint().is_some());
    }
    assert!(NoCuda::NotBuilt.hint().contains("make build-cuda"));
}

/// CUDA's libraries without a GPU, or with no driver for it.
#[test]
fn cuda_without_a_device_is_refused_with_words() {
    if cuda::embedded().is_none() || !load_cuda().is_loaded() || tch::Cuda::is_available() {
        return;
    }
    assert!(cuda::nccl_version().unwrap() >= (2, 20, 0));
    let captured = CudaGraph::capture(Device::Cuda(0), || Ok::<_, Error>(()));
    for refusal in [cuda::set_device(Device::Cuda(0)), captured.map(|_| ())] {
        let error = refusal.unwrap_err();
        assert!(matches!(error, Error::Torch { .. }), "{error}");
        assert!(error.to_string().contains("driver") || error.to_string().contains("device"), "{error}");
    }
}

#[test]
fn cuda_graphs_are_for_gpus() {
    let on_the_cpu = CudaGraph::capture(Device::Cpu, || Ok::<_, Error>(()));
    let error = on_the_cpu.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::NoCuda { .. } | Error::Argument { .. }), "{error}");
}

/// What fused.cpp asks the driver for by name is in the PTX, which any card that computes in bf16 can take.
#[test]
fn the_cuda_kernels_are_in_the_ptx() {
    assert_eq!(cuda::fused::kernels().is_some(), cfg!(feature = "cuda"));
    let Some(ptx) = cuda::fused::kernels() else { return };
    let ptx = ptx.to_str().unwrap();
    assert!(ptx.contains(".target sm_80"));
    for operation in ["swiglu", "swiglu_backward", "turn", "turn_backward"] {
        for kind in ["f32_4", "f32_1", "bf16_8", "bf16_1"] {
            assert!(ptx.contains(&format!(".visible .entry {operation}_{kind}(")), "{operation}_{kind}");
        }
    }
    assert!(ptx.contains("ld.global.v4"), "16 bytes are read at once");
}
