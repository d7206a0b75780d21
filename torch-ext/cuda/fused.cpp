// The kernels of kernels.cu, loaded, launched, and recorded for autograd.
#include "cuda.h"
#include "kernels.h"

#include "../guarded.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>
#include <string>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Loaded once, for all devices: the driver compiles the PTX for the card at hand, and keeps that on the disk.
class Library {
 public:
  void load(const char* ptx) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (library_ != nullptr) return;
    C10_CUDA_CHECK(cudaLibraryLoadData(&library_, ptx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  }

  cudaKernel_t kernel(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    TORCH_CHECK(library_ != nullptr, "the kernels are not loaded");
    if (auto found = kernels_.find(name); found != kernels_.end()) return found->second;
    cudaKernel_t kernel = nullptr;
    C10_CUDA_CHECK(cudaLibraryGetKernel(&kernel, library_, name.c_str()));
    kernels_.emplace(name, kernel);
    return kernel;
  }

 private:
  std::mutex mutex_;
  cudaLibrary_t library_ = nullptr;
  std::map<std::string, cudaKernel_t> kernels_;
};

Library& library() {
  static Library one;
  return one;
}

void require_type(const at::Tensor& x) {
  TORCH_CHECK(x.is_cuda(), "the kernel runs on a GPU, not on ", x.device());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "the kernel takes f32 and bf16, not ",
              x.scalar_type());
}

// Whether `count` numbers a row, from places such as these on, can be read 16 bytes at a time.
bool wide(const at::Tensor& x, int64_t count) {
  int64_t pack = 16 / x.element_size();
  return count % pack == 0 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

// A block for each of `blocks` rows, of threads for `work` packs of numbers.
template <typename Arguments>
void launch(const char* operation, const at::Tensor& x, bool wide, int64_t blocks, int64_t work, Arguments arguments) {
  if (blocks == 0 || work == 0) return;
  TORCH_CHECK(blocks <= INT32_MAX, operation, ": ", blocks, " rows are more than a grid has blocks");
  bool narrow_type = x.scalar_type() == at::kBFloat16;
  std::string name = std::string(operation) + (narrow_type ? "_bf16_" : "_f32_") +
                     (!wide ? "1" : narrow_type ? "8" : "4");
  int64_t pack = wide ? 16 / x.element_size() : 1;
  // a warp at least; more than 256 gain nothing where memory is what is waited for
  auto threads = static_cast<unsigned>(std::min<int64_t>(256, (work / pack + 31) / 32 * 32));
  void* pointers[] = {&arguments};
  C10_CUDA_CHECK(cudaLaunchKernel(library().kernel(name), dim3(static_cast<unsigned>(blocks)), dim3(std::max(threads, 32u)),
                                  pointers, 0, c10::cuda::getCurrentCUDAStream(x.get_device())));
}

bool recorded_by_autograd(const at::Tensor& x) { return c10::GradMode::is_enabled() && x.requires_grad(); }

// ---- SwiGLU ----

at::Tensor swiglu(const at::Tensor& x) {
  const c10::cuda::CUDAGuard guard(x.device());
  auto shape = x.sizes().vec();
  int64_t width = shape.back() /= 2;
  at::Tensor y = at::empty(shape, x.options());
  SwigluForward arguments{x.const_data_ptr(), y.mutable_data_ptr(), width};
  launch("swiglu", x, wide(x, width) && wide(y, width), width > 0 ? y.numel() / width : 0, width, arguments);
  return y;
}

struct SwiGlu : Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return swiglu(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    at::Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(x);
    const c10::cuda::CUDAGuard guard(x.device());
    int64_t width = dy.size(-1);
    SwigluBackward arguments{x.const_data_ptr(), dy.const_data_ptr(), dx.mutable_data_ptr(), width};
    bool is_wide = wide(x, width) && wide(dy, width) && wide(dx, width);
    launch("swiglu_backward", x, is_wide, width > 0 ? dy.numel() / width : 0, width, arguments);
    return {dx};
  }
};

// ---- rotation of queries and keys ----

Heads heads_of(const at::Tensor& x) { return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)}; }

// Whether every head begins where 16 bytes can be read at once.
bool wide_heads(const at::Tensor& x) {
  int64_t pack = 16 / x.element_size();
  return wide(x, x.size(3) / 2) && x.stride(0) % pack == 0 && x.stride(1) % pack == 0 && x.stride(2) % pack == 0;
}

// Launches `turn` or `turn_backward` between (B, T, (N + 2 K) D) and the (B, T, heads, D) of queries, keys and values.
void launch_turn(const char* operation, const at::Tensor& qkv, const variable_list& apart, const at::Tensor& cos,
                 const at::Tensor& sin) {
  const c10::cuda::CUDAGuard guard(qkv.device());
  int64_t head_dim = apart[0].size(3), heads = apart[0].size(2), kv_heads = apart[1].size(2);
  Turn arguments{const_cast<void*>(qkv.const_data_ptr()), heads_of(apart[0]),      heads_of(apart[1]),
                 heads_of(apart[2]),                      cos.const_data_ptr<float>(), sin.const_data_ptr<float>(),
                 static_cast<int>(qkv.size(1)),           static_cast<int>(heads),
                 static_cast<int>(kv_heads),              static_cast<int>(head_dim)};
  bool is_wide = wide(qkv, head_dim / 2) && wide_heads(apart[0]) && wide_heads(apart[1]) && wide_heads(apart[2]);
  // as many angles as numbers are read at once
  for (const at::Tensor& table : {cos, sin}) {
    is_wide = is_wide && reinterpret_cast<uintptr_t>(table.const_data_ptr()) % (16 / qkv.element_size() * 4) == 0;
  }
  launch(operation, qkv, is_wide, qkv.size(0) * qkv.size(1), qkv.size(2) / 2, arguments);
}

variable_list turned(const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin, int64_t heads,
                     int64_t kv_heads) {
  int64_t head_dim = qkv.size(2) / (heads + 2 * kv_heads);
  variable_list apart;
  for (int64_t count : {heads, kv_heads, kv_heads}) {
    apart.push_back(at::empty({qkv.size(0), qkv.size(1), count, head_dim}, qkv.options()));
  }
  launch_turn("turn", qkv, apart, cos, sin);
  return apart;
}

struct TurnHeads : Function<TurnHeads> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin,
                               int64_t heads, int64_t kv_heads) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["sizes"] = qkv.sizes().vec();
    return turned(qkv, cos, sin, heads, kv_heads);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads_) {
    auto saved = ctx->get_saved_variables();
    variable_list grads;
    for (const at::Tensor& grad : grads_) grads.push_back(grad.stride(3) == 1 ? grad : grad.contiguous());
    at::Tensor d_qkv = at::empty(ctx->saved_data["sizes"].toIntVector(), grads[0].options());
    launch_turn("turn_backward", d_qkv, grads, saved[0], saved[1]);
    return {d_qkv, {}, {}, {}, {}};
  }
};

void require_table(const at::Tensor& table, const at::Tensor& qkv, int64_t half) {
  TORCH_CHECK(table.scalar_type() == at::kFloat && table.device() == qkv.device() && table.dim() == 2 &&
                  table.size(0) == qkv.size(1) && table.size(1) == half && table.is_contiguous(),
              "a table of rotations has the shape ", table.sizes(), " on ", table.device(), ", not (", qkv.size(1), ", ",
              half, ") on ", qkv.device());
}

}  // namespace

extern "C" {

int tec_load_kernels(const char* ptx, char** error) {
  return guarded(error, [&] { library().load(ptx); });
}

int tec_swiglu(void* x_, void** y, char** error) {
  return guarded(error, [&] {
    require_type(tensor(x_));
    TORCH_CHECK(tensor(x_).dim() > 0 && tensor(x_).size(-1) % 2 == 0, "gate and up do not fill ", tensor(x_).sizes());
    at::Tensor x = tensor(x_).contiguous();
    *y = new at::Tensor(recorded_by_autograd(x) ? SwiGlu::apply(x) : swiglu(x));
  });
}

int tec_turn(void* qkv_, void* cos, void* sin, int64_t heads, int64_t kv_heads, void** q, void** k, void** v,
             char** error) {
  return guarded(error, [&] {
    at::Tensor qkv = tensor(qkv_).contiguous();
    require_type(qkv);
    TORCH_CHECK(qkv.dim() == 3 && heads > 0 && kv_heads > 0 && qkv.size(2) % (2 * (heads + 2 * kv_heads)) == 0,
                qkv.sizes(), " holds no ", heads, " heads of queries and ", kv_heads, " of keys and values");
    int64_t half = qkv.size(2) / (heads + 2 * kv_heads) / 2;
    require_table(tensor(cos), qkv, half);
    require_table(tensor(sin), qkv, half);
    variable_list apart = recorded_by_autograd(qkv)
                              ? TurnHeads::apply(qkv, tensor(cos), tensor(sin), heads, kv_heads)
                              : turned(qkv, tensor(cos), tensor(sin), heads, kv_heads);
    *q = new at::Tensor(apart[0]);
    *k = new at::Tensor(apart[1]);
    *v = new at::Tensor(apart[2]);
  });
}
}
