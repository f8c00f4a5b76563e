// A linear layer over all rows of a step, shared out among the threads by panels of outputs.
#pragma once
#include <algorithm>

#include "matrix.h"
#include "product.h"
#include "product_int8.h"
#include "team.h"

namespace {

// Rows on their way into linear layers: as the product wants them, or as bytes with a scale per row.
template <class Isa>
struct Input {
  typename Isa::Act* act;  // [rows, stride]
  uint8_t* bytes;          // [rows, stride]
  float* scales;           // [rows]
  int stride;
};

// Rows begin … end-1 of one panel. done(row, outputs) gets 64 floats per row, bias added.
template <class Isa, class Done>
void linear_panel(const Matrix& matrix, int panel, const Input<Isa>& x, int begin, int end,
                  Prefetch prefetch, Done&& done) {
  alignas(64) float out[Isa::kMaxRows * kPanel];
  const float* bias = matrix.bias(panel);
  for (int row = begin; row < end;) {
    int n = tile_rows<Isa>(end - row);
    size_t at = size_t(row) * x.stride;
    if (matrix.format() == Format::kBf16)
      multiply<Isa, false>(matrix.panel(panel), kPanel, kPanel, x.act + at, x.stride, n,
                           matrix.steps(), out, kPanel, prefetch);
    else
      multiply_panel8<Isa>(matrix, panel, x.bytes + at, x.stride, x.scales + row, n, out,
                           prefetch);
    for (int r = 0; r < n; r++) {
      float* outputs = out + r * kPanel;
      if (bias != nullptr)
        for (int i = 0; i < kPanel; i += Isa::kLanes)
          Isa::store(outputs + i, Isa::add(Isa::load(outputs + i), Isa::load(bias + i)));
      done(row + r, outputs);
    }
    row += n;
  }
}

// How the work is cut. Few rows read a lot of weights: long runs of panels, for the prefetcher.
// Many rows: single panels, halved where there are too few to keep all threads busy to the end.
struct Cut {
  int panels, rows;  // of one task
};

inline Cut cut_linear(int panels, int rows, int threads) {
  if (rows <= 2) return {std::max(1, panels / (4 * threads)), rows};
  if (rows < 12 || panels >= 8 * threads) return {1, rows};
  return {1, ceil_div(rows, 2)};
}

// A panel that is walked more than once, for tile after tile, comes from memory only the first time.
// The memory would rest during the others, so they fetch the thread's next panel: a panel's step is
// four cache lines, which spread over all walks.
template <class Isa>
Prefetch next_panel(const Matrix& matrix, int panel, int rows) {
  const int walks = ceil_div(rows, Isa::kMaxRows) *
                    (kPanel / (Isa::kLanes * Isa::tile_vectors(tile_rows<Isa>(rows))));
  if (walks == 1) return {};
  return {reinterpret_cast<const char*>(matrix.panel(panel)), 4 * matrix.steps(), walks < 4 ? 2 : 1};
}

// By every thread of a job. done(row, panel, outputs) is called once per row and panel.
template <class Isa, class Done>
void linear(Team& team, const Matrix& matrix, const Input<Isa>& x, int rows, Done&& done) {
  const Cut cut = cut_linear(matrix.panels(), rows, team.size());
  const int parts = ceil_div(rows, cut.rows), tasks = ceil_div(matrix.panels(), cut.panels) * parts;
  team.each(tasks, [&](int task, int next_task) {
    int first = task / parts * cut.panels, begin = task % parts * cut.rows;
    int last = std::min(matrix.panels(), first + cut.panels);
    Prefetch prefetch;
    if (next_task < tasks)
      prefetch = next_panel<Isa>(matrix, next_task / parts * cut.panels, cut.rows);
    for (int panel = first; panel < last; panel++)
      linear_panel<Isa>(matrix, panel, x, begin, std::min(rows, begin + cut.rows), prefetch,
                        [&](int row, float* outputs) { done(row, panel, outputs); });
  });
}

}  // namespace
