//! The states of libtorch's random generators, which tch can seed but neither read nor restore.

use crate::error::{Error, Result};
use crate::ffi;
use tch::{Device, Kind, Tensor};

/// The state of the default generator of `device`: u8, on the CPU, of a length that depends on the generator.
///
/// # Errors
/// [`Error::Torch`] where the device is not there.
pub fn rng_state(device: Device) -> Result<Tensor> {
    const OP: &str = "Generator::get_state";
    let index = ffi::device_index(OP, device)?;
    // SAFETY: `out` and `fault` are valid for a write.
    ffi::call_for_tensor(OP, |out, fault| unsafe { ffi::te_rng_state(index, out, fault) })
}

/// Puts the default generator of `device` back into a state that [`rng_state`] gave.
///
/// # Errors
/// [`Error::Argument`] for what is no state, [`Error::Torch`] for a state of another kind of generator.
pub fn set_rng_state(device: Device, state: &Tensor) -> Result<()> {
    const OP: &str = "Generator::set_state";
    let index = ffi::device_index(OP, device)?;
    if state.kind() != Kind::Uint8
        || state.device() != Device::Cpu
        || state.dim() != 1
        || !state.is_contiguous()
    {
        let message =
            format!("a state is a row of u8 on the CPU, not {:?} of {:?}", state.size(), state.kind());
        return Err(Error::Argument { op: OP, message });
    }
    // SAFETY: `state` is a live tensor.
    ffi::call(OP, |fault| unsafe { ffi::te_set_rng_state(index, ffi::raw(state), fault) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    // The one test of this crate that draws numbers and compares them: the generator is shared by all threads, so
    // the comparison is repeated until no other thread drew in between.
    #[test]
    fn a_restored_state_draws_the_same_numbers() {
        let draw = || {
            let x = Tensor::randn([64], (Kind::Float, Device::Cpu));
            Vec::<f32>::try_from(&x).unwrap()
        };
        let same = (0..20).any(|_| {
            let state = rng_state(Device::Cpu).unwrap();
            let first = draw();
            let second = draw();
            set_rng_state(Device::Cpu, &state).unwrap();
            let again = draw();
            first == again && first != second
        });
        assert!(same);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let state = rng_state(Device::Cpu).unwrap();
        assert!(set_rng_state(Device::Cpu, &state.narrow(0, 0, 100)).is_err());
        assert!(set_rng_state(Device::Cpu, &Tensor::from_slice(&[1.0f32])).is_err());
        if !tch::Cuda::is_available() {
            assert!(rng_state(Device::Cuda(0)).is_err());
        }
    }
}
