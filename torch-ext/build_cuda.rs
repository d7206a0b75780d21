//! The shared object behind the feature `cuda`: compiled against PyPI's headers and linked as far as its libraries are
//! installed. No CUDA toolkit and no GPU are needed.

#[path = "build_ptx.rs"]
mod ptx;

use std::path::{Path, PathBuf};
use std::process::Command;

/// Headers that must be there, below one of the folders that are searched.
const NEEDED: [&str; 4] = ["cuda_runtime_api.h", "crt/host_defines.h", "nv/target", "nccl.h"];

/// Builds `OUT_DIR/libtorch_ext_cuda.so`.
///
/// # Errors
/// What is missing, and how it is installed.
pub(crate) fn build(include: &Path, lib: &Path, abi: &str) -> Result<(), String> {
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-env-changed=CUDA_HEADERS");
    let (folders, libraries) = folders(lib);
    ptx::compile(&libraries)?;
    for header in NEEDED {
        if !folders.iter().any(|folder| folder.join(header).is_file()) {
            let searched: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            return Err(format!(
                "the feature cuda needs {header}, which is in none of {}: run `make setup-cuda`, or set CUDA_HEADERS to \
                 the folders that hold the headers of CUDA 13.0 and NCCL, with a colon between them",
                searched.join(", ")
            ));
        }
    }
    let mut compiler = cc::Build::new();
    compiler.cpp(true).pic(true).std("c++17").warnings(true).opt_level(2).debug(false).cargo_metadata(false);
    compiler.define("_GLIBCXX_USE_CXX11_ABI", abi).define("USE_C10D_NCCL", "1").include("cuda/include");
    for folder in [include.to_owned(), include.join("torch/csrc/api/include")].iter().chain(&folders) {
        compiler.flag("-isystem").flag(folder.as_os_str());
    }
    compiler.flag("-fvisibility=hidden").flag("-fvisibility-inlines-hidden");
    let objects =
        compiler.files(["cuda/nccl.cpp", "cuda/graph.cpp", "cuda/fused.cpp"]).try_compile_intermediates();
    let objects = objects.map_err(|error| error.to_string())?;
    link(compiler.get_compiler().to_command(), &objects, lib, &libraries)
}

/// Where headers are searched, and where the libraries of the same packages lie.
fn folders(lib: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    // torch/lib -> site-packages/nvidia
    let nvidia = lib.canonicalize().unwrap_or_else(|_| lib.to_owned()).join("../../nvidia");
    let nvidia = nvidia.canonicalize().unwrap_or(nvidia);
    let headers = match std::env::var_os("CUDA_HEADERS") {
        Some(folders) => std::env::split_paths(&folders).collect(),
        None => {
            ["cu13/include", "cu13/include/cccl", "nccl/include"].map(|folder| nvidia.join(folder)).to_vec()
        }
    };
    (headers, vec![nvidia.join("cu13/lib")])
}

fn link(mut command: Command, objects: &[PathBuf], lib: &Path, libraries: &[PathBuf]) -> Result<(), String> {
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default().join("libtorch_ext_cuda.so");
    command.args(["-shared", "-s", "-o"]).arg(&out).args(objects).arg("-L").arg(lib);
    command.args(["-ltorch_cuda", "-lc10_cuda", "-ltorch_cpu", "-lc10"]);
    // what libtorch_cuda itself needs (cuBLAS and its like) is only on machines with a GPU
    command.arg("-Wl,--allow-shlib-undefined");
    if let Some(folder) = libraries.iter().find(|folder| folder.join("libcudart.so.13").is_file()) {
        // then everything that our own code calls is there, and a name that is missing is found here, not on the GPU box
        command.arg("-L").arg(folder).args(["-l:libcudart.so.13", "-Wl,-z,defs"]);
    }
    let output = command.output().map_err(|error| format!("the C++ compiler cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    // cargo's errors are one line each
    let said = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(format!("the part for CUDA cannot be linked: {said}"))
}
