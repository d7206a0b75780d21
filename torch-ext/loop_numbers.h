// Numbers in memory and in registers, for the loops of kernel_loops.cpp. All of it is static to the file that includes it.
#pragma once
#include <cstdint>
#include <cstring>

namespace kernels {
namespace {

using bf16 = uint16_t;

inline float widen(float x) { return x; }
inline float widen(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

// To nearest, to even where two are as near.
template <typename T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) { return x; }
template <>
inline bf16 narrow<bf16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<bf16>(x != x ? 0x7fc0u : rounded);
}

// e^x within 2 units in the last place (Cephes' polynomial); 0 below -87, where f32 has no full precision left.
inline float exponential(float x) {
  float c = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float turns = c * 1.44269504f;
  int n = static_cast<int>(turns == turns ? turns + (turns < 0 ? -0.5f : 0.5f) : 0.0f);
  float m = static_cast<float>(n);
  float r = (c - m * 0.693359375f) + m * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  uint32_t bits = static_cast<uint32_t>(n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : p * power;
}

}  // namespace
}  // namespace kernels
