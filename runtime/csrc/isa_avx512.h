// AVX-512 with BF16 and VNNI: sixteen lanes; bfloat16 pairs and int8 quads have dot products of
// their own. The same names as in isa_avx2.h; the kernels are written once over either.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "numbers.h"

namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  // Activations that enter a product are bfloat16, as the instruction wants them.
  using Act = bf16;
  using Float = __m512;
  using Int = __m512i;
  using Mask = __mmask16;

  // --- float ---------------------------------------------------------------------------------
  static Float zero() { return _mm512_setzero_ps(); }
  static Float set(float x) { return _mm512_set1_ps(x); }
  static Float load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm512_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm512_div_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  // If either is NaN, the second.
  static Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static Float round(Float x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
  static Float abs(Float x) { return _mm512_abs_ps(x); }
  // 2^n for whole n from -127 (gives 0) to 127.
  static Float power_of_two(Float n) {
    Int exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
  }
  static float sum(Float x) { return _mm512_reduce_add_ps(x); }
  static float maximum(Float x) { return _mm512_reduce_max_ps(x); }
  static float minimum(Float x) { return _mm512_reduce_min_ps(x); }

  // --- lanes ---------------------------------------------------------------------------------
  // Lanes begin … end-1; either may lie outside 0 … kLanes.
  static Mask lanes(int begin, int end) { return Mask(below(end) & ~below(begin)); }
  static Float select(Mask m, Float yes, Float no) { return _mm512_mask_blend_ps(m, no, yes); }
  static Mask greater(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static unsigned bits(Mask m) { return m; }

  // --- bfloat16 ------------------------------------------------------------------------------
  static void store_act(Act* p, Float x) {
    __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
  }

  // One step of a product takes two inputs (a pair) of each output, in kPhases instructions.
  static constexpr int kPhases = 1;
  template <int>
  static __m512bh weights(const bf16_pair* p) {
    return (__m512bh)_mm512_loadu_si512(p);
  }
  template <int>
  static __m512bh inputs(const Act* p) {
    int pair;
    memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static Float dot(Float sum, __m512bh weights, __m512bh inputs) {
    return _mm512_dpbf16_ps(sum, weights, inputs);
  }

  // --- int8 ----------------------------------------------------------------------------------
  // Unlike Int this may not alias other types: with Int the compiler keeps sums in memory.
  typedef int32_t Sums8 __attribute__((vector_size(64)));
  static Int load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Int sub_int(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  // Rounds to the nearest whole number, adds 128 and stores kLanes bytes; x is in -127 … 127.
  static void store_uint8(uint8_t* p, Float x) {
    Int shifted = _mm512_add_epi32(_mm512_cvtps_epi32(x), _mm512_set1_epi32(128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtusepi32_epi8(shifted));
  }

  // One step takes four inputs (a quad) of each output.
  static constexpr int kPhasesInt8 = 1;
  template <int>
  static Int weights8(const int8_quad* p) {
    return _mm512_loadu_si512(p);
  }
  template <int>
  static Int inputs8(const uint8_t* p) {
    int quad;
    memcpy(&quad, p, sizeof quad);
    return _mm512_set1_epi32(quad);
  }
  static Sums8 dot8(Sums8 sum, Int weights, Int inputs) {
    return Sums8(_mm512_dpbusd_epi32(Int(sum), inputs, weights));
  }

  // Vectors of a tile of that many rows: its sums, weights and one input fit 32 registers.
  static constexpr int kMaxRows = 6;
  // How far ahead weights are fetched; measured. A tile is as wide as a panel.
  static constexpr int kStepsAhead = 16;
  static constexpr int tile_vectors(int) { return 4; }

 private:
  static unsigned below(int n) { return n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1; }
};

}  // namespace
