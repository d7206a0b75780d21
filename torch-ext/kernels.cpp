// Operations of a decoder's blocks and its loss as single passes over memory, forward and backward, on the CPU.
#include "kernel_loops.h"
#include "shim.h"
#include "guarded.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>

namespace {

using kernels::Attention;
using kernels::Loops;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// What the processor has; ATEN_CPU_CAPABILITY lowers it, as it does for libtorch's own kernels.
const Loops* detect() {
#ifdef __x86_64__
  const char* wish = std::getenv("ATEN_CPU_CAPABILITY");
  bool plain = wish != nullptr && std::strcmp(wish, "default") == 0;
  bool narrow = plain || (wish != nullptr && std::strcmp(wish, "avx2") == 0);
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
              __builtin_cpu_supports("bmi");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl");
  if (avx512 && !narrow) return kernels::level4;
  if (avx2 && !plain) return kernels::level3;
#endif
  return kernels::level1;
}

const Loops& loops_of(const at::Tensor& x) {
  static const Loops* found = detect();
  TORCH_CHECK(x.device().is_cpu(), "the kernel runs on the CPU, not on ", x.device());
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16, "the kernel takes f32 and bf16, not ",
              x.scalar_type());
  return found[x.scalar_type() == at::kBFloat16 ? 1 : 0];
}

// libtorch's own OpenMP threads, found by name: an OpenMP linked by ourselves could be a second one.
struct OpenMp {
  void (*region)(void (*)(void*), void*, unsigned, unsigned);
  int (*thread)();
  int (*threads)();
};
template <typename F>
F found(const char* name) {
  return reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
}
const OpenMp* open_mp() {
  static const OpenMp all{found<decltype(OpenMp::region)>("GOMP_parallel"),
                          found<decltype(OpenMp::thread)>("omp_get_thread_num"),
                          found<decltype(OpenMp::threads)>("omp_get_num_threads")};
  return all.region != nullptr && all.thread != nullptr && all.threads != nullptr ? &all : nullptr;
}

// body(begin, end) over [0, total) in pieces of `grain` at least, one for each thread that libtorch would take. OpenMP may
// lend fewer (OMP_THREAD_LIMIT, OMP_DYNAMIC): a thread takes every so-many-th piece. What `body` throws is thrown here.
template <typename F>
void parallel(int64_t total, int64_t grain, const F& body) {
  int64_t pieces = std::min<int64_t>(at::get_num_threads(), total / std::max<int64_t>(grain, 1));
  if (pieces <= 1 || at::in_parallel_region() || open_mp() == nullptr) {
    if (total > 0) body(int64_t{0}, total);
    return;
  }
  struct Work {
    const F* body;
    int64_t total, pieces;
    std::atomic_flag failed;
    std::exception_ptr fault;
  } work{&body, total, pieces, ATOMIC_FLAG_INIT, nullptr};
  auto share = [](void* data) {
    Work& w = *static_cast<Work*>(data);
    try {
      for (int64_t i = open_mp()->thread(); i < w.pieces; i += open_mp()->threads()) {
        int64_t begin = w.total * i / w.pieces, end = w.total * (i + 1) / w.pieces;
        if (begin < end) (*w.body)(begin, end);
      }
    } catch (...) {
      if (!w.failed.test_and_set()) w.fault = std::current_exception();
    }
  };
  open_mp()->region(share, &work, static_cast<unsigned>(pieces), 0);
  if (work.fault) std::rethrow_exception(work.fault);
}

// Numbers that a thread should at least be given.
constexpr int64_t worthwhile = 1 << 14;
int64_t rows_worthwhile(int64_t width) { return std::max<int64_t>(1, worthwhile / std::max<int64_t>(width, 1)); }

void require_same(const at::Tensor& x, const at::Tensor& other, const char* what) {
  TORCH_CHECK(x.scalar_type() == other.scalar_type() && x.device() == other.device(), what, " is ",
              other.scalar_type(), " on ", other.device(), ", not ", x.scalar_type(), " on ", x.device());
}

// A tensor that may be undefined, as autograd wants it.
std::optional<at::Tensor> optional(const at::Tensor& x) {
  return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt;
}

bool recorded(std::initializer_list<at::Tensor> inputs) {
  return c10::GradMode::is_enabled() &&
         std::any_of(inputs.begin(), inputs.end(), [](const at::Tensor& t) { return t.defined() && t.requires_grad(); });
}

// ---- RMSNorm, with the residual sum before it ----

struct Normed {
  at::Tensor sum, y, scale;
};

Normed rms_norm(const at::Tensor& x_, const at::Tensor& a_, const at::Tensor& gain_, double eps, bool keep) {
  const Loops& loops = loops_of(x_);
  TORCH_CHECK(x_.dim() > 0 && gain_.dim() == 1 && gain_.size(0) == x_.size(-1), "a gain of ", gain_.sizes(),
              " does not fit ", x_.sizes());
  require_same(x_, gain_, "the gain");
  at::Tensor x = x_.contiguous(), gain = gain_.contiguous(), a;
  if (a_.defined()) {
    require_same(x, a_, "what is added");
    TORCH_CHECK(a_.sizes() == x.sizes(), "what is added has the shape ", a_.sizes(), ", not ", x.sizes());
    a = a_.contiguous();
  }
  int64_t width = x.size(-1), rows = width > 0 ? x.numel() / width : 0;
  Normed out{a.defined() ? at::empty_like(x) : x, at::empty_like(x), at::Tensor()};
  if (keep) out.scale = at::empty({rows}, x.options().dtype(at::kFloat));
  const void *xp = x.const_data_ptr(), *ap = a.defined() ? a.const_data_ptr() : nullptr, *gp = gain.const_data_ptr();
  void *sp = a.defined() ? out.sum.mutable_data_ptr() : nullptr, *yp = out.y.mutable_data_ptr();
  float* scale = keep ? out.scale.mutable_data_ptr<float>() : nullptr;
  parallel(rows, rows_worthwhile(width), [&](int64_t begin, int64_t end) {
    loops.rms_norm(xp, ap, gp, sp, yp, scale, static_cast<float>(eps), width, begin, end);
  });
  return out;
}

// (dx, dgain). The sums over rows are taken in pieces that do not depend on the number of threads.
std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& x, const at::Tensor& gain,
                                                    const at::Tensor& scale, const at::Tensor& dy_,
                                                    const at::Tensor& d_sum_) {
  const Loops& loops = loops_of(x);
  int64_t width = x.size(-1), rows = scale.size(0);
  at::Tensor dy = dy_.contiguous(), d_sum = d_sum_.defined() ? d_sum_.contiguous() : d_sum_;
  at::Tensor dx = at::empty_like(x);
  constexpr int64_t most = 64;
  int64_t pieces = std::max<int64_t>(1, std::min(most, rows / rows_worthwhile(width)));
  at::Tensor sums = at::zeros({pieces, width}, x.options().dtype(at::kFloat));
  const void *xp = x.const_data_ptr(), *gp = gain.const_data_ptr(), *dyp = dy.const_data_ptr();
  const void* dsp = d_sum.defined() ? d_sum.const_data_ptr() : nullptr;
  const float* sp = scale.const_data_ptr<float>();
  void* dxp = dx.mutable_data_ptr();
  float* sums_p = sums.mutable_data_ptr<float>();
  parallel(pieces, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      loops.rms_norm_backward(xp, gp, sp, dyp, dsp, dxp, sums_p + i * width, width, rows * i / pieces,
                              rows * (i + 1) / pieces);
    }
  });
  return {dx, sums.sum(0).to(gain.scalar_type())};
}

struct RmsNorm : Function<RmsNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const std::optional<at::Tensor>& a_,
                               const at::Tensor& gain, double eps) {
    at::Tensor a = a_.value_or(at::Tensor());
    Normed out = rms_norm(x, a, gain, eps, true);
    ctx->save_for_backward({out.sum, gain.contiguous(), out.scale});
    ctx->set_materialize_grads(false);
    if (a.defined()) return {out.y, out.sum};
    return {out.y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    at::Tensor d_sum = grads.size() > 1 ? grads[1] : at::Tensor();
    if (!grads[0].defined()) return {d_sum, grads.size() > 1 ? d_sum : at::Tensor(), {}, {}};
    auto [dx, d_gain] = rms_norm_backward(saved[0], saved[1], saved[2], grads[0], d_sum);
    return {dx, grads.size() > 1 ? dx : at::Tensor(), d_gain, {}};
  }
};

// ---- SwiGLU ----

at::Tensor swiglu(const at::Tensor& x_) {
  const Loops& loops = loops_of(x_);
  TORCH_CHECK(x_.dim() > 0 && x_.size(-1) % 2 == 0, "gate and up do not fill ", x_.sizes());
  at::Tensor x = x_.contiguous();
  auto shape = x.sizes().vec();
  int64_t width = shape.back() /= 2;
  at::Tensor y = at::empty(shape, x.options());
  const void* xp = x.const_data_ptr();
  void* yp = y.mutable_data_ptr();
  parallel(width > 0 ? y.numel() / width : 0, rows_worthwhile(width),
           [&](int64_t begin, int64_t end) { loops.swiglu(xp, yp, width, begin, end); });
  return y;
}

struct SwiGlu : Function<SwiGlu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x.contiguous()});
    return swiglu(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    at::Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(x);
    const Loops& loops = loops_of(x);
    int64_t width = dy.size(-1);
    const void *xp = x.const_data_ptr(), *dyp = dy.const_data_ptr();
    void* dxp = dx.mutable_data_ptr();
    parallel(width > 0 ? dy.numel() / width : 0, rows_worthwhile(width),
             [&](int64_t begin, int64_t end) { loops.swiglu_backward(xp, dyp, dxp, width, begin, end); });
    return {dx};
  }
};

// ---- attention over short texts ----

struct Asked {
  at::Tensor qkv, cos, sin, mask;
  int64_t heads, kv_heads, from;
  bool causal;

  Attention arguments() const {
    Attention a{};
    a.qkv = qkv.const_data_ptr();
    a.cos = cos.const_data_ptr<float>();
    a.sin = sin.const_data_ptr<float>();
    a.key_mask = mask.defined() ? mask.const_data_ptr() : nullptr;
    a.length = qkv.size(1);
    a.heads = heads;
    a.kv_heads = kv_heads;
    a.head_dim = qkv.size(2) / (heads + 2 * kv_heads);
    a.from = from;
    a.causal = causal;
    return a;
  }

  void check() const {
    loops_of(qkv);
    TORCH_CHECK(qkv.dim() == 3 && heads > 0 && kv_heads > 0 && heads % kv_heads == 0 &&
                    qkv.size(2) % (2 * (heads + 2 * kv_heads)) == 0,
                qkv.sizes(), " holds no ", heads, " heads of queries and ", kv_heads, " of keys and values");
    int64_t half = qkv.size(2) / (heads + 2 * kv_heads) / 2;
    for (const at::Tensor& table : {cos, sin}) {
      TORCH_CHECK(table.scalar_type() == at::kFloat && table.device().is_cpu() && table.dim() == 2 &&
                      table.size(0) == qkv.size(1) && table.size(1) == half && table.is_contiguous(),
                  "a table of rotations has the shape ", table.sizes(), ", not (", qkv.size(1), ", ", half, ")");
    }
    TORCH_CHECK(from >= 0 && from <= qkv.size(1), "no position ", from, " in ", qkv.sizes());
    if (mask.defined()) {
      require_same(qkv, mask, "the mask");
      TORCH_CHECK(mask.dim() == 2 && mask.size(0) == qkv.size(0) && mask.size(1) == qkv.size(1) && mask.is_contiguous(),
                  "the mask has the shape ", mask.sizes());
    }
  }
};

// `work(loops, arguments, scratch, begin, end)` over texts times heads of keys.
template <typename F>
void over_heads(const Asked& asked, const F& work) {
  const Attention a = asked.arguments();
  int64_t per_item = std::max<int64_t>(1, a.length * a.length * a.head_dim * (a.heads / a.kv_heads));
  parallel(asked.qkv.size(0) * a.kv_heads, std::max<int64_t>(1, 4 * worthwhile / per_item),
           [&](int64_t begin, int64_t end) {
             // zeros: the rows behind the last are multiplied too, and what they give is not read
             std::unique_ptr<float[]> scratch(new float[kernels::attention_scratch(a)]());
             work(a, scratch.get(), begin, end);
           });
}

at::Tensor attention(const Asked& asked) {
  const Loops& loops = loops_of(asked.qkv);
  int64_t width = asked.heads * (asked.qkv.size(2) / (asked.heads + 2 * asked.kv_heads));
  at::Tensor y = at::empty({asked.qkv.size(0), asked.qkv.size(1) - asked.from, width}, asked.qkv.options());
  void* yp = y.mutable_data_ptr();
  over_heads(asked, [&](const Attention& a, float* scratch, int64_t begin, int64_t end) {
    loops.attention(a, yp, scratch, begin, end);
  });
  return y;
}

struct ShortAttention : Function<ShortAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const at::Tensor& cos, const at::Tensor& sin,
                            const std::optional<at::Tensor>& mask_, int64_t heads, int64_t kv_heads, int64_t from,
                            bool causal) {
    at::Tensor mask = mask_.value_or(at::Tensor());
    ctx->save_for_backward({qkv, cos, sin, mask});
    ctx->saved_data["numbers"] = std::vector<int64_t>{heads, kv_heads, from, causal ? 1 : 0};
    return attention({qkv, cos, sin, mask, heads, kv_heads, from, causal});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    auto n = ctx->saved_data["numbers"].toIntVector();
    Asked asked{saved[0], saved[1], saved[2], saved[3], n[0], n[1], n[2], n[3] != 0};
    const Loops& loops = loops_of(asked.qkv);
    at::Tensor dy = grads[0].contiguous(), d_qkv = at::empty_like(asked.qkv);
    const void* dyp = dy.const_data_ptr();
    void* dp = d_qkv.mutable_data_ptr();
    over_heads(asked, [&](const Attention& a, float* scratch, int64_t begin, int64_t end) {
      loops.attention_backward(a, dyp, dp, scratch, begin, end);
    });
    return {d_qkv, {}, {}, {}, {}, {}, {}, {}};
  }
};

}  // namespace

extern "C" {

int te_add_rms_norm(void* x, void* a, void* gain, double eps, void** sum, void** y, char** error) {
  return recorded(error, [&] {
    at::Tensor added = a == nullptr ? at::Tensor() : tensor(a);
    at::Tensor found_y, found_sum;
    if (recorded({tensor(x), added, tensor(gain)})) {
      variable_list found = RmsNorm::apply(tensor(x), optional(added), tensor(gain), eps);
      found_y = found[0];
      if (a != nullptr) found_sum = found[1];
    } else {
      Normed found = rms_norm(tensor(x), added, tensor(gain), eps, false);
      found_y = found.y, found_sum = found.sum;
    }
    if (a != nullptr) *sum = new at::Tensor(found_sum);
    *y = new at::Tensor(found_y);
  });
}

int te_swiglu(void* x, void** y, char** error) {
  return recorded(error, [&] {
    *y = new at::Tensor(recorded({tensor(x)}) ? SwiGlu::apply(tensor(x)) : swiglu(tensor(x)));
  });
}

int te_short_attention(void* qkv, void* cos, void* sin, void* mask, int64_t heads, int64_t kv_heads, int64_t from,
                       int causal, void** y, char** error) {
  return recorded(error, [&] {
    at::Tensor masked = mask == nullptr ? at::Tensor() : tensor(mask).contiguous();
    Asked asked{tensor(qkv).contiguous(), tensor(cos).contiguous(), tensor(sin).contiguous(), masked,
                heads,                    kv_heads,                 from,                     causal != 0};
    asked.check();
    *y = new at::Tensor(recorded({asked.qkv})
                            ? ShortAttention::apply(asked.qkv, asked.cos, asked.sin, optional(asked.mask), heads,
                                                    kv_heads, from, asked.causal)
                            : attention(asked));
  });
}

int te_cross_entropy_(void* scores, void* targets, double smoothing, void** losses, char** error) {
  return recorded(error, [&] {
    c10::NoGradGuard no_grad;
    const at::Tensor &s = tensor(scores), t = tensor(targets).contiguous();
    const Loops& loops = loops_of(s);
    TORCH_CHECK(s.dim() == 2 && s.is_contiguous() && t.dim() == 1 && t.size(0) == s.size(0) &&
                    t.scalar_type() == at::kLong && t.device().is_cpu(),
                "targets of ", t.sizes(), " do not fit scores of ", s.sizes());
    const int64_t *tp = t.const_data_ptr<int64_t>(), vocab = s.size(1), rows = s.size(0);
    TORCH_CHECK(std::all_of(tp, tp + rows, [&](int64_t id) { return id >= 0 && id < vocab; }),
                "a target is none of the ", vocab, " tokens");
    at::Tensor found = at::empty({rows}, s.options().dtype(at::kFloat));
    void* sp = s.mutable_data_ptr();
    float* lp = found.mutable_data_ptr<float>();
    parallel(rows, rows_worthwhile(vocab), [&](int64_t begin, int64_t end) {
      std::unique_ptr<float[]> row(new float[vocab]);
      loops.cross_entropy(sp, tp, lp, static_cast<float>(smoothing), row.get(), vocab, begin, end);
    });
    *losses = new at::Tensor(found);
  });
}
}
