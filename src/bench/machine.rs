//! What the machine gives at best, measured in the same process.

use std::time::Instant;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

/// Side of the matrices in [`matmul_gflops`].
const SIDE: i64 = 2048;
/// Seconds that the products are repeated for, after a first one that warms libtorch up.
const SECONDS: f64 = 1.0;

/// Billions of operations a second of a large square matrix product in `kind`: the ceiling for everything that consists
/// of matrix products. The best of the products that fit into a second.
pub(crate) fn matmul_gflops(kind: Kind, device: Device) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let random = || Tensor::f_randn([SIDE, SIDE], (Kind::Float, device))?.f_to_kind(kind);
    let (a, b) = (random()?, random()?);
    let product = || -> Result<f64> {
        let started = Instant::now();
        let c = a.f_matmul(&b)?;
        // a number of the result is there only when the product is
        let _ = c.f_narrow(0, 0, 1)?.f_narrow(1, 0, 1)?.f_to_kind(Kind::Float)?.f_double_value(&[0, 0])?;
        Ok(started.elapsed().as_secs_f64())
    };
    product()?;
    let (mut best, mut spent) = (f64::INFINITY, 0.0);
    while spent < SECONDS {
        let seconds = product()?;
        best = best.min(seconds);
        spent += seconds;
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best / 1e9)
}

/// The most memory that this process has had resident, in bytes, mapped files included (`VmHWM` of
/// `/proc/self/status`, proc(5)); `None` where the system does not say.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The most bytes that tensors have had on a GPU; `None` for a CPU.
pub(crate) fn peak_gpu_bytes(device: Device) -> Option<u64> {
    let Device::Cuda(number) = device else { return None };
    torch_ext::cuda_memory_stats(number).map(|stats| stats.peak_allocated)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_with_what_is_there() {
        let Some(before) = peak_resident_bytes() else { return };
        // more than there has ever been: what another test has freed would make room for less
        let large = std::hint::black_box(vec![1u8; before as usize + (1 << 20)]);
        assert!(peak_resident_bytes().unwrap() > before.max(large.len() as u64));
    }

    #[test]
    fn a_cpu_has_no_gpu_memory() {
        assert_eq!(peak_gpu_bytes(Device::Cpu), None);
    }

    #[test]
    fn a_product_has_a_rate() {
        assert!(matmul_gflops(Kind::Float, Device::Cpu).unwrap() > 0.1);
    }
}
