// The C face of what libtorch has and tch lacks.
//
// Every function returns 0, or 1 with *error set to a message that the caller frees with te_free; no C++ exception
// leaves this file. A tensor is a pointer to an at::Tensor (tch's C_tensor); a list is an array of such pointers.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
void te_free(char* message);

int te_from_blob(void* data, const int64_t* sizes, size_t dims, int kind, void (*drop)(void*), void* owner,
                 void** out, char** error);

int te_fused_adamw(void* const* params, void* const* grads, void* const* exp_avgs, void* const* exp_avg_sqs,
                   void* const* steps, size_t n, double lr, double beta1, double beta2, double weight_decay,
                   double eps, char** error);
int te_foreach_copy(void* const* dst, void* const* src, size_t n, char** error);
int te_foreach_add_scalar(void* const* tensors, size_t n, double value, char** error);
int te_foreach_mul_tensor(void* const* tensors, size_t n, void* factor, char** error);
int te_foreach_lerp(void* const* tensors, void* const* ends, size_t n, double weight, char** error);
int te_global_norm(void* const* tensors, size_t n, void** out, char** error);

// device: -1 is the CPU, otherwise the index of a CUDA device
int te_rng_state(int device, void** out, char** error);
int te_set_rng_state(int device, void* state, char** error);
// bytes that are free on a CUDA device, and all that it has
int te_device_memory(int device, int64_t* free, int64_t* total, char** error);
int te_memory_stats(int device, int64_t* allocated, int64_t* reserved, int64_t* peak_allocated, char** error);
int te_reset_peak_memory(int device, char** error);
int te_empty_cache(char** error);
// the tensor of the CPU on a CUDA device, by way of pinned memory; what is queued there afterwards finds it
int te_send(void* x, int device, void** out, char** error);
int te_keep_freed_memory();
int te_release_freed_memory();
int te_set_deterministic(int on, char** error);
int te_set_cudnn_attention(int on, char** error);
int te_set_tf32(int on, char** error);

int te_init_amx(int* ready, char** error);
// CPU kernels (kernels.cpp). `a`, and with it `sum`, may be null; so may `mask`.
int te_add_rms_norm(void* x, void* a, void* gain, double eps, void** sum, void** y, char** error);
int te_swiglu(void* x, void** y, char** error);
int te_short_attention(void* qkv, void* cos, void* sin, void* mask, int64_t heads, int64_t kv_heads, int64_t from,
                       int causal, void** y, char** error);
int te_cross_entropy_(void* scores, void* targets, double smoothing, void** losses, char** error);

const char* te_version_built();
uint64_t te_abi_version_built();
uint64_t te_abi_version_loaded();

// Calls `see(context, gradient)` for every gradient that reaches the leaf `tensor` in a backward pass, also where the
// pass was asked for it. The gradient lives for the call. `drop(context)` comes with the removal of the hook.
int te_gradient_hook(void* tensor, void (*see)(void*, void*), void (*drop)(void*), void* context, unsigned* hook,
                     char** error);
int te_remove_gradient_hook(void* tensor, unsigned hook, char** error);
}
