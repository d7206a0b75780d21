// The loops of the CPU kernels, compiled once for each level of x86-64 (build.rs) and chosen when first used.
//
// Numbers are f32 or bf16 (as `uint16_t`) in memory and f32 in registers. A function handles the rows or items from
// `begin` to `end`, of which each is independent of all others, so that any number of threads gives the same bytes.
#pragma once
#include <cstdint>

namespace kernels {

// Arguments of attention over short texts; `qkv` is (B, T, (N + 2 K) D), and K heads of keys serve N of queries.
struct Attention {
  const void* qkv;
  const float* cos;      // (T, D/2)
  const float* sin;      // (T, D/2)
  const void* key_mask;  // (B, T), added to the scores; may be null
  int64_t length, heads, kv_heads, head_dim;
  int64_t from;  // the first position that asks
  bool causal;
};

struct Loops {
  // sum = x + a and y = sum / sqrt(mean(sum^2) + eps) * gain; without `a`, y of x itself. `scale` keeps the factor.
  void (*rms_norm)(const void* x, const void* a, const void* gain, void* sum, void* y, float* scale, float eps,
                   int64_t width, int64_t begin, int64_t end);
  // dx of y, plus `d_sum` where it is not null; adds to `d_gain` (f32).
  void (*rms_norm_backward)(const void* x, const void* gain, const float* scale, const void* dy, const void* d_sum,
                            void* dx, float* d_gain, int64_t width, int64_t begin, int64_t end);
  // y = silu(x[:width]) * x[width:]
  void (*swiglu)(const void* x, void* y, int64_t width, int64_t begin, int64_t end);
  void (*swiglu_backward)(const void* x, const void* dy, void* dx, int64_t width, int64_t begin, int64_t end);
  // Rows of scores become the gradients of their losses. `scratch` holds a row of floats.
  void (*cross_entropy)(void* scores, const int64_t* targets, float* losses, float smoothing, float* scratch,
                        int64_t vocab, int64_t begin, int64_t end);
  // Items are texts times heads of keys. `scratch` holds `attention_scratch` floats.
  void (*attention)(const Attention& a, void* y, float* scratch, int64_t begin, int64_t end);
  void (*attention_backward)(const Attention& a, const void* dy, void* d_qkv, float* scratch, int64_t begin,
                             int64_t end);
};

constexpr int64_t lanes = 16;
// static: the linker would keep one copy of an inline function, of any level
static inline int64_t padded(int64_t n) { return (n + lanes - 1) / lanes * lanes; }
static inline int64_t attention_scratch(const Attention& a) {
  int64_t rows = a.length + 4, dim = padded(a.head_dim), keys = padded(a.length);
  return 7 * rows * dim + 2 * dim * keys + 2 * rows * keys;
}

// [f32, bf16] of each level
extern const Loops level1[2];
#ifdef __x86_64__
extern const Loops level3[2];
extern const Loops level4[2];
#endif

}  // namespace kernels
