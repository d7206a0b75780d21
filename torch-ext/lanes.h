// Sixteen floats at a time, in GCC's vectors: functions that are inlined into kernels, which CLONES compiles once for
// AVX-512, once for AVX2 and once for any CPU. bf16 is read into f32 and rounded back.
#pragma once
#include "numbers.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

namespace kernels {
namespace {

typedef float f32x16 __attribute__((vector_size(64)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
constexpr int64_t LANES = 16;

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

// To the nearest bf16, ties to even.
INLINE void store(bf16* p, f32x16 v) {
  u32x16 bits = (u32x16)v;
  u32x16 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  u32x16 is_nan = (u32x16)(v != v);
  u16x16 half = __builtin_convertvector((rounded & ~is_nan) | (is_nan & 0x7fc0), u16x16);
  std::memcpy(p, &half, sizeof half);
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

// Where one is NaN, b.
INLINE f32x16 larger(f32x16 a, f32x16 b) {
  i32x16 mask = a > b;
  return (f32x16)(((i32x16)a & mask) | ((i32x16)b & ~mask));
}

INLINE f32x16 exponential(f32x16 x) { return exponential_of<f32x16, u32x16>(x); }

}  // namespace
}  // namespace kernels
