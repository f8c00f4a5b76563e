// The product over int8: activations are bytes shifted by 128, weights signed bytes, sums whole
// numbers, so they are exact whatever their order.
//
//     out[row, c] = (Σ (q_x + 128) · q_w  −  128 · Σ q_w) · scale_w[c] · scale_x[row]
#pragma once
#include "matrix.h"
#include "product.h"

namespace {

template <class Isa, int Rows, int Vectors, int Phase, class Sums>
inline __attribute__((always_inline)) void add_step8(const int8_quad* w, const uint8_t* x,
                                                     size_t ldx, Sums& sums) {
  decltype(Isa::template weights8<Phase>(w)) column[Vectors];
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; v++) column[v] = Isa::template weights8<Phase>(w + v * Isa::kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
    auto input = Isa::template inputs8<Phase>(x + r * ldx);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) sums[r][v] = Isa::dot8(sums[r][v], column[v], input);
  }
}

template <class Isa, int Rows, int Vectors>
void tile8(const int8_quad* w, const float* scales, const int32_t* shifts, const uint8_t* x,
           size_t ldx, const float* x_scales, int steps, float* out, size_t ldo,
           Prefetch& prefetch) {
  typename Isa::Sums8 sums[Rows][Vectors] = {};
  auto add = [&] {
    add_step8<Isa, Rows, Vectors, 0>(w, x, ldx, sums);
    if constexpr (Isa::kPhasesInt8 == 2) add_step8<Isa, Rows, Vectors, 1>(w, x, ldx, sums);
    w += kPanel;
    x += 4;
  };
  each_step<Isa, Vectors>(w, kPanel, steps, prefetch, add);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
    auto x_scale = Isa::set(x_scales[r]);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) {
      int c = v * Isa::kLanes;
      auto sum = Isa::to_float(Isa::sub_int(typename Isa::Int(sums[r][v]), Isa::load_int(shifts + c)));
      Isa::store(out + r * ldo + c, Isa::mul(Isa::mul(sum, Isa::load(scales + c)), x_scale));
    }
  }
}

// One panel, up to six rows: out[rows, 64].
template <class Isa>
void multiply_panel8(const Matrix& m, int panel, const uint8_t* x, size_t ldx,
                     const float* x_scales, int rows, float* out, Prefetch& prefetch) {
  fixed_rows(rows, [&](auto fixed) {
    constexpr int Rows = decltype(fixed)::value;
    constexpr int Vectors = Isa::tile_vectors(Rows);
    for (int c = 0; c < kPanel; c += Vectors * Isa::kLanes)
      tile8<Isa, Rows, Vectors>(m.panel(panel) + c, m.scales(panel) + c, m.shifts(panel) + c, x,
                                ldx, x_scales, m.steps(), out + c, kPanel, prefetch);
  });
}

// A row of n floats as bytes, n a multiple of 16: its largest magnitude becomes ±127. Returns what
// a whole number is worth.
template <class Isa>
float quantize(const float* x, int n, uint8_t* out) {
  auto most = Isa::zero();
  for (int i = 0; i < n; i += Isa::kLanes) most = Isa::max(Isa::abs(Isa::load(x + i)), most);
  float scale = Isa::maximum(most) / 127;
  if (!(scale > 0)) scale = 1;
  auto inverse = Isa::set(1 / scale);
  for (int i = 0; i < n; i += Isa::kLanes)
    Isa::store_uint8(out + i, Isa::mul(Isa::load(x + i), inverse));
  return scale;
}

}  // namespace
