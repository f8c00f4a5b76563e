// The number formats in memory, and rounding of sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

using bf16 = uint16_t;       // the upper half of a float
using bf16_pair = uint32_t;  // inputs 2k (lower half) and 2k+1 of one output
using int8_quad = uint32_t;  // inputs 4k (lowest byte) … 4k+3 of one output

static inline float to_float(bf16 x) {
  uint32_t bits = uint32_t(x) << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

// To the nearest, ties to even, as the AVX-512 instruction rounds. NaN stays NaN.
static inline bf16 to_bf16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return bf16(bits >> 16 | 0x40);
  return bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }
