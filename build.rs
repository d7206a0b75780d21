//! Gives every binary and test of the package an rpath to the libtorch it was built with, so that it starts
//! without `LD_LIBRARY_PATH`. All packages of the workspace above torch-ext share this file.

fn main() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    // Told by torch-ext's build script, to packages that depend on torch-ext directly.
    match std::env::var("DEP_TORCH_EXT_LIBTORCH_LIB") {
        Ok(lib) => println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}"),
        Err(_) => println!("cargo::warning=no rpath: torch-ext must be among this package's [dependencies]"),
    }
}
