// out[rows, columns] = x[rows, 2 · steps] · w: the one product that everything else is made of.
//
// w is read in the order of a panel (matrix.h): word [step * stride + c] holds the step's two inputs
// of column c. Weights are such panels with a stride of 64; keys and values in the cache are too
// (cache.h), so attention uses the same product.
//
// A tile of up to six rows and a few vectors of columns keeps its sums in registers over all steps.
// Each sum adds its steps in order, whatever the tile: a row's result depends neither on how many
// rows are computed with it nor on which thread does it.
#pragma once
#include "fixed.h"
#include "numbers.h"

namespace {

template <class Isa, int Rows, int Vectors, int Phase, class Sums>
inline __attribute__((always_inline)) void add_step(const bf16_pair* w, const typename Isa::Act* x,
                                                    size_t ldx, Sums& sums) {
  decltype(Isa::template weights<Phase>(w)) column[Vectors];
#pragma GCC unroll 8
  for (int v = 0; v < Vectors; v++) column[v] = Isa::template weights<Phase>(w + v * Isa::kLanes);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
    auto input = Isa::template inputs<Phase>(x + r * ldx);
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) sums[r][v] = Isa::dot(sums[r][v], column[v], input);
  }
}

// Memory to ask for while a product is computed, one or two cache lines per step. With nothing
// left a product asks for its own w, Isa::kStepsAhead steps ahead: for few rows reading w is all that
// counts.
struct Prefetch {
  const char* line = nullptr;
  int lines_left = 0, per_step = 1;

  const char* take(int steps) {
    if (lines_left <= 0) return nullptr;
    const char* first = line;
    line += 64 * steps * per_step;
    lines_left -= steps * per_step;
    return first;
  }
};

template <class Isa, int Vectors>
inline void prefetch_own(const uint32_t* w, size_t stride) {
  for (int v = 0; v < Vectors; v++)
    __builtin_prefetch(w + v * Isa::kLanes + Isa::kStepsAhead * stride);
}

// Calls add for each step, which moves w on, with memory asked for meanwhile.
template <class Isa, int Vectors, class Add>
inline __attribute__((always_inline)) void each_step(const uint32_t* const& w, size_t stride,
                                                     int steps, Prefetch& prefetch, Add&& add) {
  const char* line = prefetch.take(steps);
  if (line != nullptr && prefetch.per_step == 2)
    for (const char* end = line + 128 * size_t(steps); line < end; line += 128) {
      __builtin_prefetch(line, 0, 2);
      __builtin_prefetch(line + 64, 0, 2);
      add();
    }
  else if (line != nullptr)
    for (const char* end = line + 64 * size_t(steps); line < end; line += 64) {
      __builtin_prefetch(line, 0, 2);
      add();
    }
  else
    for (int step = 0; step < steps; step++) {
      prefetch_own<Isa, Vectors>(w, stride);
      add();
    }
}

template <class Isa, int Rows, int Vectors, bool Accumulate>
void tile(const bf16_pair* w, size_t stride, const typename Isa::Act* x, size_t ldx, int steps,
          float* out, size_t ldo, Prefetch& prefetch) {
  typename Isa::Float sums[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++)
      sums[r][v] = Accumulate ? Isa::load(out + r * ldo + v * Isa::kLanes) : Isa::zero();
  auto add = [&] {
    add_step<Isa, Rows, Vectors, 0>(w, x, ldx, sums);
    if constexpr (Isa::kPhases == 2) add_step<Isa, Rows, Vectors, 1>(w, x, ldx, sums);
    w += stride;
    x += 2;
  };
  each_step<Isa, Vectors>(w, stride, steps, prefetch, add);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++)
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; v++) Isa::store(out + r * ldo + v * Isa::kLanes, sums[r][v]);
}

// All columns (a multiple of 16) for Rows rows: the widest tile first, then what is left of them.
template <class Isa, int Rows, int Vectors, bool Accumulate>
void row_tiles(const bf16_pair* w, size_t stride, int columns, const typename Isa::Act* x,
               size_t ldx, int steps, float* out, size_t ldo, Prefetch& prefetch) {
  constexpr int width = Vectors * Isa::kLanes;
  int c = 0;
  for (; c + width <= columns; c += width)
    tile<Isa, Rows, Vectors, Accumulate>(w + c, stride, x, ldx, steps, out + c, ldo, prefetch);
  if constexpr (width > 16)
    if (c < columns)
      row_tiles<Isa, Rows, Vectors / 2, Accumulate>(w + c, stride, columns - c, x, ldx, steps,
                                                    out + c, ldo, prefetch);
}

// Rows of the next tile, so that all tiles are about as high: 8 is 4 + 4 and not 6 + 2.
template <class Isa>
int tile_rows(int rows_left) {
  return ceil_div(rows_left, ceil_div(rows_left, Isa::kMaxRows));
}

template <class Isa, bool Accumulate>
void multiply(const bf16_pair* w, size_t stride, int columns, const typename Isa::Act* x,
              size_t ldx, int rows, int steps, float* out, size_t ldo, Prefetch& prefetch) {
  for (int done = 0; done < rows;) {
    int n = tile_rows<Isa>(rows - done);
    auto with = [&](auto fixed) {
      constexpr int Rows = decltype(fixed)::value;
      row_tiles<Isa, Rows, Isa::tile_vectors(Rows), Accumulate>(
          w, stride, columns, x + done * ldx, ldx, steps, out + done * ldo, ldo,
          prefetch);
    };
    fixed_rows(n, with);
    done += n;
  }
}

}  // namespace
