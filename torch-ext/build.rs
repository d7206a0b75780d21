//! Compiles the C++ shim against the headers of the libtorch that torch-sys links, and hands the place of the
//! libraries on to the crates that depend on this one (`DEP_TORCH_EXT_LIBTORCH_LIB`), which need it for an rpath.

use std::path::PathBuf;

fn main() {
    for file in ["shim.cpp", "shim.h", "guarded.h", "lanes.h", "decode_kernels.cpp", "decode_kernels.h"] {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    // torch-sys says where the libraries lie; the headers lie beside them in every distribution of libtorch.
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!(
            "cargo::error=torch-sys named no libtorch: run `make setup`, or set LIBTORCH to a libtorch 2.11.0"
        );
        return;
    };
    let root = std::env::var_os("LIBTORCH_INCLUDE")
        .map(PathBuf::from)
        .or_else(|| lib.parent().map(PathBuf::from))
        .unwrap_or_default();
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let include = root.join("include");
    let version = include.join("torch/headeronly/version.h");
    if !version.is_file() {
        println!(
            "cargo::error=no libtorch headers in {}: run `make setup`, or set LIBTORCH to a libtorch 2.11.0",
            include.display()
        );
        return;
    }
    println!("cargo::rerun-if-changed={}", version.display());
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        .warnings(true)
        .flag("-isystem")
        .flag(include.as_os_str())
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include").as_os_str())
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        // vectors are passed between inlined functions only, whose ABI does not matter
        .flag_if_supported("-Wno-psabi")
        .file("shim.cpp")
        .file("decode_kernels.cpp")
        .compile("torch_ext_shim");
    for library in ["torch_cpu", "c10"] {
        println!("cargo::rustc-link-lib={library}");
    }
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::metadata=libtorch_lib={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
