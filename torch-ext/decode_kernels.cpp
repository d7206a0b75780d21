// What a decoder does between its matrix products for one position a row, each in one pass over memory, f32 inside.
//
// The kernels run on the calling thread: whoever decodes gives each thread rows of its own. Loops are written with
// GCC's vectors of 16 floats, and compiled once for AVX-512, once for AVX2 and once for any CPU (target_clones).
#include "decode_kernels.h"
#include "shim.h"
#include "guarded.h"
#include "lanes.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace {

using namespace kernels;

// residual += delta (where there is one); out = residual / sqrt(mean(residual^2) + eps) * gain
template <typename T>
INLINE void add_norm(float* residual, const T* delta, const T* gain, float eps, T* out, int64_t rows, int64_t width) {
  const int64_t whole = width / LANES * LANES;
  for (int64_t row = 0; row < rows; ++row) {
    float* x = residual + row * width;
    f32x16 squares = all(0);
    float rest = 0;
    if (delta) {
      const T* d = delta + row * width;
      for (int64_t i = 0; i < whole; i += LANES) {
        f32x16 v = load(x + i) + load(d + i);
        store(x + i, v);
        squares += v * v;
      }
      for (int64_t i = whole; i < width; ++i) {
        x[i] += widen(d[i]);
        rest += x[i] * x[i];
      }
    } else {
      for (int64_t i = 0; i < whole; i += LANES) {
        f32x16 v = load(x + i);
        squares += v * v;
      }
      for (int64_t i = whole; i < width; ++i) rest += x[i] * x[i];
    }
    float scale = 1.0f / std::sqrt((sum(squares) + rest) / static_cast<float>(width) + eps);
    T* y = out + row * width;
    for (int64_t i = 0; i < whole; i += LANES) store(y + i, load(x + i) * scale * load(gain + i));
    for (int64_t i = whole; i < width; ++i) y[i] = narrow<T>(x[i] * scale * widen(gain[i]));
  }
}

struct Attention {
  int64_t rows, heads, kv_heads, dim, capacity;
  const int32_t *slots, *positions, *table;  // (R), (R), (R, capacity)
  const float *cosines, *sines;              // (capacity, dim / 2)
};

// Rotate-half: (a, b) -> (a cos - b sin, b cos + a sin) for the two halves of a head.
template <typename From, typename To>
INLINE void turn(const From* from, const float* cosine, const float* sine, float scale, To* to, int64_t half) {
  int64_t i = 0;
  for (; i + LANES <= half; i += LANES) {
    f32x16 a = load(from + i) * scale, b = load(from + half + i) * scale;
    f32x16 c = load(cosine + i), s = load(sine + i);
    store(to + i, a * c - b * s);
    store(to + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    float a = widen(from[i]) * scale, b = widen(from[half + i]) * scale;
    to[i] = narrow<To>(a * cosine[i] - b * sine[i]);
    to[half + i] = narrow<To>(b * cosine[i] + a * sine[i]);
  }
}

// Keys and values of all rows into the cache first, so that rows may be positions of one text; then every row against
// the positions up to its own, each where the table says that it lies.
template <typename T>
INLINE void attend(const Attention& a, const T* qkv, T* keys, T* values, T* out, float* scratch, int64_t* places) {
  const int64_t dim = a.dim, half = dim / 2, whole = dim / LANES * LANES;
  const int64_t line = (a.heads + 2 * a.kv_heads) * dim;
  const auto place = [&](int64_t slot, int64_t head, int64_t position) {
    return ((slot * a.kv_heads + head) * a.capacity + position) * dim;
  };
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t position = a.positions[row];
    const T *k = qkv + row * line + a.heads * dim, *v = k + a.kv_heads * dim;
    for (int64_t head = 0; head < a.kv_heads; ++head) {
      const int64_t at = place(a.slots[row], head, position);
      turn(k + head * dim, a.cosines + position * half, a.sines + position * half, 1.0f, keys + at, half);
      std::memcpy(values + at, v + head * dim, dim * sizeof(T));
    }
  }
  float *q = scratch, *scores = scratch + dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const int64_t group = a.heads / a.kv_heads;
  for (int64_t row = 0; row < a.rows; ++row) {
    const int64_t position = a.positions[row], count = position + 1;
    const int32_t* table = a.table + row * a.capacity;
    for (int64_t head = 0; head < a.heads; ++head) {
      const T* from = qkv + row * line + head * dim;
      turn(from, a.cosines + position * half, a.sines + position * half, scale, q, half);
      float most = -INFINITY;
      for (int64_t s = 0; s < count; ++s) {
        places[s] = place(table[s], head / group, s);
        const T* k = keys + places[s];
        f32x16 products = all(0);
        for (int64_t i = 0; i < whole; i += LANES) products += load(q + i) * load(k + i);
        float score = sum(products);
        for (int64_t i = whole; i < dim; ++i) score += q[i] * widen(k[i]);
        scores[s] = score;
        most = score > most ? score : most;
      }
      float total = 0;
      int64_t s = 0;
      for (; s + LANES <= count; s += LANES) {
        f32x16 e = exponential(load(scores + s) - most);
        store(scores + s, e);
        total += sum(e);
      }
      for (; s < count; ++s) total += scores[s] = exponential(scores[s] - most);
      T* to = out + (row * a.heads + head) * dim;
      const float share = 1.0f / total;
      for (int64_t i = 0; i < whole; i += LANES) {
        f32x16 y = all(0);
        for (s = 0; s < count; ++s) y += load(values + places[s] + i) * scores[s];
        store(to + i, y * share);
      }
      for (int64_t i = whole; i < dim; ++i) {
        float y = 0;
        for (s = 0; s < count; ++s) y += widen(values[places[s] + i]) * scores[s];
        to[i] = narrow<T>(y * share);
      }
    }
  }
}

// Places of the `count` highest numbers, unordered; equal ones by the lower place. Blocks whose highest number is not
// above the lowest so far are passed over.
template <typename T>
INLINE void highest_places(const T* x, const float* tops, int64_t width, int64_t block, int64_t count, float* values,
                           int64_t* places) {
  int64_t kept = 0, worst = 0;
  for (int64_t start = 0, b = 0; start < width; start += block, ++b) {
    if (kept == count && !(tops[b] > values[worst])) continue;
    const int64_t end = std::min(start + block, width);
    for (int64_t i = start; i < end; ++i) {
      const float value = widen(x[i]);
      if (kept < count) {
        values[kept] = value;
        places[kept++] = i;
        if (kept < count) continue;
      } else if (value > values[worst]) {
        values[worst] = value;
        places[worst] = i;
      } else {
        continue;
      }
      worst = 0;
      for (int64_t j = 1; j < kept; ++j) {
        const bool lower = values[j] < values[worst];
        if (lower || (values[j] == values[worst] && places[j] > places[worst])) worst = j;
      }
    }
  }
}

// The best `keep` of each row with their log-probabilities, best first. `spare` more than that are taken by the
// logits as they are, and ordered by logits computed again in f32 from the state and the head's row. Returns the first
// row with a NaN or infinity, whose tokens have no order, and goes no further; -1 where there is none.
template <typename T>
INLINE int64_t pick(const T* logits, const float* states, const T* head, int64_t rows, int64_t width, int64_t hidden,
                    int64_t keep, int64_t spare, int64_t* tokens, float* log_probs, float* tops) {
  constexpr int64_t BLOCK = 8 * LANES;
  const int64_t count = std::min(keep + spare, width), blocks = (width + BLOCK - 1) / BLOCK;
  std::vector<float> values(count);
  std::vector<int64_t> places(count), order(count);
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = logits + row * width;
    float most = -INFINITY;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t start = b * BLOCK, end = std::min(start + BLOCK, width);
      f32x16 top = all(-INFINITY);
      int64_t i = start;
      for (; i + LANES <= end; i += LANES) top = larger(load(x + i), top);
      float best = highest(top);
      for (; i < end; ++i) best = widen(x[i]) > best ? widen(x[i]) : best;
      tops[b] = best;
      most = best > most ? best : most;
    }
    f32x16 totals = all(0);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) totals += exponential(load(x + i) - most);
    double total = sum(totals);
    for (; i < width; ++i) total += exponential(widen(x[i]) - most);
    highest_places(x, tops, width, BLOCK, count, values.data(), places.data());
    if (spare > 0) {
      for (int64_t c = 0; c < count; ++c) {
        const float* h = states + row * hidden;
        const T* w = head + places[c] * hidden;
        f32x16 products = all(0);
        int64_t j = 0;
        for (; j + LANES <= hidden; j += LANES) products += load(h + j) * load(w + j);
        float exact = sum(products);
        for (; j < hidden; ++j) exact += h[j] * widen(w[j]);
        total += std::exp(exact - most) - std::exp(values[c] - most);
        values[c] = exact;
      }
    }
    // the sum is finite only where all its exponents were below infinity, and none NaN
    if (!std::isfinite(total)) return row;
    for (int64_t c = 0; c < count; ++c) order[c] = c;
    std::sort(order.begin(), order.end(), [&](int64_t one, int64_t other) {
      return values[one] > values[other] || (values[one] == values[other] && places[one] < places[other]);
    });
    const float whole = most + static_cast<float>(std::log(total));
    for (int64_t c = 0; c < keep; ++c) {
      tokens[row * keep + c] = places[order[c]];
      log_probs[row * keep + c] = values[order[c]] - whole;
    }
  }
  return -1;
}

CLONES void add_norm_f32(float* r, const float* d, const float* g, float eps, float* out, int64_t rows, int64_t width) {
  add_norm(r, d, g, eps, out, rows, width);
}
CLONES void add_norm_bf16(float* r, const bf16* d, const bf16* g, float eps, bf16* out, int64_t rows, int64_t width) {
  add_norm(r, d, g, eps, out, rows, width);
}
CLONES void attend_f32(const Attention& a, const float* qkv, float* k, float* v, float* out, float* scratch,
                       int64_t* places) {
  attend(a, qkv, k, v, out, scratch, places);
}
CLONES void attend_bf16(const Attention& a, const bf16* qkv, bf16* k, bf16* v, bf16* out, float* scratch,
                        int64_t* places) {
  attend(a, qkv, k, v, out, scratch, places);
}
CLONES int64_t pick_f32(const float* logits, int64_t rows, int64_t width, int64_t keep, int64_t* tokens,
                        float* log_probs, float* tops) {
  return pick<float>(logits, nullptr, nullptr, rows, width, 0, keep, 0, tokens, log_probs, tops);
}
CLONES int64_t pick_bf16(const bf16* logits, const float* states, const bf16* head, int64_t rows, int64_t width,
                         int64_t hidden, int64_t keep, int64_t spare, int64_t* tokens, float* log_probs, float* tops) {
  return pick(logits, states, head, rows, width, hidden, keep, spare, tokens, log_probs, tops);
}

// The data of a contiguous CPU tensor of a type and number of elements.
template <typename T>
T* data(void* pointer, at::ScalarType type, int64_t numel, const char* what) {
  const at::Tensor& t = tensor(pointer);
  TORCH_CHECK(t.device().is_cpu() && t.is_contiguous(), what, " must be contiguous and on the CPU");
  TORCH_CHECK(t.scalar_type() == type, what, " is of type ", t.scalar_type(), " instead of ", type);
  TORCH_CHECK(t.numel() == numel, what, " has ", t.numel(), " elements instead of ", numel);
  return static_cast<T*>(t.data_ptr());
}

bool is_bf16(void* pointer) {
  const at::ScalarType type = tensor(pointer).scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16, "kernels of decoding take f32 and bf16, not ", type);
  return type == at::kBFloat16;
}

// The operators that torch.compile uses for frozen weights; they are in the dispatcher alone.
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using Linear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                          c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);

}  // namespace

extern "C" {

int te_add_norm(void* residual, void* delta, void* gain, double eps, void* out, char** error) {
  return recorded(error, [&] {
    const int64_t width = tensor(gain).numel(), numel = tensor(residual).numel();
    TORCH_CHECK(width > 0 && numel % width == 0, "rows of ", width, " do not fill ", numel, " elements");
    float* r = data<float>(residual, at::kFloat, numel, "the residual stream");
    if (is_bf16(gain)) {
      const bf16* d = delta ? data<bf16>(delta, at::kBFloat16, numel, "what is added") : nullptr;
      add_norm_bf16(r, d, data<bf16>(gain, at::kBFloat16, width, "the gain"), eps,
                    data<bf16>(out, at::kBFloat16, numel, "the normed state"), numel / width, width);
    } else {
      const float* d = delta ? data<float>(delta, at::kFloat, numel, "what is added") : nullptr;
      add_norm_f32(r, d, data<float>(gain, at::kFloat, width, "the gain"), eps,
                   data<float>(out, at::kFloat, numel, "the normed state"), numel / width, width);
    }
  });
}

int te_cached_attention(void* qkv, void* keys, void* values, const int32_t* slots, const int32_t* positions,
                        const int32_t* table, int64_t rows, int64_t heads, void* cosines, void* sines, void* out,
                        char** error) {
  return recorded(error, [&] {
    const at::Tensor& cache = tensor(keys);
    TORCH_CHECK(cache.dim() == 4, "the cache has ", cache.dim(), " dimensions instead of 4");
    const int64_t slot_count = cache.size(0), kv_heads = cache.size(1), capacity = cache.size(2), dim = cache.size(3);
    TORCH_CHECK(heads % kv_heads == 0 && dim % 2 == 0, heads, " heads of ", dim, " do not share ", kv_heads);
    for (int64_t row = 0; row < rows; ++row) {
      TORCH_CHECK(positions[row] >= 0 && positions[row] < capacity, "position ", positions[row], " of ", capacity);
      TORCH_CHECK(slots[row] >= 0 && slots[row] < slot_count, "slot ", slots[row], " of ", slot_count);
      for (int64_t s = 0; s <= positions[row]; ++s) {
        const int32_t slot = table[row * capacity + s];
        TORCH_CHECK(slot >= 0 && slot < slot_count, "slot ", slot, " of ", slot_count);
      }
    }
    const Attention a{rows,  heads, kv_heads, dim, capacity, slots, positions, table,
                      data<float>(cosines, at::kFloat, capacity * dim / 2, "the cosines"),
                      data<float>(sines, at::kFloat, capacity * dim / 2, "the sines")};
    std::vector<float> scratch(dim + capacity);
    std::vector<int64_t> places(capacity);
    const int64_t in = rows * (heads + 2 * kv_heads) * dim, numel = cache.numel(), result = rows * heads * dim;
    if (is_bf16(qkv)) {
      const auto type = at::kBFloat16;
      attend_bf16(a, data<bf16>(qkv, type, in, "query, key and value"), data<bf16>(keys, type, numel, "the keys"),
                  data<bf16>(values, type, numel, "the values"), data<bf16>(out, type, result, "the result"),
                  scratch.data(), places.data());
    } else {
      const auto type = at::kFloat;
      attend_f32(a, data<float>(qkv, type, in, "query, key and value"), data<float>(keys, type, numel, "the keys"),
                 data<float>(values, type, numel, "the values"), data<float>(out, type, result, "the result"),
                 scratch.data(), places.data());
    }
  });
}

int te_pick(void* logits, void* states, void* head, int64_t keep, int64_t spare, int64_t* tokens, float* log_probs,
            char** error) {
  return recorded(error, [&] {
    const at::Tensor& all = tensor(logits);
    TORCH_CHECK(all.dim() == 2, "logits have ", all.dim(), " dimensions instead of 2");
    const int64_t rows = all.size(0), width = all.size(1);
    TORCH_CHECK(keep >= 1 && keep <= width && spare >= 0, keep, " of ", width, " tokens");
    std::vector<float> tops(width / LANES + 1);
    int64_t bad;
    if (is_bf16(logits)) {
      const int64_t hidden = tensor(head).numel() / width;
      bad = pick_bf16(data<bf16>(logits, at::kBFloat16, rows * width, "the logits"),
                      data<float>(states, at::kFloat, rows * hidden, "the states"),
                      data<bf16>(head, at::kBFloat16, width * hidden, "the head"), rows, width, hidden, keep, spare,
                      tokens, log_probs, tops.data());
    } else {
      bad = pick_f32(data<float>(logits, at::kFloat, rows * width, "the logits"), rows, width, keep, tokens, log_probs,
                     tops.data());
    }
    TORCH_CHECK(bad < 0, "the logits of row ", bad, " hold NaN or infinity");
  });
}

int te_pack_linear(void* weight, int64_t rows, void** out, char** error) {
  return recorded(error, [&] {
    c10::NoGradGuard no_grad;
    static const auto reorder =
        c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "").typed<Reorder>();
    *out = new at::Tensor(reorder.call(tensor(weight).detach(), rows));
  });
}

int te_packed_linear(void* x, void* packed, void* bias, void** out, char** error) {
  return recorded(error, [&] {
    c10::NoGradGuard no_grad;
    static const auto linear =
        c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "").typed<Linear>();
    std::optional<at::Tensor> added;
    if (bias) added = tensor(bias);
    const c10::List<std::optional<at::Scalar>> none;
    *out = new at::Tensor(linear.call(tensor(x), tensor(packed), added, "none", none, ""));
  });
}
}
