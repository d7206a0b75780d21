// The loops of attention over short texts, part of kernel_loops.cpp.
#pragma once
#include "kernel_loops.h"
#include "numbers.h"

namespace kernels {
namespace {

typedef float Vector __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4), may_alias));

// C (rows, columns) = or += A (rows, from k0 to k1) B (from k0 to k1, columns); columns a multiple of `lanes`.
// A's element (m, k) is at m * a_row + k * a_column. Rows beyond `rows` up to the next multiple of 4 must be readable.
template <int R, bool ADD>
inline void panel(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_column, const float* b,
                  int64_t b_row, int64_t columns, int64_t k0, int64_t k1) {
  int64_t j = 0;
  for (; j + 2 * lanes <= columns; j += 2 * lanes) {
    Vector left[R], right[R];
    for (int r = 0; r < R; ++r) {
      if (ADD) {
        left[r] = *reinterpret_cast<const Loose*>(c + r * c_row + j);
        right[r] = *reinterpret_cast<const Loose*>(c + r * c_row + j + lanes);
      } else {
        left[r] = Vector{};
        right[r] = Vector{};
      }
    }
    for (int64_t k = k0; k < k1; ++k) {
      Vector b0 = *reinterpret_cast<const Loose*>(b + k * b_row + j);
      Vector b1 = *reinterpret_cast<const Loose*>(b + k * b_row + j + lanes);
      for (int r = 0; r < R; ++r) {
        float factor = a[r * a_row + k * a_column];
        left[r] += factor * b0;
        right[r] += factor * b1;
      }
    }
    for (int r = 0; r < R; ++r) {
      *reinterpret_cast<Loose*>(c + r * c_row + j) = left[r];
      *reinterpret_cast<Loose*>(c + r * c_row + j + lanes) = right[r];
    }
  }
  for (; j < columns; j += lanes) {
    Vector sum[R];
    for (int r = 0; r < R; ++r)
      sum[r] = ADD ? Vector(*reinterpret_cast<const Loose*>(c + r * c_row + j)) : Vector{};
    for (int64_t k = k0; k < k1; ++k) {
      Vector b0 = *reinterpret_cast<const Loose*>(b + k * b_row + j);
      for (int r = 0; r < R; ++r) sum[r] += a[r * a_row + k * a_column] * b0;
    }
    for (int r = 0; r < R; ++r) *reinterpret_cast<Loose*>(c + r * c_row + j) = sum[r];
  }
}

// Which part of the inner dimension a panel of four rows from `row` needs: [first(row), last(row)).
template <bool ADD, typename Range>
inline void product(float* c, int64_t c_row, const float* a, int64_t a_row, int64_t a_column, const float* b,
                    int64_t b_row, int64_t rows, int64_t columns, Range range) {
  for (int64_t row = 0; row < rows; row += 4) {
    int64_t k0, k1, n = columns;
    range(row, k0, k1, n);
    panel<4, ADD>(c + row * c_row, c_row, a + row * a_row, a_row, a_column, b, b_row, n, k0, k1);
  }
}

// The memory of one head: every matrix has four rows more than it needs, and those are zero or never read back.
struct Heads {
  int64_t dim, keys, rows;
  float *q, *k, *v, *y, *dk, *dv, *dq, *k_t, *v_t, *p, *dp;

  Heads(const Attention& a, float* scratch)
      : dim(padded(a.head_dim)), keys(padded(a.length)), rows(a.length + 4) {
    auto take = [&](int64_t n) {
      float* start = scratch;
      scratch += n;
      return start;
    };
    q = take(rows * dim), k = take(rows * dim), v = take(rows * dim), y = take(rows * dim);
    dk = take(rows * dim), dv = take(rows * dim), dq = take(rows * dim);
    k_t = take(dim * keys), v_t = take(dim * keys);
    p = take(rows * keys), dp = take(rows * keys);
  }
};

// Rows of a head as f32, from position `from` on; zeros behind the last number.
template <typename T>
inline void load(const T* x, int64_t stride, int64_t from, int64_t length, int64_t head_dim, int64_t dim, float* out) {
  for (int64_t t = from; t < length; ++t) {
    const T* row = x + t * stride;
    float* to = out + (t - from) * dim;
#pragma omp simd
    for (int64_t i = 0; i < head_dim; ++i) to[i] = widen(row[i]);
    for (int64_t i = head_dim; i < dim; ++i) to[i] = 0;
  }
}

// As `load`, each pair (i, i + D/2) turned by its position's angle and multiplied.
template <typename T>
inline void load_turned(const Attention& a, const T* x, int64_t stride, int64_t from, int64_t dim, float factor,
                        float* out) {
  const int64_t half = a.head_dim / 2;
  for (int64_t t = from; t < a.length; ++t) {
    const T *first = x + t * stride, *second = first + half;
    const float *cos = a.cos + t * half, *sin = a.sin + t * half;
    float *low = out + (t - from) * dim, *high = low + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      float u = widen(first[i]) * factor, w = widen(second[i]) * factor;
      low[i] = u * cos[i] - w * sin[i];
      high[i] = w * cos[i] + u * sin[i];
    }
    for (int64_t i = a.head_dim; i < dim; ++i) low[i] = 0;
  }
}

// The gradient of `load_turned`.
template <typename T>
inline void store_turned(const Attention& a, const float* d, int64_t from, int64_t dim, float factor, T* x,
                         int64_t stride) {
  const int64_t half = a.head_dim / 2;
  for (int64_t t = from; t < a.length; ++t) {
    T *first = x + t * stride, *second = first + half;
    const float *cos = a.cos + t * half, *sin = a.sin + t * half;
    const float *low = d + (t - from) * dim, *high = low + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      first[i] = narrow<T>((low[i] * cos[i] + high[i] * sin[i]) * factor);
      second[i] = narrow<T>((high[i] * cos[i] - low[i] * sin[i]) * factor);
    }
  }
}

template <typename T>
inline void store(const float* x, int64_t rows, int64_t head_dim, int64_t dim, T* out, int64_t stride) {
  for (int64_t t = 0; t < rows; ++t) {
#pragma omp simd
    for (int64_t i = 0; i < head_dim; ++i) out[t * stride + i] = narrow<T>(x[t * dim + i]);
  }
}

inline void transpose(const float* x, int64_t rows, int64_t columns, float* out, int64_t out_row) {
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) out[j * out_row + i] = x[i * columns + j];
    for (int64_t i = rows; i < out_row; ++i) out[j * out_row + i] = 0;
  }
}

// Probabilities (asking positions, keys) of one head of queries, which are in h.q, scaled; zeros where nobody looks.
template <typename T>
inline void probabilities(const Attention& a, const Heads& h, const T* mask) {
  const int64_t asking = a.length - a.from;
  product<false>(h.p, h.keys, h.q, h.dim, 1, h.k_t, h.keys, asking, h.keys,
                 [&](int64_t row, int64_t& k0, int64_t& k1, int64_t& n) {
                   k0 = 0, k1 = h.dim;
                   int64_t seen = padded(a.from + row + 4);
                   if (a.causal && seen < n) n = seen;
                 });
  for (int64_t row = 0; row < asking; ++row) {
    float* p = h.p + row * h.keys;
    const int64_t seen = a.causal ? a.from + row + 1 : a.length;
    if (mask != nullptr) {
#pragma omp simd
      for (int64_t s = 0; s < seen; ++s) p[s] += widen(mask[s]);
    }
    float most = -__builtin_inff(), sum = 0;
#pragma omp simd reduction(max : most)
    for (int64_t s = 0; s < seen; ++s) most = p[s] > most ? p[s] : most;
#pragma omp simd reduction(+ : sum)
    for (int64_t s = 0; s < seen; ++s) {
      float e = exponential(p[s] - most);
      p[s] = e;
      sum += e;
    }
    const float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t s = 0; s < seen; ++s) p[s] *= inverse;
    for (int64_t s = seen; s < h.keys; ++s) p[s] = 0;
  }
}

// Keys and values of an item into h; returns where they and the mask's row lie.
template <typename T>
struct Item {
  const T *q, *k, *v, *mask;
  int64_t stride, text, head, group;

  Item(const Attention& a, int64_t item)
      : stride((a.heads + 2 * a.kv_heads) * a.head_dim),
        text(item / a.kv_heads),
        head(item % a.kv_heads),
        group(a.heads / a.kv_heads) {
    const T* start = static_cast<const T*>(a.qkv) + text * a.length * stride;
    q = start + head * group * a.head_dim;
    k = start + (a.heads + head) * a.head_dim;
    v = k + a.kv_heads * a.head_dim;
    mask = a.key_mask == nullptr ? nullptr : static_cast<const T*>(a.key_mask) + text * a.length;
  }

  void load_keys(const Attention& a, const Heads& h) const {
    load_turned(a, k, stride, 0, h.dim, 1.0f, h.k);
    transpose(h.k, a.length, h.dim, h.k_t, h.keys);
    load(v, stride, 0, a.length, a.head_dim, h.dim, h.v);
  }
};

// The keys that a panel of rows sees.
inline auto seen_by(const Attention& a) {
  return [&a](int64_t row, int64_t& k0, int64_t& k1, int64_t&) {
    k0 = 0, k1 = a.length;
    if (a.causal && a.from + row + 4 < k1) k1 = a.from + row + 4;
  };
}

// The asking positions that see a panel of keys.
inline auto seeing(const Attention& a) {
  return [&a](int64_t row, int64_t& k0, int64_t& k1, int64_t&) {
    k0 = a.causal && row > a.from ? row - a.from : 0, k1 = a.length - a.from;
  };
}

inline float scale_of(const Attention& a) { return 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim)); }

template <typename T>
void attention(const Attention& a, void* y_, float* scratch, int64_t begin, int64_t end) {
  const Heads h(a, scratch);
  const int64_t asking = a.length - a.from, y_stride = a.heads * a.head_dim;
  for (int64_t number = begin; number < end; ++number) {
    const Item<T> item(a, number);
    item.load_keys(a, h);
    for (int64_t g = 0; g < item.group; ++g) {
      load_turned(a, item.q + g * a.head_dim, item.stride, a.from, h.dim, scale_of(a), h.q);
      probabilities(a, h, item.mask);
      product<false>(h.y, h.dim, h.p, h.keys, 1, h.v, h.dim, asking, h.dim, seen_by(a));
      T* y = static_cast<T*>(y_) + item.text * asking * y_stride + (item.head * item.group + g) * a.head_dim;
      store(h.y, asking, a.head_dim, h.dim, y, y_stride);
    }
  }
}

template <typename T>
void attention_backward(const Attention& a, const void* dy_, void* d_qkv_, float* scratch, int64_t begin,
                        int64_t end) {
  const Heads h(a, scratch);
  const int64_t asking = a.length - a.from, y_stride = a.heads * a.head_dim;
  auto all = [&](int64_t row, int64_t& k0, int64_t& k1, int64_t& n) {
    k0 = 0, k1 = h.dim;
    int64_t seen = padded(a.from + row + 4);
    if (a.causal && seen < n) n = seen;
  };
  for (int64_t number = begin; number < end; ++number) {
    const Item<T> item(a, number);
    item.load_keys(a, h);
    transpose(h.v, a.length, h.dim, h.v_t, h.keys);
    std::memset(h.dk, 0, sizeof(float) * h.rows * h.dim);
    std::memset(h.dv, 0, sizeof(float) * h.rows * h.dim);
    // where the gradients go, as the values lie in qkv
    auto place = [&](const T* x) { return static_cast<T*>(d_qkv_) + (x - static_cast<const T*>(a.qkv)); };
    for (int64_t g = 0; g < item.group; ++g) {
      const T* q = item.q + g * a.head_dim;
      load_turned(a, q, item.stride, a.from, h.dim, scale_of(a), h.q);
      probabilities(a, h, item.mask);
      const T* dy = static_cast<const T*>(dy_) + item.text * asking * y_stride +
                    (item.head * item.group + g) * a.head_dim;
      load(dy, y_stride, 0, asking, a.head_dim, h.dim, h.y);
      product<false>(h.dp, h.keys, h.y, h.dim, 1, h.v_t, h.keys, asking, h.keys, all);
      product<true>(h.dv, h.dim, h.p, 1, h.keys, h.y, h.dim, a.length, h.dim, seeing(a));
      for (int64_t row = 0; row < asking; ++row) {
        float *p = h.p + row * h.keys, *dp = h.dp + row * h.keys, along = 0;
        const int64_t seen = a.causal ? a.from + row + 1 : a.length;
#pragma omp simd reduction(+ : along)
        for (int64_t s = 0; s < seen; ++s) along += p[s] * dp[s];
#pragma omp simd
        for (int64_t s = 0; s < seen; ++s) p[s] *= dp[s] - along;
      }
      product<false>(h.dq, h.dim, h.p, h.keys, 1, h.k, h.dim, asking, h.dim, seen_by(a));
      product<true>(h.dk, h.dim, h.p, 1, h.keys, h.q, h.dim, a.length, h.dim, seeing(a));
      T* d_q = place(q);
      for (int64_t t = 0; t < a.from; ++t) std::memset(d_q + t * item.stride, 0, sizeof(T) * a.head_dim);
      store_turned(a, h.dq, a.from, h.dim, scale_of(a), d_q, item.stride);
    }
    store_turned(a, h.dk, 0, h.dim, 1.0f, place(item.k), item.stride);
    store(h.dv, a.length, a.head_dim, h.dim, place(item.v), item.stride);
  }
}

}  // namespace
}  // namespace kernels
