// Numbers in memory and in registers, for all CPU kernels. All of it is static to the file that includes it: kernels are
// compiled for several levels of processors, and the linker would keep one copy of an inline function, of any level.
//
// NaN, one rule: what is computed from NaN is NaN, in registers and rounded to bf16. A highest number passes over NaN, as
// comparisons do; the sum of exponentials that comes behind it does not.
#pragma once
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

namespace kernels {
namespace {

// A bf16 is the upper half of an f32.
typedef uint16_t bf16;

INLINE float widen(float x) { return x; }
INLINE float widen(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

// To nearest, to even where two are as near.
template <typename T>
T narrow(float x);
template <>
__attribute__((always_inline)) inline float narrow<float>(float x) { return x; }
template <>
__attribute__((always_inline)) inline bf16 narrow<bf16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<bf16>(x != x ? 0x7fc0u : rounded);
}

// e^x for a float, or a vector of them with as many uint32_t as `Bits`, within 2 units in the last place: 2^n times a
// polynomial on [-ln 2 / 2, ln 2 / 2] (coefficients of Cephes' expf). 0 below -87, where f32 has no full precision left;
// e^88 above 88.
template <typename F, typename Bits>
INLINE F exponential_of(F x) {
  const F zero{}, low = zero - 87.0f, high = zero + 88.0f;
  const F c = x < low ? low : (x > high ? high : x);
  // 1.5 * 2^23: adding it rounds to an integer n, which is then in the lowest bits
  const F magic = zero + 12582912.0f, turned = c * 1.44269504f + magic, n = turned - magic;
  const F r = (c - n * 0.693359375f) + n * 2.12194440e-4f;
  F p = zero + 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Bits bits;
  std::memcpy(&bits, &turned, sizeof bits);
  bits = (bits << 23) + (127u << 23);
  F power;
  std::memcpy(&power, &bits, sizeof power);
  // of NaN the power is some number or other, and p is NaN
  return x < low ? zero : p * power;
}

INLINE float exponential(float x) { return exponential_of<float, uint32_t>(x); }

}  // namespace
}  // namespace kernels
