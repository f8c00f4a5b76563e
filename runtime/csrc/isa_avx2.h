// AVX2 with FMA: eight lanes; bfloat16 weights are widened to float as they are read, activations
// stay float. The same names as in isa_avx512.h; the kernels are written once over either.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "numbers.h"

namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  // There is no bfloat16 arithmetic, so rounding activations would only lose precision.
  using Act = float;
  using Float = __m256;
  using Int = __m256i;
  using Mask = __m256;

  // --- float ---------------------------------------------------------------------------------
  static Float zero() { return _mm256_setzero_ps(); }
  static Float set(float x) { return _mm256_set1_ps(x); }
  static Float load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float sub(Float a, Float b) { return _mm256_sub_ps(a, b); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float div(Float a, Float b) { return _mm256_div_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  // If either is NaN, the second.
  static Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static Float round(Float x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Float abs(Float x) { return _mm256_andnot_ps(set(-0.0f), x); }
  // 2^n for whole n from -127 (gives 0) to 127.
  static Float power_of_two(Float n) {
    Int exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  }
  static float sum(Float x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static float maximum(Float x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static float minimum(Float x) { return -maximum(sub(zero(), x)); }

  // --- lanes ---------------------------------------------------------------------------------
  // Lanes begin … end-1; either may lie outside 0 … kLanes.
  static Mask lanes(int begin, int end) {
    Int lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    Int from = _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1));
    Int until = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
    return _mm256_castsi256_ps(_mm256_and_si256(from, until));
  }
  static Float select(Mask m, Float yes, Float no) { return _mm256_blendv_ps(no, yes, m); }
  static Mask greater(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static Mask equal(Float a, Float b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static unsigned bits(Mask m) { return unsigned(_mm256_movemask_ps(m)); }

  // --- bfloat16 ------------------------------------------------------------------------------
  static void store_act(Act* p, Float x) { store(p, x); }

  // One step of a product takes two inputs (a pair) of each output: first the even one, whose
  // bits are the lower half of the pair, then the odd one.
  static constexpr int kPhases = 2;
  template <int Phase>
  static Float weights(const bf16_pair* p) {
    Int pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (Phase == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000))));
  }
  template <int Phase>
  static Float inputs(const Act* p) {
    return _mm256_broadcast_ss(p + Phase);
  }
  static Float dot(Float sum, Float weights, Float inputs) { return fma(weights, inputs, sum); }

  // --- int8 ----------------------------------------------------------------------------------
  // Unlike Int this may not alias other types: with Int the compiler keeps sums in memory.
  typedef int32_t Sums8 __attribute__((vector_size(32)));
  static Int load_int(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Int sub_int(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  // Rounds to the nearest whole number, adds 128 and stores kLanes bytes; x is in -127 … 127.
  static void store_uint8(uint8_t* p, Float x) {
    Int shifted = _mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(128));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(shifted),
                                     _mm256_extracti128_si256(shifted, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }

  // One step takes four inputs (a quad) of each output: bytes 0 and 2, then 1 and 3, widened to
  // 16 bits. (The instruction that multiplies bytes saturates its 16-bit sums.)
  static constexpr int kPhasesInt8 = 2;
  template <int Phase>
  static Int weights8(const int8_quad* p) {
    Int quads = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if constexpr (Phase == 0) quads = _mm256_slli_epi16(quads, 8);
    return _mm256_srai_epi16(quads, 8);
  }
  template <int Phase>
  static Int inputs8(const uint8_t* p) {
    uint32_t quad;
    memcpy(&quad, p, sizeof quad);
    return _mm256_set1_epi32(int(quad >> (8 * Phase) & 0x00ff00ff));
  }
  static Sums8 dot8(Sums8 sum, Int weights, Int inputs) {
    return sum + Sums8(_mm256_madd_epi16(weights, inputs));
  }

  // Vectors of a tile of that many rows: its sums, weights and one input fit 16 registers.
  static constexpr int kMaxRows = 6;
  // How far ahead weights are fetched; measured. A tile is narrower than a panel here, so a step is short.
  static constexpr int kStepsAhead = 64;
  static constexpr int tile_vectors(int rows) { return rows == 1 ? 8 : rows == 2 ? 4 : 2; }
};

}  // namespace
