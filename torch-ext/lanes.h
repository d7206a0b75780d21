// Sixteen floats at a time, in GCC's vectors: functions that are inlined into kernels, which CLONES compiles once for
// AVX-512, once for AVX2 and once for any CPU. bf16 is read into f32 and rounded back.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif
#define INLINE static inline __attribute__((always_inline))

namespace {

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
constexpr int64_t LANES = 16;

// A bf16 is the upper half of an f32.
typedef uint16_t bf16;

INLINE f32x16 all(float x) { return f32x16{} + x; }

INLINE f32x16 load(const float* p) {
  f32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

INLINE f32x16 load(const bf16* p) {
  u16x16 half;
  std::memcpy(&half, p, sizeof half);
  u32x16 wide = __builtin_convertvector(half, u32x16) << 16;
  return (f32x16)wide;
}

INLINE void store(float* p, f32x16 v) { std::memcpy(p, &v, sizeof v); }

// To the nearest bf16, ties to even; NaN stays NaN.
INLINE void store(bf16* p, f32x16 v) {
  u32x16 bits = (u32x16)v;
  u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  u32x16 is_nan = (u32x16)(v != v);
  u16x16 half = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), u16x16);
  std::memcpy(p, &half, sizeof half);
}

INLINE float widen(float x) { return x; }

INLINE float widen(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

INLINE void narrow(float* p, float x) { *p = x; }

INLINE void narrow(bf16* p, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  *p = x != x ? 0x7fc0 : static_cast<bf16>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The upper half onto the lower one, and so on: four additions in a row instead of fifteen.
INLINE float sum(f32x16 v) {
  f32x8 eight[2];
  std::memcpy(eight, &v, sizeof v);
  eight[0] += eight[1];
  f32x4 four[2];
  std::memcpy(four, eight, sizeof four);
  four[0] += four[1];
  return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

INLINE float highest(f32x16 v) {
  float most = v[0];
  for (int i = 1; i < LANES; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

INLINE f32x16 larger(f32x16 a, f32x16 b) {
  i32x16 mask = a > b;
  return (f32x16)(((i32x16)a & mask) | ((i32x16)b & ~mask));
}

// e^x within 2 ulp for x in [-87, 88], and bounded by its values at those ends: 2^n times a polynomial on
// [-ln 2 / 2, ln 2 / 2] (coefficients of Cephes' expf).
INLINE f32x16 exponential(f32x16 x) {
  x = larger(x, all(-87.0f));
  x = -larger(-x, all(-88.0f));
  const f32x16 magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  f32x16 n = (x * 1.44269504088896341f + magic) - magic;
  f32x16 r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  f32x16 p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i32x16 power = (__builtin_convertvector(n, i32x16) + 127) << 23;
  return p * (f32x16)power;
}

INLINE float exponential(float x) {
  return exponential(all(x))[0];
}

}  // namespace
