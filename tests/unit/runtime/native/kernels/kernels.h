// Each kernel against the plainest way to compute the same, in double.
#pragma once
#include <algorithm>
#include <numeric>

#include "attention.h"
#include "check.h"
#include "filter.h"
#include "matrix.h"
#include "product_int8.h"
#include "rows.h"

namespace {

template <class Isa>
std::vector<typename Isa::Act> as_act(const std::vector<float>& values) {
  std::vector<typename Isa::Act> act(values.size() + Isa::kLanes);
  for (size_t i = 0; i + Isa::kLanes <= values.size(); i += Isa::kLanes)
    Isa::store_act(act.data() + i, Isa::load(values.data() + i));
  return act;
}

inline double value(float x) { return x; }
inline double value(bf16 x) { return to_float(x); }

// A pair's inputs as numbers.
inline double input(const std::vector<bf16_pair>& w, size_t word, int odd) {
  return to_float(bf16(w[word] >> (16 * odd)));
}

template <class Isa>
void test_product() {
  const int steps = 37, stride = 96, ldx = 80;
  std::vector<bf16_pair> w(size_t(steps) * stride);
  std::vector<float> weights = random_floats(2 * w.size(), 1);
  for (size_t i = 0; i < w.size(); i++)
    w[i] = to_bf16(weights[2 * i]) | bf16_pair(to_bf16(weights[2 * i + 1])) << 16;
  const std::vector<typename Isa::Act> x = as_act<Isa>(random_floats(13 * ldx, 2));
  for (int columns : {16, 32, 48, 64, 80, 96}) {
    std::vector<float> alone(13 * 96);
    Prefetch none;
    for (int r = 0; r < 13; r++)
      multiply<Isa, false>(w.data(), stride, columns, x.data() + r * ldx, ldx, 1, steps,
                           alone.data() + r * 96, 96, none);
    for (int r = 0; r < 13; r++)
      for (int c = 0; c < columns; c++) {
        double exact = 0;
        for (int k = 0; k < 2 * steps; k++)
          exact += value(x[r * ldx + k]) * input(w, size_t(k / 2) * stride + c, k % 2);
        CHECK(std::fabs(alone[r * 96 + c] - exact) < 1e-4, "row %d column %d", r, c);
      }
    for (int rows = 1; rows <= 13; rows++) {
      std::vector<float> together(13 * 96, 1.0f);
      Prefetch ahead{reinterpret_cast<const char*>(w.data()), 50};
      multiply<Isa, false>(w.data(), stride, columns, x.data(), ldx, rows, steps, together.data(),
                           96, ahead);
      for (int r = 0; r < 13; r++)
        for (int c = 0; c < 96; c++) {
          bool inside = r < rows && c < columns;
          float wanted = inside ? alone[r * 96 + c] : 1.0f;
          CHECK(together[r * 96 + c] == wanted, "%d rows, row %d column %d", rows, r, c);
        }
      // In two halves, the second on top of the first: the same bits again.
      const int half = 18;
      multiply<Isa, false>(w.data(), stride, columns, x.data(), ldx, rows, half, together.data(),
                           96, none);
      multiply<Isa, true>(w.data() + half * stride, stride, columns, x.data() + 2 * half, ldx, rows,
                          steps - half, together.data(), 96, none);
      for (int r = 0; r < rows; r++)
        CHECK(std::equal(&together[r * 96], &together[r * 96 + columns], &alone[r * 96]),
              "accumulated, %d rows", rows);
    }
  }
}

template <class Isa>
void test_int8_product() {
  const int outputs = 70, inputs = 50, width = 64;
  const std::vector<float> weights = random_floats(outputs * inputs, 3);
  Matrix matrix(Format::kInt8, outputs, inputs, false);
  matrix.pack({}, weights.data(), Source::kFloat, 0, outputs);
  for (int rows = 1; rows <= 6; rows++) {
    std::vector<float> x = random_floats(rows * width, 4);
    std::vector<uint8_t> bytes(rows * width);
    std::vector<float> scales(rows);
    for (int r = 0; r < rows; r++) {
      std::fill_n(&x[r * width + inputs], width - inputs, 0.0f);
      scales[r] = quantize<Isa>(&x[r * width], width, &bytes[r * width]);
    }
    std::vector<float> out(rows * kPanel);
    for (int panel = 0; panel < matrix.panels(); panel++) {
      Prefetch none;
      multiply_panel8<Isa>(matrix, panel, bytes.data(), width, scales.data(), rows, out.data(),
                           none);
      for (int r = 0; r < rows; r++)
        for (int c = 0; c < kPanel && panel * kPanel + c < outputs; c++) {
          const float* row = &weights[(panel * kPanel + c) * inputs];
          double exact = 0, sizes = 0;
          for (int k = 0; k < inputs; k++) {
            exact += double(x[r * width + k]) * row[k];
            sizes += std::fabs(x[r * width + k]) + std::fabs(row[k]);
          }
          // Each factor is off by half a step at most, a step being 1/127 of the largest, below 4.5.
          CHECK(std::fabs(out[r * kPanel + c] - exact) < sizes * 4.5 / 127 / 2 + 0.1,
                "row %d output %d", r, c);
        }
    }
  }
  // Whole numbers up to 127 are represented exactly, so the product is exact: also the largest sums.
  const std::vector<float> extreme(4 * 512, -127.0f);
  Matrix large(Format::kInt8, 4, 512, false);
  large.pack({}, extreme.data(), Source::kFloat, 0, 4);
  std::vector<float> x(512, 127.0f), out(kPanel);
  std::vector<uint8_t> bytes(512);
  const float scale = quantize<Isa>(x.data(), 512, bytes.data());
  Prefetch none;
  multiply_panel8<Isa>(large, 0, bytes.data(), 512, &scale, 1, out.data(), none);
  CHECK(out[0] == -127.0f * 127 * 512, "%g", out[0]);
}

template <class Isa>
void test_vector_math() {
  double worst = 0;
  for (float x = -87; x < 88; x += 0.37f) {
    float out[Isa::kLanes];
    Isa::store(out, exponential<Isa>(Isa::set(x)));
    worst = std::max(worst, std::fabs(out[0] / std::exp(double(x)) - 1));
    Isa::store(out, silu<Isa>(Isa::set(x)));
    double exact = x / (1 + std::exp(-double(x)));
    CHECK(std::fabs(out[0] - exact) <= 1e-6 * std::fabs(exact) + 1e-30, "silu(%g)", x);
  }
  CHECK(worst < 4e-7, "exponential off by %g", worst);
  float out[Isa::kLanes];
  Isa::store(out, exponential<Isa>(Isa::set(-1e30f)));
  CHECK(out[0] == 0, "far below: %g", out[0]);
}

template <class Isa>
void test_rows() {
  const int n = 40, width = 48;
  std::vector<float> x = random_floats(width, 5), weight = random_floats(width, 6), out(width);
  std::fill(x.begin() + n, x.end(), 0.0f);
  rms_norm<Isa>(x.data(), weight.data(), n, width, 1e-5f, out.data());
  double squares = 0;
  for (int i = 0; i < n; i++) squares += double(x[i]) * x[i];
  for (int i = 0; i < n; i++) {
    double exact = x[i] / std::sqrt(squares / n + 1e-5) * weight[i];
    CHECK(std::fabs(out[i] - exact) < 1e-5, "rms_norm %d", i);
  }
  std::vector<float> head = random_floats(32, 7), turned = head, cosines(16), sines(16);
  const std::vector<float> frequencies = random_floats(16, 8);
  rotation(12345, frequencies.data(), 16, cosines.data(), sines.data());
  rotate<Isa>(turned.data(), cosines.data(), sines.data(), 16, 0.5f);
  for (int i = 0; i < 16; i++) {
    double angle = 12345.0f * frequencies[i];
    double a = head[i], b = head[16 + i];
    CHECK(std::fabs(turned[i] - (a * std::cos(angle) - b * std::sin(angle)) / 2) < 1e-5, "%d", i);
    CHECK(std::fabs(turned[16 + i] - (b * std::cos(angle) + a * std::sin(angle)) / 2) < 1e-5, "%d",
          i);
  }
}

// Six tokens of a context of 700, with a window or without, over scattered blocks: near exact
// arithmetic together, and the same bits one by one, where each token's window begins elsewhere.
template <class Isa>
void test_attention(int block_size, int window) {
  const HeadShape shape{6, 2, 32, 16};
  const int context = 700, count = 6, width = shape.width(), blocks = ceil_div(context, block_size);
  Cache cache(blocks + 3, 2, shape.kv_heads, block_size, width);
  std::vector<int32_t> table(blocks);
  for (int b = 0; b < blocks; b++) table[b] = blocks + 2 - b;
  std::vector<float> keys = random_floats(size_t(context) * width, 9);
  std::vector<float> values = random_floats(size_t(context) * width, 10);
  auto rounded = [](float x) { return double(to_float(to_bf16(x))); };
  const int layer = 1, kv_head = 1;
  for (int p = 0; p < context; p++) {
    std::vector<float> key(&keys[p * width], &keys[p * width] + width);
    std::vector<float> content(&values[p * width], &values[p * width] + width);
    const int block = table[p / block_size];
    write_slot<Isa>(cache.keys(block, layer, kv_head), cache.values(block, layer, kv_head),
                    cache.slots(), p % block_size, width, key.data(), content.data());
  }
  const size_t row_stride = size_t(shape.heads) * width;
  const std::vector<float> queries = random_floats(count * row_stride, 11, 0.3f);
  Scratch<Isa> scratch(shape, block_size);
  attend<Isa>(cache, shape, layer, kv_head, table.data(), context - count, count, window,
              queries.data(), row_stride, scratch);
  for (int r = 0; r < count * shape.group(); r++) {
    const int position = context - count + r / shape.group();
    const int from = window > 0 ? std::max(0, position - window + 1) : 0;
    const float* query = &queries[(r / shape.group()) * row_stride +
                                  (kv_head * shape.group() + r % shape.group()) * width];
    std::vector<double> out(width);
    double sum = 0;
    for (int p = from; p <= position; p++) {
      double score = 0;
      for (int d = 0; d < width; d++) score += query[d] * rounded(keys[p * width + d]);
      double weight = std::exp(score);
      sum += weight;
      for (int d = 0; d < width; d++) out[d] += weight * rounded(values[p * width + d]);
    }
    for (int d = 0; d < width; d++) {
      float got = scratch.out[r * width + d];
      // Of bfloat16 queries and probabilities; there is none of either with AVX2.
      CHECK(std::fabs(got - out[d] / sum) < (sizeof(typename Isa::Act) == 2 ? 0.01 : 1e-5),
            "block size %d window %d row %d: %g %g", block_size, window, r, got, out[d] / sum);
    }
  }
  const std::vector<float> together(scratch.out, scratch.out + count * shape.group() * width);
  for (int t = 0; t < count; t++) {
    attend<Isa>(cache, shape, layer, kv_head, table.data(), context - count + t, 1, window,
                &queries[t * row_stride], row_stride, scratch);
    CHECK(std::equal(scratch.out, scratch.out + shape.group() * width,
                     &together[t * shape.group() * width]),
          "block size %d window %d token %d: other bits alone", block_size, window, t);
  }
}

template <class Isa>
void test_filters() {
  const int n = 4096;
  for (unsigned seed = 0; seed < 20; seed++) {
    std::vector<float> weights = random_floats(n, seed);
    // Some are 0, many are equal, one is 1.
    for (float& w : weights) w = seed % 2 ? std::exp(w * 4 - 12) : std::round(std::fabs(w) * 4) / 32;
    for (float& w : weights) w = std::min(w, 1.0f);
    weights[seed * 100] = 1;
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
    const double all = total<Isa>(weights.data(), n);
    CHECK(std::fabs(all - std::accumulate(weights.begin(), weights.end(), 0.0)) < 1e-5 * all, "%g", all);
    for (int count : {1, 2, 50, 1000, 4095, 5000}) {
      std::vector<float> kept = weights, wanted(n, 0.0f);
      keep_heaviest<Isa>(kept.data(), n, [&](int c, double) { return c >= count; });
      for (int i = 0; i < std::min(n, count); i++) wanted[order[i]] = weights[order[i]];
      CHECK(kept == wanted, "count %d seed %u", count, seed);
    }
    for (double share : {1e-9, 0.1, 0.5, 0.95, 0.999}) {
      std::vector<float> kept = weights;
      keep_heaviest<Isa>(kept.data(), n, [&](int, double mass) { return mass >= share * all; });
      double mass = 0;
      int i = 0;
      for (; mass < share * all * (1 - 1e-6); i++) mass += weights[order[i]];
      // Sums are rounded differently: one token more or less may be kept at the border.
      int got = int(std::count_if(kept.begin(), kept.end(), [](float w) { return w > 0; }));
      CHECK(got >= i && got <= i + 1, "share %g seed %u: %d, not %d", share, seed, got, i);
      for (int k = 0; k < got; k++) CHECK(kept[order[k]] == weights[order[k]], "order %d", k);
    }
  }
}

template <class Isa>
void test_kernels() {
  test_product<Isa>();
  test_int8_product<Isa>();
  test_vector_math<Isa>();
  test_rows<Isa>();
  for (int block_size : {2, 8, 32, 64})
    for (int window : {0, 1, 5, 100, 600}) test_attention<Isa>(block_size, window);
  test_filters<Isa>();
}

}  // namespace
