//! `doctor`: what this machine has and lacks, with a fix for each lack.

mod hub;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Result;
use models::GpuKernels;
use serde::Serialize;
use serde_json::{Value, json};
use tch::Device;
use torch_ext::{CpuBf16, CudaLibrary, NoCuda};

use crate::output;

const GB: f64 = 1e9;

/// What `doctor` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  inverse-stella doctor\n  inverse-stella doctor --json")]
pub(crate) struct DoctorArgs {
    /// One JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Something will not work.
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// What was found, in words.
    found: String,
    /// What to do, where the status is not ok.
    fix: Option<String>,
    /// The same for programs.
    data: Value,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>, data: Value) -> Self {
        Self { name, status: Status::Ok, found: found.into(), fix: None, data }
    }

    fn not_ok(name: &'static str, status: Status, found: String, fix: &str, data: Value) -> Self {
        Self { name, status, found, fix: Some(fix.to_owned()), data }
    }
}

/// Prints the report; the exit status is 1 if a check failed.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let checks = examine();
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    if args.json {
        let version = env!("CARGO_PKG_VERSION");
        output::json(&json!({ "version": version, "ok": !failed, "checks": checks }))?;
    } else {
        output::write(|out| checks.iter().try_for_each(|check| out.write_all(line(check).as_bytes())))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(check: &Check) -> String {
    let status = match check.status {
        Status::Ok => "ok  ",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let mut line = format!("{status}  {:<14} {}\n", check.name, check.found);
    if let Some(fix) = &check.fix {
        line.push_str(&format!("      {:<14} fix: {fix}\n", ""));
    }
    line
}

fn examine() -> Vec<Check> {
    let library = torch_ext::load_cuda();
    let devices = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    let kernels = (devices > 0).then(|| models::gpu_kernels(Device::Cuda(0))).flatten();
    let mut checks = vec![
        libtorch(torch_ext::libtorch_version_built(), &torch_ext::libtorch_version_loaded()),
        cuda_library(&library),
        cuda_devices(library.is_loaded(), devices, gpu_names()),
        cuda_part(torch_ext::cuda::nccl_version(), devices, kernels),
        bf16(torch_ext::cpu_bf16(), devices),
        threads(tch::get_num_threads(), std::thread::available_parallelism().map_or(1, usize::from)),
        memory(available_memory()),
        disk(free_space(Path::new("."))),
    ];
    checks.extend(hub::checks());
    checks
}

fn libtorch(expected: &str, found: &str) -> Check {
    let folder = torch_ext::cuda_library::libtorch_folder();
    let data = json!({ "expected": expected, "found": found, "folder": folder });
    let place = folder.map(|folder| format!(" in {}", folder.display())).unwrap_or_default();
    if expected == found {
        return Check::ok("libtorch", format!("{found}, as expected{place}"), data);
    }
    let fix = "run `make setup` and `make build`; if LIBTORCH or LD_LIBRARY_PATH is set, unset it first";
    Check::not_ok("libtorch", Status::Fail, format!("{found}{place}, but {expected} is expected"), fix, data)
}

fn cuda_library(library: &CudaLibrary) -> Check {
    const NAME: &str = "libtorch_cuda";
    match library {
        CudaLibrary::Loaded { path } => Check::ok(
            NAME,
            format!("loaded from {}", path.display()),
            json!({ "loaded": true, "path": path }),
        ),
        CudaLibrary::Absent { reason } => {
            let data = json!({ "loaded": false, "reason": reason });
            if reason.starts_with("no NVIDIA driver") {
                return Check::ok(NAME, format!("not loaded: {reason}"), data);
            }
            let fix = "run `make setup` on this machine: where it sees a GPU it fetches CUDA's libraries too";
            Check::not_ok(NAME, Status::Warn, format!("not loaded: {reason}"), fix, data)
        }
    }
}

fn cuda_devices(loaded: bool, count: usize, names: Vec<String>) -> Check {
    const NAME: &str = "CUDA devices";
    let memory: Vec<Value> = (0..count)
        .filter_map(torch_ext::cuda_device_memory)
        .map(|(free, total)| json!({ "free": free, "total": total }))
        .collect();
    let data = json!({ "count": count, "names": names, "memory": memory });
    match count {
        0 if loaded || !names.is_empty() => {
            let fix =
                "check CUDA_VISIBLE_DEVICES and `nvidia-smi`; CUDA 13 needs an NVIDIA driver of 580 or newer";
            Check::not_ok(NAME, Status::Warn, "none that libtorch can use".to_owned(), fix, data)
        }
        0 => Check::ok(NAME, "none: the CPU computes", data),
        _ if names.is_empty() => Check::ok(NAME, count.to_string(), data),
        _ => Check::ok(NAME, format!("{count}: {}", names.join(", ")), data),
    }
}

/// What lies behind the feature `cuda`, by the version of NCCL that it finds.
fn cuda_part(
    nccl: torch_ext::Result<(i32, i32, i32)>,
    devices: usize,
    kernels: Option<&GpuKernels>,
) -> Check {
    const NAME: &str = "CUDA part";
    let built = torch_ext::cuda::embedded().is_some();
    match nccl {
        Ok((major, minor, patch)) => {
            let nccl = format!("{major}.{minor}.{patch}");
            let said = kernels.map(ToString::to_string);
            let data = json!({ "built": built, "opened": true, "nccl": nccl, "kernels": said });
            let said = said.map_or_else(String::new, |said| format!(", kernels {said}"));
            let found = format!("opened: NCCL {nccl}, CUDA graphs{said}");
            match kernels {
                Some(GpuKernels::Absent(_) | GpuKernels::Wrong(_)) => {
                    let fix = "libtorch's operations take their place, which is slower; CUDA 13 needs a driver of 580 or \
                               newer";
                    Check::not_ok(NAME, Status::Warn, found, fix, data)
                }
                None | Some(GpuKernels::Used | GpuKernels::Off) => Check::ok(NAME, found, data),
            }
        }
        Err(error) => {
            let data = json!({ "built": built, "opened": false, "reason": error.to_string() });
            let missed = match &error {
                torch_ext::Error::NoCuda { reason: NoCuda::NotBuilt } => devices > 0,
                torch_ext::Error::NoCuda { reason: NoCuda::NoLibrary(_) } => false,
                _ => true,
            };
            let found = format!("not opened: {error}");
            if missed {
                let fix = error.hint().unwrap_or_default();
                return Check::not_ok(NAME, Status::Warn, found, &fix, data);
            }
            Check::ok(NAME, found, data)
        }
    }
}

fn bf16(cpu: CpuBf16, devices: usize) -> Check {
    let CpuBf16 { amx_tile, avx512_bf16, avx512 } = cpu;
    let data = json!({ "gpu": devices > 0, "amx": amx_tile, "avx512_bf16": avx512_bf16, "avx512": avx512 });
    let by = [(devices > 0, "the GPU"), (amx_tile, "AMX"), (avx512_bf16, "AVX-512 BF16")];
    let by: Vec<_> = by.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
    if by.is_empty() {
        let fix = "a GPU, or a CPU with AMX (Intel Xeon since 2023), trains several times faster";
        let found = "no hardware for it: matrix products run in f32".to_owned();
        return Check::not_ok("bf16", Status::Warn, found, fix, data);
    }
    Check::ok("bf16", format!("by {}", by.join(", ")), data)
}

fn threads(threads: i32, cores: usize) -> Check {
    let data = json!({ "threads": threads, "cores": cores });
    let found = format!("{threads} for {cores} cores");
    if usize::try_from(threads).is_ok_and(|threads| threads <= cores) {
        return Check::ok("threads", found, data);
    }
    let fix = "more threads than cores slow each other down: unset OMP_NUM_THREADS, or lower --threads";
    Check::not_ok("threads", Status::Warn, found, fix, data)
}

/// `(available, total)` bytes.
fn memory(found: Option<(u64, u64)>) -> Check {
    let Some((available, total)) = found else {
        return Check::ok("memory", "not known here", json!({ "available_bytes": null }));
    };
    let data = json!({ "available_bytes": available, "total_bytes": total });
    let found = format!("{:.1} GB available of {:.1} GB", available as f64 / GB, total as f64 / GB);
    let fix = "end other programs, or lower training.batch_tokens and encoder.batch_tokens in the recipe";
    match available as f64 / GB {
        ..1.0 => Check::not_ok("memory", Status::Fail, found, fix, data),
        1.0..4.0 => Check::not_ok("memory", Status::Warn, found, fix, data),
        _ => Check::ok("memory", found, data),
    }
}

/// Bytes of memory that a new program could take, within the limits of a container.
fn available_memory() -> Option<(u64, u64)> {
    let mut system = sysinfo::System::new().ok()?;
    system.refresh_memory();
    let (available, total) = (system.available_memory(), system.total_memory());
    Some(match system.cgroup_limits() {
        Some(limits) if limits.total_memory > 0 && limits.total_memory < total => {
            (available.min(limits.free_memory), limits.total_memory)
        }
        _ => (available, total),
    })
}

fn disk(free: Option<u64>) -> Check {
    let Some(bytes) = free else {
        return Check::ok("disk", "the free space here is not known", json!({ "free_bytes": null }));
    };
    let data = json!({ "free_bytes": bytes });
    let found = format!("{:.1} GB free here", bytes as f64 / GB);
    let fix = "free some space, or put runs on another disk with --set run.dir=DIR";
    match bytes as f64 / GB {
        ..1.0 => Check::not_ok("disk", Status::Fail, found, fix, data),
        1.0..10.0 => Check::not_ok("disk", Status::Warn, found, fix, data),
        _ => Check::ok("disk", found, data),
    }
}

/// Bytes that can be written below `path`: the disk with the longest mount point above it.
fn free_space(path: &Path) -> Option<u64> {
    let path = fs_err::canonicalize(path).ok()?;
    let disks = sysinfo::Disks::new_with_refreshed_list().ok()?;
    let above = disks.iter().filter(|disk| path.starts_with(disk.mount_point()));
    let nearest = above.max_by_key(|disk| disk.mount_point().as_os_str().len())?;
    Some(nearest.available_space())
}

/// What `nvidia-smi` calls the GPUs; nothing where it is not installed.
fn gpu_names() -> Vec<String> {
    let asked =
        Command::new("nvidia-smi").args(["--query-gpu=name,memory.total", "--format=csv,noheader"]).output();
    match asked {
        Ok(answer) if answer.status.success() => {
            String::from_utf8_lossy(&answer.stdout).lines().map(|line| line.trim().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::hub::{hub_cache_check, hub_endpoint, offline};
    use super::*;
    use models::hub::HubSettings;

    #[test]
    fn what_is_not_well_has_a_fix() {
        let absent = |reason: &str| cuda_library(&CudaLibrary::Absent { reason: reason.to_owned() });
        let no_part = |reason, devices| cuda_part(Err(torch_ext::Error::NoCuda { reason }), devices, None);
        let with = |kernels| cuda_part(Ok((2, 28, 9)), 1, kernels);
        let none = CpuBf16::default();
        let endpoint =
            |address: &str| HubSettings { endpoint: Some(address.to_owned()), ..HubSettings::default() };
        let checks = [
            (libtorch("2.11.0", "2.10.1"), Status::Fail),
            (absent("libcusparse.so.12: cannot open shared object file"), Status::Warn),
            (absent("no NVIDIA driver (libcuda.so.1: not there)"), Status::Ok),
            (cuda_devices(true, 0, vec![]), Status::Warn),
            (cuda_devices(false, 0, vec!["A GPU, 80 GB".to_owned()]), Status::Warn),
            (cuda_devices(false, 0, vec![]), Status::Ok),
            (with(None), Status::Ok),
            (with(Some(&GpuKernels::Used)), Status::Ok),
            (with(Some(&GpuKernels::Wrong("SwiGLU".to_owned()))), Status::Warn),
            (no_part(NoCuda::NotBuilt, 0), Status::Ok),
            (no_part(NoCuda::NotBuilt, 8), Status::Warn),
            (no_part(NoCuda::NoLibrary("no NVIDIA driver".to_owned()), 0), Status::Ok),
            (no_part(NoCuda::NotOpened("libcudart.so.13: not there".to_owned()), 1), Status::Warn),
            (bf16(none, 0), Status::Warn),
            (bf16(none, 1), Status::Ok),
            (bf16(CpuBf16 { amx_tile: true, ..none }, 0), Status::Ok),
            (threads(8, 2), Status::Warn),
            (threads(2, 2), Status::Ok),
            (memory(Some((500_000_000, 8_000_000_000))), Status::Fail),
            (memory(Some((2_000_000_000, 8_000_000_000))), Status::Warn),
            (memory(Some((5_000_000_000, 8_000_000_000))), Status::Ok),
            (disk(Some(1_000)), Status::Fail),
            (disk(Some(5_000_000_000)), Status::Warn),
            (disk(Some(50_000_000_000)), Status::Ok),
            (disk(None), Status::Ok),
            (hub_endpoint(&endpoint("http://127.0.0.1:8080")), Status::Ok),
            (hub_endpoint(&endpoint("hub.example")), Status::Warn),
            (hub_cache_check(Path::new("/nowhere"), Some(1_000_000_000)), Status::Warn),
            (hub_cache_check(Path::new("/nowhere"), Some(50_000_000_000)), Status::Ok),
            (offline(true, false), Status::Warn),
            (offline(true, true), Status::Ok),
            (offline(false, false), Status::Ok),
        ];
        for (check, status) in checks {
            assert_eq!(check.status, status, "{check:?}");
            assert_eq!(check.fix.is_some(), status != Status::Ok, "{check:?}");
            assert_eq!(line(&check).contains("fix: "), status != Status::Ok);
        }
    }

    #[test]
    fn this_machine_is_measured() {
        let Some((available, total)) = available_memory() else { return };
        assert!(0 < available && available <= total);
        assert!(free_space(Path::new(".")).is_none_or(|bytes| bytes > 0));
        assert_eq!(examine().len(), 13);
    }
}
