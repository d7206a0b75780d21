#include "shim.h"
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <torch/headeronly/version.h>

#include <climits>
#include <cstdlib>
#include <memory>
#include <mutex>
#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" uint64_t aoti_torch_abi_version();

namespace {

c10::Device device_of(int index) {
  return index < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace

extern "C" {

void te_free(char* message) { std::free(message); }

int te_from_blob(void* data, const int64_t* sizes, size_t dims, int kind, void (*drop)(void*), void* owner,
                 void** out, char** error) {
  // The owner is dropped exactly once: by the storage's deleter, or here if no storage came to be.
  bool owned = false;
  int status = guarded(error, [&] {
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).device(c10::kCPU);
    auto view = at::from_blob(data, at::IntArrayRef(sizes, dims), [drop, owner](void*) { drop(owner); }, options);
    owned = true;
    *out = new at::Tensor(std::move(view));
  });
  if (!owned) drop(owner);
  return status;
}

int te_fused_adamw(void* const* params, void* const* grads, void* const* exp_avgs, void* const* exp_avg_sqs,
                   void* const* steps, size_t n, double lr, double beta1, double beta2, double weight_decay,
                   double eps, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    at::_fused_adamw_(list(params, n), list(grads, n), list(exp_avgs, n), list(exp_avg_sqs, n),
                      std::vector<at::Tensor>{}, list(steps, n), lr, beta1, beta2, weight_decay, eps,
                      /*amsgrad=*/false, /*maximize=*/false);
  });
}

int te_foreach_copy(void* const* dst, void* const* src, size_t n, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    at::_foreach_copy_(list(dst, n), list(src, n));
  });
}

int te_foreach_add_scalar(void* const* tensors, size_t n, double value, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    at::_foreach_add_(list(tensors, n), at::Scalar(value));
  });
}

int te_foreach_mul_tensor(void* const* tensors, size_t n, void* factor, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    at::_foreach_mul_(list(tensors, n), tensor(factor));
  });
}

int te_foreach_lerp(void* const* tensors, void* const* ends, size_t n, double weight, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    at::_foreach_lerp_(list(tensors, n), list(ends, n), at::Scalar(weight));
  });
}

int te_global_norm(void* const* tensors, size_t n, void** out, char** error) {
  return guarded(error, [&] {
    c10::NoGradGuard no_grad;
    auto norms = at::_foreach_norm(list(tensors, n), 2, at::kFloat);
    *out = new at::Tensor(at::linalg_vector_norm(at::stack(norms)));
  });
}

int te_rng_state(int device, void** out, char** error) {
  return guarded(error, [&] {
    at::Generator generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    *out = new at::Tensor(generator.get_state());
  });
}

int te_set_rng_state(int device, void* state, char** error) {
  return guarded(error, [&] {
    at::Generator generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(tensor(state));
  });
}

int te_memory_stats(int device, int64_t* allocated, int64_t* reserved, int64_t* peak_allocated, char** error) {
  return guarded(error, [&] {
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    auto stats = at::getDeviceAllocator(c10::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    *allocated = stats.allocated_bytes[all].current;
    *peak_allocated = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].current;
  });
}

int te_device_memory(int device, int64_t* free, int64_t* total, char** error) {
  return guarded(error, [&] {
    const auto found = at::getDeviceAllocator(c10::kCUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free = static_cast<int64_t>(found.first);
    *total = static_cast<int64_t>(found.second);
  });
}

int te_reset_peak_memory(int device, char** error) {
  return guarded(error, [&] {
    at::getDeviceAllocator(c10::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device));
  });
}

int te_empty_cache(char** error) {
  return guarded(error, [&] { at::getDeviceAllocator(c10::kCUDA)->emptyCache(); });
}

int te_send(void* x, int device, void** out, char** error) {
  return guarded(error, [&] {
    const at::Tensor& here = tensor(x);
    *out = new at::Tensor(here.pin_memory().to(device_of(device), here.scalar_type(), /*non_blocking=*/true));
  });
}

int te_keep_freed_memory() {
#ifdef __GLIBC__
  return mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_TRIM_THRESHOLD, INT_MAX) == 1 ? 1 : 0;
#else
  return 0;
#endif
}

int te_release_freed_memory() {
#ifdef __GLIBC__
  return malloc_trim(0);
#else
  return 0;
#endif
}

int te_set_deterministic(int on, char** error) {
  return guarded(error, [&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on != 0, /*warn_only=*/false);
    context.setDeterministicCuDNN(on != 0);
    // With deterministic algorithms on, fresh memory would be filled with NaN at a cost; our code reads none of it.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

int te_set_cudnn_attention(int on, char** error) {
  return guarded(error, [&] { at::globalContext().setSDPUseCuDNN(on != 0); });
}

int te_set_tf32(int on, char** error) {
  return guarded(error, [&] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}

int te_init_amx(int* ready, char** error) {
  return guarded(error, [&] { *ready = at::cpu::init_amx() ? 1 : 0; });
}

int te_gradient_hook(void* t, void (*see)(void*, void*), void (*drop)(void*), void* context, unsigned* hook,
                     char** error) {
  std::shared_ptr<void> owner(context, drop);
  return guarded(error, [&] {
    *hook = tensor(t).register_hook([see, owner](const at::Tensor& gradient) {
      at::Tensor seen = gradient;
      see(owner.get(), &seen);
    });
  });
}

int te_remove_gradient_hook(void* t, unsigned hook, char** error) {
  return guarded(error, [&] { tensor(t).remove_hook(hook); });
}

const char* te_version_built() { return TORCH_VERSION; }
uint64_t te_abi_version_built() { return TORCH_ABI_VERSION; }
uint64_t te_abi_version_loaded() { return aoti_torch_abi_version(); }
}
