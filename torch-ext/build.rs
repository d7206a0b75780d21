//! Compiles the C++ shim against the headers of the libtorch that torch-sys links, and hands the place of the
//! libraries on to the crates that depend on this one (`DEP_TORCH_EXT_LIBTORCH_LIB`), which need it for an rpath.

#[path = "build_cuda.rs"]
mod cuda;

use std::path::PathBuf;

fn main() {
    let sources = [
        "shim.cpp",
        "shim.h",
        "guarded.h",
        "lanes.h",
        "kernels.cpp",
        "kernel_loops.cpp",
        "kernel_loops.h",
        "attention_loops.h",
        "numbers.h",
        "decode_kernels.cpp",
        "decode_kernels.h",
        "profile.cpp",
        "profile.h",
        "c10d",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
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
    // both take some 15 seconds: side by side
    let cuda = std::env::var_os("CARGO_FEATURE_CUDA").map(|_| {
        let (include, lib, abi) = (include.clone(), lib.clone(), abi.clone());
        std::thread::spawn(move || cuda::build(&include, &lib, &abi))
    });
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .std("c++17")
        .warnings(true)
        // libtorch's templates say more of themselves than all else in a program
        .debug(false)
        .flag("-isystem")
        .flag(include.as_os_str())
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include").as_os_str())
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include("c10d/include")
        .define("USE_C10D_GLOO", "1")
        // vectors are passed between inlined functions only, whose ABI does not matter
        .flag_if_supported("-Wno-psabi")
        .files(["shim.cpp", "kernels.cpp", "decode_kernels.cpp", "profile.cpp", "c10d/c10d.cpp"])
        .compile("torch_ext_shim");
    loops();
    if let Some(Err(problem)) = cuda.and_then(|cuda| cuda.join().ok()) {
        println!("cargo::error={problem}");
        return;
    }
    for library in ["torch_cpu", "c10"] {
        println!("cargo::rustc-link-lib={library}");
    }
    println!("cargo::rustc-link-search=native={}", lib.display());
    println!("cargo::metadata=libtorch_lib={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}

/// The loops of the kernels, once for each level of the processor that they may meet.
fn loops() {
    let x86 = std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64");
    let levels: &[(&str, &[&str])] = &[
        ("level1", &[]),
        ("level3", &["-march=x86-64-v3"]),
        ("level4", &["-march=x86-64-v4", "-mprefer-vector-width=512"]),
    ];
    for (level, flags) in levels.iter().take(if x86 { 3 } else { 1 }) {
        let mut build = cc::Build::new();
        build.cpp(true).pic(true).std("c++17").warnings(true).opt_level(3).define("LEVEL", *level);
        // vectors of sums where the code says so, and no other liberty with the order of additions
        for flag in ["-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"] {
            build.flag_if_supported(flag);
        }
        for flag in *flags {
            build.flag_if_supported(flag);
        }
        build.file("kernel_loops.cpp").compile(&format!("torch_ext_loops_{level}"));
    }
}
