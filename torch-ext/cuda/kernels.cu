// Element-wise operations of a decoder's blocks as single passes over a GPU's memory, which they are bound by. Compiled
// to PTX by NVRTC (build_ptx.rs), without headers of CUDA or of the system; the tests compile it for the CPU, where a
// thread is a call (tests/cuda_kernels.rs). Numbers are f32 between loading and storing.

#include "kernels.h"

#ifdef __CUDA_ARCH__
// good to some units of f32's last place (2 + 1.2 |x| of the exponential, by CUDA's documentation), and faster than the
// exact ones
__device__ inline float exponential(float x) { return __expf(x); }
__device__ inline float quotient(float a, float b) { return __fdividef(a, b); }
#endif

// bf16 as it lies in memory: the upper half of an f32.
struct Bf16 {
  unsigned short bits;
};

union Bits {
  float number;
  unsigned bits;
};

__device__ inline float load(float x) { return x; }
__device__ inline float load(Bf16 x) {
  Bits b;
  b.bits = static_cast<unsigned>(x.bits) << 16;
  return b.number;
}

__device__ inline void store(float* place, float x) { *place = x; }
__device__ inline void store(Bf16* place, float x) {
  Bits b;
  b.number = x;
  // to nearest, ties to even; NaN must not be rounded into infinity
  unsigned rounded = (b.bits + 0x7fffu + ((b.bits >> 16) & 1u)) >> 16;
  place->bits = static_cast<unsigned short>(x != x ? 0x7fffu : rounded);
}

// N numbers that are loaded and stored at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

template <typename T, int N>
__device__ inline Pack<T, N> pack_at(const void* start, long long index) {
  return *reinterpret_cast<const Pack<T, N>*>(static_cast<const T*>(start) + index);
}

template <typename T, int N>
__device__ inline void put(void* start, long long index, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(static_cast<T*>(start) + index) = pack;
}

__device__ inline float sigmoid(float x) { return quotient(1.0f, 1.0f + exponential(-x)); }

template <typename T, int N>
__device__ inline void swiglu(const SwigluForward& a) {
  long long row = blockIdx.x;
  for (long long at = threadIdx.x * N; at < a.width; at += blockDim.x * N) {
    auto gate = pack_at<T, N>(a.x, row * 2 * a.width + at);
    auto up = pack_at<T, N>(a.x, (row * 2 + 1) * a.width + at);
    Pack<T, N> y;
    for (int i = 0; i < N; ++i) {
      float g = load(gate.at[i]);
      store(&y.at[i], g * sigmoid(g) * load(up.at[i]));
    }
    put(a.y, row * a.width + at, y);
  }
}

// d silu(g) / dg = s (1 + g (1 - s)) with s the sigmoid.
template <typename T, int N>
__device__ inline void swiglu_backward(const SwigluBackward& a) {
  long long row = blockIdx.x;
  for (long long at = threadIdx.x * N; at < a.width; at += blockDim.x * N) {
    long long gate_at = row * 2 * a.width + at;
    auto gate = pack_at<T, N>(a.x, gate_at);
    auto up = pack_at<T, N>(a.x, gate_at + a.width);
    auto dy = pack_at<T, N>(a.dy, row * a.width + at);
    Pack<T, N> d_gate, d_up;
    for (int i = 0; i < N; ++i) {
      float g = load(gate.at[i]), d = load(dy.at[i]), s = sigmoid(g);
      store(&d_gate.at[i], d * load(up.at[i]) * s * (1.0f + g * (1.0f - s)));
      store(&d_up.at[i], d * g * s);
    }
    put(a.dx, gate_at, d_gate);
    put(a.dx, gate_at + a.width, d_up);
  }
}

// Rotate-half (arXiv 2104.09864, in the layout of modeling_llama.py of transformers): the pair (i, i + D/2) by the angle of
// its position; backwards by the opposite one.
template <typename T, int N, bool backward>
__device__ inline void turn(const Turn& a) {
  long long row = blockIdx.x;
  int text = static_cast<int>(row / a.length), position = static_cast<int>(row % a.length), half = a.head_dim / 2;
  int heads = a.heads + 2 * a.kv_heads, packs = half / N;
  long long in_qkv = row * heads * a.head_dim;
  for (int at = threadIdx.x; at < heads * packs; at += blockDim.x) {
    int head = at / packs, i = at % packs * N;
    bool is_q = head < a.heads, is_k = !is_q && head < a.heads + a.kv_heads;
    const Heads& apart = is_q ? a.q : is_k ? a.k : a.v;
    int number = is_q ? head : is_k ? head - a.heads : head - a.heads - a.kv_heads;
    long long one = text * apart.text + position * apart.position + number * apart.head + i;
    long long other = in_qkv + static_cast<long long>(head) * a.head_dim + i;
    const void* from = backward ? apart.data : a.qkv;
    void* to = backward ? a.qkv : apart.data;
    long long read = backward ? one : other, written = backward ? other : one;
    auto left = pack_at<T, N>(from, read), right = pack_at<T, N>(from, read + half);
    if (is_q || is_k) {
      auto cos = pack_at<float, N>(a.cos, position * half + i), sin = pack_at<float, N>(a.sin, position * half + i);
      for (int j = 0; j < N; ++j) {
        float x = load(left.at[j]), y = load(right.at[j]), c = cos.at[j], s = backward ? -sin.at[j] : sin.at[j];
        store(&left.at[j], x * c - y * s);
        store(&right.at[j], y * c + x * s);
      }
    }
    put(to, written, left);
    put(to, written + half, right);
  }
}

#define KERNELS(kind, T, N)                                                                                      \
  extern "C" __global__ void swiglu_##kind##_##N(SwigluForward a) { swiglu<T, N>(a); }                           \
  extern "C" __global__ void swiglu_backward_##kind##_##N(SwigluBackward a) { swiglu_backward<T, N>(a); }        \
  extern "C" __global__ void turn_##kind##_##N(Turn a) { turn<T, N, false>(a); }                                 \
  extern "C" __global__ void turn_backward_##kind##_##N(Turn a) { turn<T, N, true>(a); }

// 16 bytes at once, or whatever does not divide
KERNELS(f32, float, 4)
KERNELS(f32, float, 1)
KERNELS(bf16, Bf16, 8)
KERNELS(bf16, Bf16, 1)
