//! The shim's functions, and the one way they are called.

use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use tch::{Device, Kind, Tensor};

/// A tensor as the shim takes it: a pointer to an `at::Tensor`.
pub(crate) type RawTensor = *mut c_void;
type Fault = *mut *mut c_char;

unsafe extern "C" {
    pub(crate) fn te_free(message: *mut c_char);
    pub(crate) fn te_from_blob(
        data: *mut c_void,
        sizes: *const i64,
        dims: usize,
        kind: c_int,
        drop: extern "C" fn(*mut c_void),
        owner: *mut c_void,
        out: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_fused_adamw(
        params: *const RawTensor,
        grads: *const RawTensor,
        exp_avgs: *const RawTensor,
        exp_avg_sqs: *const RawTensor,
        steps: *const RawTensor,
        n: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_foreach_copy(
        dst: *const RawTensor,
        src: *const RawTensor,
        n: usize,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_foreach_add_scalar(
        tensors: *const RawTensor,
        n: usize,
        value: f64,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_foreach_mul_tensor(
        tensors: *const RawTensor,
        n: usize,
        factor: RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_foreach_lerp(
        tensors: *const RawTensor,
        ends: *const RawTensor,
        n: usize,
        weight: f64,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_global_norm(
        tensors: *const RawTensor,
        n: usize,
        out: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_rng_state(device: c_int, out: *mut RawTensor, error: Fault) -> c_int;
    pub(crate) fn te_set_rng_state(device: c_int, state: RawTensor, error: Fault) -> c_int;
    pub(crate) fn te_memory_stats(
        device: c_int,
        allocated: *mut i64,
        reserved: *mut i64,
        peak_allocated: *mut i64,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_device_memory(device: c_int, free: *mut i64, total: *mut i64, error: Fault) -> c_int;
    pub(crate) fn te_reset_peak_memory(device: c_int, error: Fault) -> c_int;
    pub(crate) fn te_empty_cache(error: Fault) -> c_int;
    pub(crate) fn te_send(x: RawTensor, device: c_int, out: *mut RawTensor, error: Fault) -> c_int;
    pub(crate) fn te_keep_freed_memory() -> c_int;
    pub(crate) fn te_release_freed_memory() -> c_int;
    pub(crate) fn te_set_deterministic(on: c_int, error: Fault) -> c_int;
    pub(crate) fn te_set_cudnn_attention(on: c_int, error: Fault) -> c_int;
    pub(crate) fn te_set_tf32(on: c_int, error: Fault) -> c_int;
    pub(crate) fn te_init_amx(ready: *mut c_int, error: Fault) -> c_int;
    pub(crate) fn te_gradient_hook(
        tensor: RawTensor,
        see: extern "C" fn(*mut c_void, RawTensor),
        drop: extern "C" fn(*mut c_void),
        context: *mut c_void,
        hook: *mut c_uint,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_remove_gradient_hook(tensor: RawTensor, hook: c_uint, error: Fault) -> c_int;
    pub(crate) fn te_add_rms_norm(
        x: RawTensor,
        a: RawTensor,
        gain: RawTensor,
        eps: f64,
        sum: *mut RawTensor,
        y: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_swiglu(x: RawTensor, y: *mut RawTensor, error: Fault) -> c_int;
    pub(crate) fn te_short_attention(
        qkv: RawTensor,
        cos: RawTensor,
        sin: RawTensor,
        mask: RawTensor,
        heads: i64,
        kv_heads: i64,
        from: i64,
        causal: c_int,
        y: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_cross_entropy_(
        scores: RawTensor,
        targets: RawTensor,
        smoothing: f64,
        losses: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_add_norm(
        residual: RawTensor,
        delta: RawTensor,
        gain: RawTensor,
        eps: f64,
        out: RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_cached_attention(
        qkv: RawTensor,
        keys: RawTensor,
        values: RawTensor,
        slots: *const i32,
        positions: *const i32,
        table: *const i32,
        rows: i64,
        heads: i64,
        cosines: RawTensor,
        sines: RawTensor,
        out: RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_pick(
        logits: RawTensor,
        states: RawTensor,
        head: RawTensor,
        keep: i64,
        spare: i64,
        tokens: *mut i64,
        log_probs: *mut f32,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_pack_linear(weight: RawTensor, rows: i64, out: *mut RawTensor, error: Fault) -> c_int;
    pub(crate) fn te_packed_linear(
        x: RawTensor,
        packed: RawTensor,
        bias: RawTensor,
        out: *mut RawTensor,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_profile_begin(cuda: c_int, error: Fault) -> c_int;
    pub(crate) fn te_profile_end(
        trace: *const c_char,
        see: extern "C" fn(*mut c_void, *const c_char, c_int, u64, u64, u64),
        owner: *mut c_void,
        error: Fault,
    ) -> c_int;
    pub(crate) fn te_version_built() -> *const c_char;
    pub(crate) fn te_abi_version_built() -> u64;
    pub(crate) fn te_abi_version_loaded() -> u64;
}

/// Calls into the shim and turns its message into an [`Error::Torch`] of `op`.
pub(crate) fn call(op: &'static str, body: impl FnOnce(Fault) -> c_int) -> Result<()> {
    let mut message: *mut c_char = std::ptr::null_mut();
    if body(&raw mut message) == 0 {
        return Ok(());
    }
    if message.is_null() {
        return Err(Error::Torch { op, message: "no message".to_owned() });
    }
    // SAFETY: the shim sets a nul-terminated string that is ours to free.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().trim().to_owned();
        te_free(message);
        text
    };
    Err(Error::Torch { op, message: text })
}

/// Calls a function of the shim that leaves a new tensor in its last argument but one.
pub(crate) fn call_for_tensor(
    op: &'static str,
    body: impl FnOnce(*mut RawTensor, Fault) -> c_int,
) -> Result<Tensor> {
    let mut out: RawTensor = std::ptr::null_mut();
    call(op, |fault| body(&raw mut out, fault))?;
    // SAFETY: on success the shim leaves a fresh `new at::Tensor`, which is what tch owns and deletes.
    Ok(unsafe { Tensor::from_ptr(out.cast()) })
}

/// The pointer to the `at::Tensor` that `tensor` owns.
pub(crate) fn raw(tensor: &Tensor) -> RawTensor {
    tensor.as_ptr().cast_mut().cast()
}

/// The pointers of a list; they live as long as the tensors.
pub(crate) fn raw_list(tensors: &[Tensor]) -> Vec<RawTensor> {
    tensors.iter().map(raw).collect()
}

/// The shim's number of a device: -1 for the CPU.
pub(crate) fn device_index(op: &'static str, device: Device) -> Result<c_int> {
    match device {
        Device::Cpu => Ok(-1),
        Device::Cuda(index) => c_int::try_from(index)
            .map_err(|_| Error::Argument { op, message: format!("there is no CUDA device {index}") }),
        other => {
            Err(Error::Argument { op, message: format!("{other:?} is neither the CPU nor a CUDA device") })
        }
    }
}

/// libtorch's number of a kind (`c10/core/ScalarType.h`).
pub(crate) fn scalar_type(op: &'static str, kind: Kind) -> Result<c_int> {
    Ok(match kind {
        Kind::Uint8 => 0,
        Kind::Int8 => 1,
        Kind::Int16 => 2,
        Kind::Int => 3,
        Kind::Int64 => 4,
        Kind::Half => 5,
        Kind::Float => 6,
        Kind::Double => 7,
        Kind::Bool => 11,
        Kind::BFloat16 => 15,
        other => {
            return Err(Error::Argument { op, message: format!("tensors of {other:?} are not supported") });
        }
    })
}
