// No header with inline code but our own: the linker keeps one copy of such code, of any level.
#include "attention_loops.h"
#include "kernel_loops.h"
#include "numbers.h"

namespace kernels {
namespace {

template <typename T>
void rms_norm(const void* x_, const void* a_, const void* gain_, void* sum_, void* y_, float* scale, float eps,
              int64_t width, int64_t begin, int64_t end) {
  const T* gain = static_cast<const T*>(gain_);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(x_) + row * width;
    T* y = static_cast<T*>(y_) + row * width;
    float squares = 0;
    if (a_ != nullptr) {
      const T* a = static_cast<const T*>(a_) + row * width;
      T* sum = static_cast<T*>(sum_) + row * width;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) {
        T s = narrow<T>(widen(x[i]) + widen(a[i]));
        sum[i] = s;
        squares += widen(s) * widen(s);
      }
      x = sum;
    } else {
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; ++i) squares += widen(x[i]) * widen(x[i]);
    }
    float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(width) + eps);
    if (scale != nullptr) scale[row] = factor;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = narrow<T>(widen(x[i]) * factor * widen(gain[i]));
  }
}

template <typename T>
void rms_norm_backward(const void* x_, const void* gain_, const float* scale, const void* dy_, const void* d_sum_,
                       void* dx_, float* d_gain, int64_t width, int64_t begin, int64_t end) {
  const T* gain = static_cast<const T*>(gain_);
  for (int64_t row = begin; row < end; ++row) {
    const T* x = static_cast<const T*>(x_) + row * width;
    const T* dy = static_cast<const T*>(dy_) + row * width;
    T* dx = static_cast<T*>(dx_) + row * width;
    float factor = scale[row], along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < width; ++i) {
      float normed = widen(x[i]) * factor, d = widen(dy[i]);
      d_gain[i] += d * normed;
      along += d * widen(gain[i]) * normed;
    }
    along /= static_cast<float>(width);
    if (d_sum_ != nullptr) {
      const T* d_sum = static_cast<const T*>(d_sum_) + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        float normed = widen(x[i]) * factor;
        dx[i] = narrow<T>(widen(d_sum[i]) + factor * (widen(dy[i]) * widen(gain[i]) - normed * along));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        float normed = widen(x[i]) * factor;
        dx[i] = narrow<T>(factor * (widen(dy[i]) * widen(gain[i]) - normed * along));
      }
    }
  }
}

template <typename T>
void swiglu(const void* x_, void* y_, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(x_) + 2 * row * width;
    const T* up = gate + width;
    T* y = static_cast<T*>(y_) + row * width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      float g = widen(gate[i]);
      y[i] = narrow<T>(g / (1.0f + exponential(-g)) * widen(up[i]));
    }
  }
}

template <typename T>
void swiglu_backward(const void* x_, const void* dy_, void* dx_, int64_t width, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = static_cast<const T*>(x_) + 2 * row * width;
    const T* up = gate + width;
    const T* dy = static_cast<const T*>(dy_) + row * width;
    T* d_gate = static_cast<T*>(dx_) + 2 * row * width;
    T* d_up = d_gate + width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      float g = widen(gate[i]), d = widen(dy[i]);
      float sigmoid = 1.0f / (1.0f + exponential(-g));
      d_gate[i] = narrow<T>(d * widen(up[i]) * sigmoid * (1.0f + g * (1.0f - sigmoid)));
      d_up[i] = narrow<T>(d * g * sigmoid);
    }
  }
}

// The row less its target, and the target by itself: what a probability near 1 lacks to 1 is the sum of the others.
template <typename T>
void cross_entropy(void* scores_, const int64_t* targets, float* losses, float smoothing, float* scratch,
                   int64_t vocab, int64_t begin, int64_t end) {
  const float share = smoothing / static_cast<float>(vocab);
  for (int64_t row = begin; row < end; ++row) {
    T* scores = static_cast<T*>(scores_) + row * vocab;
    const int64_t target = targets[row];
    const float of_target = widen(scores[target]);
    float most = -__builtin_inff(), total = 0;
    if (smoothing > 0) {
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < vocab; ++i) total += widen(scores[i]);
    }
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < vocab; ++i) {
      float s = widen(scores[i]);
      most = s > most ? s : most;
    }
    scores[target] = narrow<T>(-__builtin_inff());
    float others = 0;
#pragma omp simd reduction(+ : others)
    for (int64_t i = 0; i < vocab; ++i) {
      float e = exponential(widen(scores[i]) - most);
      scratch[i] = e;
      others += e;
    }
    const float own = exponential(of_target - most), sum = others + own;
    float loss = others < own ? __builtin_log1pf(others / own) : most - of_target + __builtin_logf(sum);
    if (smoothing > 0) {
      // -mean over v of log p_v = log of the sum - mean score
      float uniform = loss + of_target - total / static_cast<float>(vocab);
      loss = (1.0f - smoothing) * loss + smoothing * uniform;
    }
    losses[row] = loss;
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < vocab; ++i) scores[i] = narrow<T>(scratch[i] * inverse - share);
    scores[target] = narrow<T>(smoothing * (static_cast<float>(vocab) - 1.0f) / static_cast<float>(vocab) -
                               others * inverse);
  }
}

template <typename T>
constexpr Loops loops() {
  return {rms_norm<T>,      rms_norm_backward<T>, swiglu<T>,           swiglu_backward<T>,
          cross_entropy<T>, attention<T>,         attention_backward<T>};
}

}  // namespace

extern const Loops LEVEL[2] = {loops<float>(), loops<bf16>()};

}  // namespace kernels
