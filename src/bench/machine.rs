//! What the machine gives at best, measured in the same process.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// Side of the matrices in [`matmul_gflops`]. On a GPU a product of the smaller ones takes as long as to ask for it.
const fn side(device: Device) -> i64 {
    if matches!(device, Device::Cpu) { 2048 } else { 8192 }
}
/// Seconds that the products are repeated for, after a first one that warms libtorch up.
const SECONDS: f64 = 1.0;

/// Billions of operations a second of a large square matrix product in `kind`: the ceiling for everything that consists
/// of matrix products. The best of the products that fit into a second.
pub(crate) fn matmul_gflops(kind: Kind, device: Device) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    let side = side(device);
    let random = || Tensor::f_randn([side, side], (Kind::Float, device))?.f_to_kind(kind);
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
    Ok(2.0 * (side as f64).powi(3) / best / 1e9)
}

/// The line of the benches about matrix products: what was reached, in GFLOP/s, and what a large one reaches.
pub(crate) fn products_line(achieved: f64, ceiling: f64) -> String {
    let percent = 100.0 * achieved / ceiling;
    format!(
        "products  {achieved:.0} GFLOP/s of {ceiling:.0} that large matrix products reach here ({percent:.0} %)"
    )
}

/// The line of the benches about texts that were encoded.
pub(crate) fn encoding_line(texts_per_s: f64, tokens_per_s: f64, seconds: f64) -> String {
    format!("speed     {texts_per_s:.1} texts/s, {tokens_per_s:.0} tokens/s ({seconds:.2} s)")
}

/// Bytes that are copied in [`copy_gb_per_s`], more than caches hold and, on a GPU, than are copied while it is asked.
const fn copied(device: Device) -> i64 {
    if matches!(device, Device::Cpu) { 1 << 28 } else { 1 << 31 }
}

/// Billions of bytes a second that memory of a device is read and written with by a copy within it, both counted: the
/// ceiling for everything that computes little. The best of the copies that fit into half a second.
pub(crate) fn copy_gb_per_s(device: Device) -> Result<f64> {
    let _no_grad = tch::no_grad_guard();
    // ones, so that every page is there
    let bytes = copied(device);
    let from = Tensor::f_ones([bytes], (Kind::Uint8, device))?;
    let mut to = Tensor::f_ones([bytes], (Kind::Uint8, device))?;
    let mut copy = || -> Result<f64> {
        let started = Instant::now();
        to.f_copy_(&from)?;
        // a number of the result is there only when the copy is
        let _ = to.f_narrow(0, 0, 1)?.f_int64_value(&[0])?;
        Ok(started.elapsed().as_secs_f64())
    };
    copy()?;
    let (mut best, mut spent) = (f64::INFINITY, 0.0);
    while spent < SECONDS / 2.0 {
        let seconds = copy()?;
        best = best.min(seconds);
        spent += seconds;
    }
    Ok(2.0 * bytes as f64 / best / 1e9)
}

/// The most memory that this process has had resident, in bytes, mapped files included (`VmHWM` of
/// `/proc/self/status`, proc(5)); `None` where the system does not say.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The most memory so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct PeakMemory {
    /// Of the process, mapped files included: [`peak_resident_bytes`].
    peak_resident_bytes: Option<u64>,
    /// In tensors on the device, by libtorch's allocator; `None` on a CPU, whose tensors are resident.
    peak_device_bytes: Option<u64>,
}

impl PeakMemory {
    /// Up to now, on the machine and on `device`.
    pub(crate) fn of(device: Device) -> Self {
        let peak_device_bytes = match device {
            Device::Cuda(index) => torch_ext::cuda_memory_stats(index).map(|stats| stats.peak_allocated),
            _ => None,
        };
        Self { peak_resident_bytes: peak_resident_bytes(), peak_device_bytes }
    }
}

impl std::fmt::Display for PeakMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.peak_resident_bytes {
            Some(bytes) => write!(f, "{:.2} GiB at most", gib(bytes))?,
            None => write!(f, "? GiB at most")?,
        }
        self.peak_device_bytes
            .map_or(Ok(()), |bytes| write!(f, ", {:.2} GiB in tensors on the device", gib(bytes)))
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
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
    fn memory_of_a_device_is_told_beside_that_of_the_process() {
        let here = PeakMemory::of(Device::Cpu);
        assert!(here.peak_resident_bytes.unwrap() > 1 << 20);
        assert_eq!(here.peak_device_bytes, None);
        let made = PeakMemory { peak_resident_bytes: Some(3 << 29), peak_device_bytes: Some(5 << 30) };
        assert_eq!(made.to_string(), "1.50 GiB at most, 5.00 GiB in tensors on the device");
        let there = PeakMemory::of(Device::Cuda(0));
        assert_eq!(there.peak_device_bytes.is_some(), tch::Cuda::is_available());
    }

    #[test]
    fn a_product_has_a_rate() {
        assert!(matmul_gflops(Kind::Float, Device::Cpu).unwrap() > 0.1);
        let copied = copy_gb_per_s(Device::Cpu).unwrap();
        assert!(copied > 0.1 && copied < 10_000.0, "{copied}");
    }
}
