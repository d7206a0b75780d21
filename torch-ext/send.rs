//! Tensors on their way to a GPU.

use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::ffi;

/// The tensor on `device`, in its own type; no copy where it is there already.
///
/// From the CPU to a GPU it goes through pinned memory, and nobody waits for it: what is queued afterwards finds it there. A
/// copy from any other memory ends when the GPU has done all that it was given before, which then has nothing to do
/// until the next kernel is launched.
///
/// # Errors
/// [`Error::Torch`] for a device that is not there, or memory that is not to be had.
pub fn send(x: &Tensor, device: Device) -> Result<Tensor> {
    if x.device() != Device::Cpu || !device.is_cuda() {
        return x.f_to_device(device).map_err(|error| Error::Torch { op: "to", message: error.to_string() });
    }
    let index = ffi::device_index("send", device)?;
    // SAFETY: a live tensor and a place for the result.
    ffi::call_for_tensor("pin_memory", |sent, fault| unsafe { ffi::te_send(ffi::raw(x), index, sent, fault) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn what_is_there_is_not_copied() {
        let x = Tensor::ones([3], (Kind::Int64, Device::Cpu));
        assert_eq!(send(&x, Device::Cpu).unwrap().data_ptr(), x.data_ptr());
    }

    #[test]
    fn a_gpu_that_is_not_there_is_refused_with_words() {
        let x = Tensor::ones([3], (Kind::BFloat16, Device::Cpu));
        match send(&x, Device::Cuda(if tch::Cuda::is_available() { 99 } else { 0 })) {
            Ok(_) => panic!("it went nowhere"),
            Err(error) => assert!(error.to_string().contains("pin_memory: "), "{error}"),
        }
    }

    #[test]
    fn it_arrives_on_a_gpu() {
        if !tch::Cuda::is_available() {
            return;
        }
        let x = Tensor::arange(1000, (Kind::Float, Device::Cpu)).narrow(0, 7, 900);
        let there = send(&x, Device::Cuda(0)).unwrap();
        assert_eq!(there.device(), Device::Cuda(0));
        assert!(there.to_device(Device::Cpu).equal(&x));
    }
}
