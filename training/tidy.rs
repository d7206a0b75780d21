//! Keeps the memory of a training near what its tensors need.

use tch::Device;

use crate::metric_sink::memory_bytes;

/// Freed memory is kept for the next tensors, and where their sizes vary, as those of refinements do, the blocks that
/// fit nothing add up to several times of what is in use. They are given back now and then.
#[derive(Debug, Default)]
pub(crate) struct Tidy {
    /// Resident bytes after they were given back last.
    least: u64,
}

/// Growth since then at which it is time again: giving back costs the clearing of fresh pages.
const GROWTH: f64 = 1.5;

impl Tidy {
    /// Looks at the memory, `bytes` of it resident; gives back what is free where it has grown.
    pub(crate) fn look(&mut self, bytes: u64, device: Device) {
        if device != Device::Cpu || bytes as f64 <= GROWTH * self.least as f64 {
            return;
        }
        torch_ext::release_freed_memory();
        // a training that has just begun holds little
        self.least = memory_bytes(device).max(SMALL);
    }
}

/// Less than this is not worth a look.
const SMALL: u64 = 1 << 29;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tch::{Kind, Tensor};

    #[test]
    fn what_was_freed_is_given_back() {
        torch_ext::keep_freed_memory();
        let before = memory_bytes(Device::Cpu);
        // every second one stays, so that what is freed lies between
        let mut tensors: Vec<Tensor> =
            (0..200).map(|_| Tensor::ones([1 << 20], (Kind::Float, Device::Cpu))).collect();
        let mut number = 0;
        tensors.retain(|_| {
            number += 1;
            number % 2 == 0
        });
        let full = memory_bytes(Device::Cpu);
        let mut tidy = Tidy { least: full / 2 };
        tidy.look(full, Device::Cpu);
        let after = memory_bytes(Device::Cpu);
        assert!(full - before > 700 << 20, "{before} {full}");
        assert!(full - after > 300 << 20, "{full} {after}");
        assert_eq!(tidy.least, after.max(SMALL));
        // little growth is let be
        tidy.look(tidy.least + 1, Device::Cpu);
        assert_eq!(tidy.least, after.max(SMALL));
        assert_eq!(tensors.len(), 100);
    }
}
