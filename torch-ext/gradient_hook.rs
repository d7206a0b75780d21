//! A look at gradients as they come.

use std::ffi::{c_uint, c_void};

use tch::Tensor;

use crate::error::{Error, Result};
use crate::ffi::{self, RawTensor};

/// What is called with a gradient.
type See = Box<dyn FnMut(&Tensor) + Send>;

/// While it lives, a function sees the gradient of a leaf as soon as a backward pass has it, long before the pass ends.
pub struct GradientHook {
    leaf: Tensor,
    number: c_uint,
}

impl std::fmt::Debug for GradientHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GradientHook").field("number", &self.number).finish_non_exhaustive()
    }
}

impl GradientHook {
    /// Calls `see` with each gradient of `leaf`, a tensor that requires gradients and is nobody's result, in every backward
    /// pass that computes it. The call comes from autograd's thread: the caller's own on a CPU, another on a GPU. `see` must
    /// not start a backward pass, and leaves the gradient as it is.
    ///
    /// # Errors
    /// [`Error::Argument`] for a tensor that is no such leaf.
    pub fn new(leaf: &Tensor, see: impl FnMut(&Tensor) + Send + 'static) -> Result<Self> {
        const OP: &str = "register_hook";
        if !leaf.requires_grad() || !leaf.is_leaf() {
            let message = "the tensor is no leaf that requires gradients".to_owned();
            return Err(Error::Argument { op: OP, message });
        }
        let see: Box<See> = Box::new(Box::new(see));
        let mut number = 0;
        // SAFETY: the shim owns the box from here on, whatever it returns: it drops it once, with `drop_see`.
        ffi::call(OP, |fault| unsafe {
            ffi::te_gradient_hook(
                ffi::raw(leaf),
                call_see,
                drop_see,
                Box::into_raw(see).cast(),
                &raw mut number,
                fault,
            )
        })?;
        Ok(Self { leaf: leaf.shallow_clone(), number })
    }
}

impl Drop for GradientHook {
    fn drop(&mut self) {
        // SAFETY: the leaf is live and the number is of its hook. A failure would leave the hook, which does no harm.
        let _ = ffi::call("remove_hook", |fault| unsafe {
            ffi::te_remove_gradient_hook(ffi::raw(&self.leaf), self.number, fault)
        });
    }
}

extern "C" fn call_see(see: *mut c_void, gradient: RawTensor) {
    // SAFETY: the gradient is live during the call. The wrapper that tch makes would delete it: it is never dropped.
    let gradient = std::mem::ManuallyDrop::new(unsafe { Tensor::from_ptr(gradient.cast()) });
    // a panic must not reach C++
    let called = std::panic::AssertUnwindSafe(|| {
        // SAFETY: the box that `new` handed over; autograd calls the hooks of one leaf one after the other.
        unsafe { (*see.cast::<See>())(&gradient) }
    });
    if std::panic::catch_unwind(called).is_err() {
        std::process::abort();
    }
}

extern "C" fn drop_see(see: *mut c_void) {
    // SAFETY: the box that `new` handed over, dropped once.
    drop(unsafe { Box::from_raw(see.cast::<See>()) });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tch::{Device, Kind};

    #[test]
    fn gradients_are_seen_once_a_pass_and_not_after_the_hook() {
        let leaf = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let hook = GradientHook::new(&leaf, move |gradient| {
            sink.lock().unwrap().push(Vec::<f64>::try_from(gradient.to_kind(Kind::Double)).unwrap());
        })
        .unwrap();
        let pass = || {
            let loss = (&leaf * Tensor::from_slice(&[2.0f32, 3.0])).sum(Kind::Float) + leaf.sum(Kind::Float);
            Tensor::run_backward(&[loss], &[&leaf], false, false)
        };
        let found = pass();
        assert_eq!(*seen.lock().unwrap(), [vec![3.0, 4.0]]);
        assert_eq!(Vec::<f32>::try_from(&found[0]).unwrap(), [3.0, 4.0]);
        drop(hook);
        pass();
        assert_eq!(seen.lock().unwrap().len(), 1);
        // the sink went with the hook
        assert_eq!(Arc::strong_count(&seen), 1);
    }

    #[test]
    fn only_leaves_have_hooks() {
        let plain = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert!(GradientHook::new(&plain, |_| ()).is_err());
        let result = plain.set_requires_grad(true) * 2.0;
        assert!(GradientHook::new(&result, |_| ()).is_err());
    }
}
