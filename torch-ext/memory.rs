//! What libtorch's allocator holds of a GPU's memory.

use crate::ffi;
use std::ffi::c_int;

/// Bytes of one CUDA device in libtorch's caching allocator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in tensors now.
    pub allocated: u64,
    /// Bytes taken from the device, in tensors or kept for the next ones.
    pub reserved: u64,
    /// The most bytes that were in tensors since the start or [`reset_cuda_peak_memory`].
    pub peak_allocated: u64,
}

/// The allocator's numbers for a CUDA device; `None` where there is no such device.
pub fn cuda_memory_stats(device: usize) -> Option<MemoryStats> {
    let device = present(device)?;
    let [mut allocated, mut reserved, mut peak] = [0i64; 3];
    ffi::call("getDeviceStats", |fault| {
        // SAFETY: all pointers are valid for a write.
        unsafe { ffi::te_memory_stats(device, &raw mut allocated, &raw mut reserved, &raw mut peak, fault) }
    })
    .ok()?;
    Some(MemoryStats {
        allocated: allocated.try_into().ok()?,
        reserved: reserved.try_into().ok()?,
        peak_allocated: peak.try_into().ok()?,
    })
}

/// Bytes that are (free, there) on a CUDA device, whoever uses it; `None` where there is no such device.
pub fn cuda_device_memory(device: usize) -> Option<(u64, u64)> {
    let device = present(device)?;
    let [mut free, mut total] = [0i64; 2];
    ffi::call("getMemoryInfo", |fault| {
        // SAFETY: both pointers are valid for a write.
        unsafe { ffi::te_device_memory(device, &raw mut free, &raw mut total, fault) }
    })
    .ok()?;
    Some((free.try_into().ok()?, total.try_into().ok()?))
}

/// Begins a new measurement of the peak; nothing happens where there is no such device.
pub fn reset_cuda_peak_memory(device: usize) {
    if let Some(device) = present(device) {
        // SAFETY: no pointer but the place for the message. A fault leaves the old peak, which harms nothing.
        let _ = ffi::call("resetPeakStats", |fault| unsafe { ffi::te_reset_peak_memory(device, fault) });
    }
}

/// Gives memory that no tensor uses back to the devices; nothing happens without CUDA.
pub fn empty_cuda_cache() {
    if tch::Cuda::is_available() {
        // SAFETY: no pointer but the place for the message. A fault leaves the memory cached, which harms nothing.
        let _ = ffi::call("emptyCache", |fault| unsafe { ffi::te_empty_cache(fault) });
    }
}

fn present(device: usize) -> Option<c_int> {
    let device = c_int::try_from(device).ok()?;
    (tch::Cuda::is_available() && i64::from(device) < tch::Cuda::device_count()).then_some(device)
}

/// Has the process keep freed memory for its next tensors, from now on: a training step frees and takes the same large
/// blocks each time, and fresh pages from the system are cleared one by one. Returns whether the system's allocator (glibc's)
/// can be told so.
pub fn keep_freed_memory() -> bool {
    // SAFETY: no pointers; mallopt(3) may be called at any time.
    unsafe { ffi::te_keep_freed_memory() != 0 }
}

/// Gives freed memory back to the system once, whatever [`keep_freed_memory`] says: after tensors of many sizes the free
/// blocks between those in use add up. Returns whether there was any.
pub fn release_freed_memory() -> bool {
    // SAFETY: no pointers; malloc_trim(3) may be called at any time.
    unsafe { ffi::te_release_freed_memory() != 0 }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_has_no_numbers() {
        assert_eq!(cuda_memory_stats(4096), None);
        assert_eq!(cuda_memory_stats(0).is_some(), tch::Cuda::is_available());
        assert_eq!(cuda_device_memory(4096), None);
        assert_eq!(cuda_device_memory(0).is_some(), tch::Cuda::is_available());
        reset_cuda_peak_memory(4096);
        empty_cuda_cache();
    }
}
