// Attention of a few tokens of one sequence over its blocks, for one KV head.
//
// The query heads that share the KV head are rows of one product, and so are neighbouring tokens of
// a prompt: each key and value is read once for all of them.
//
// The context is walked in segments of whole blocks that begin at fixed positions. In a segment:
// scores = queries · keys block by block, softmax with the running maximum and sum of Milakov and
// Gimelshein, "Online normalizer calculation for softmax" (2018), out += probabilities · values.
// What a token may not see has probability 0, which adds exactly nothing, so that a row's result
// does not depend on the rows beside it.
#pragma once
#include <algorithm>
#include <cmath>

#include "cache.h"
#include "product.h"
#include "vector_math.h"

namespace {

constexpr int kSegmentPositions = 512;  // Scores of a tile stay in the first two caches.
constexpr int kTileRows = 24;

// Shape of a model's attention. half: half a head, padded to 16; a head is 2 · half wide.
struct HeadShape {
  int heads, kv_heads, head_dim, half;
  int group() const { return heads / kv_heads; }
  int width() const { return 2 * half; }
  int tile_tokens() const { return std::max(1, kTileRows / group()); }
  int tile_rows() const { return tile_tokens() * group(); }
};

inline int segment_positions(int block_size) {
  return std::max(1, kSegmentPositions / block_size) * block_size;
}

// Working memory of one thread.
template <class Isa>
struct Scratch {
  Scratch(const HeadShape& shape, int block_size)
      : stride(round_up(segment_positions(block_size), 16) + 16),
        memory_(size_t(shape.tile_rows()) *
                (shape.width() * (sizeof(Act) + sizeof(float)) +
                 stride * (sizeof(Act) + sizeof(float)) + 2 * sizeof(float))) {
    size_t rows = size_t(shape.tile_rows());
    scores = memory_.as<float>();
    out = scores + rows * stride;
    maxima = out + rows * shape.width();
    sums = maxima + rows;
    queries = reinterpret_cast<Act*>(sums + rows);
    probabilities = queries + rows * shape.width();
  }

  using Act = typename Isa::Act;
  int stride;            // of scores and probabilities
  float* scores;         // [rows, stride]
  float* out;            // [rows, width]
  float *maxima, *sums;  // [rows]
  Act* queries;          // [rows, width]
  Act* probabilities;    // [rows, stride]

 private:
  Memory memory_;
};

template <class Isa>
void scale_row(float* x, int width, float by) {
  auto factor = Isa::set(by);
  for (int i = 0; i < width; i += Isa::kLanes) Isa::store(x + i, Isa::mul(Isa::load(x + i), factor));
}

// One row and segment: columns from … to are in the scores, begin … end-1 of them are visible.
// Turns them into probabilities times `sum`, and rescales what earlier segments left in out.
template <class Isa>
void softmax_row(const float* scores, typename Isa::Act* probabilities, int from, int to, int begin,
                 int end, float& maximum, float& sum, float* out, int width) {
  auto hidden = Isa::set(-1e30f);
  auto highest = Isa::set(maximum);
  for (int i = from; i < to; i += Isa::kLanes) {
    auto seen = Isa::lanes(begin - i, end - i);
    highest = Isa::max(Isa::select(seen, Isa::load(scores + i), hidden), highest);
  }
  float raised = Isa::maximum(highest);
  if (raised != maximum) {
    float shrink = std::exp(maximum - raised);
    sum *= shrink;
    scale_row<Isa>(out, width, shrink);
    maximum = raised;
  }
  auto top = Isa::set(maximum), total = Isa::zero();
  for (int i = from; i < to; i += Isa::kLanes) {
    auto seen = Isa::lanes(begin - i, end - i);
    auto weight = exponential<Isa>(Isa::sub(Isa::load(scores + i), top));
    weight = Isa::select(seen, weight, Isa::zero());
    total = Isa::add(total, weight);
    Isa::store_act(probabilities + i, weight);
  }
  sum += Isa::sum(total);
}

// Tokens at positions first … first+count-1 of the sequence in `blocks`, layer and KV head.
// queries: turned and scaled, row of the first token, query heads side by side; row_stride to the
// next token. window: how many positions a token sees, its own included; 0 means all.
// Leaves the result in scratch.out, row = token · group + query head of the group.
template <class Isa>
void attend(const Cache& cache, const HeadShape& shape, int layer, int kv_head,
            const int32_t* blocks, int first, int count, int window, const float* queries,
            size_t row_stride, Scratch<Isa>& scratch) {
  const int group = shape.group(), width = shape.width(), rows = count * group;
  const int size = cache.block_size(), segment = segment_positions(size), stride = scratch.stride;
  auto sees_from = [&](int position) { return window > 0 ? std::max(0, position - window + 1) : 0; };

  for (int r = 0; r < rows; r++) {
    const float* query = queries + (r / group) * row_stride + (kv_head * group + r % group) * width;
    for (int i = 0; i < width; i += Isa::kLanes) {
      Isa::store_act(scratch.queries + r * width + i, Isa::load(query + i));
      Isa::store(scratch.out + r * width + i, Isa::zero());
    }
    scratch.maxima[r] = -1e30f;
    scratch.sums[r] = 0;
  }

  Prefetch own;  // Behind the keys lie the values, behind those the next head's keys.
  const int from = sees_from(first), to = first + count;
  for (int base = from / segment * segment; base < to; base += segment) {
    const int first_block = std::max(base, from) / size;
    const int end = std::min(base + segment, to), end_block = ceil_div(end, size);
    auto filled = [&](int block) { return std::min(size, end - block * size); };

    for (int b = first_block; b < end_block; b++)
      multiply<Isa, false>(cache.keys(blocks[b], layer, kv_head), cache.slots(),
                           round_up(filled(b), 16), scratch.queries, width, rows, width / 2,
                           scratch.scores + (b * size - base), stride, own);
    const int left = (first_block * size - base) / 16 * 16, right = round_up(end - base, 16);
    for (int r = 0; r < rows; r++) {
      int position = first + r / group;
      softmax_row<Isa>(scratch.scores + r * stride, scratch.probabilities + r * stride, left, right,
                       sees_from(position) - base, position + 1 - base, scratch.maxima[r],
                       scratch.sums[r], scratch.out + r * width, width);
    }
    for (int b = first_block; b < end_block; b++)
      multiply<Isa, true>(cache.values(blocks[b], layer, kv_head), width, width,
                          scratch.probabilities + (b * size - base), stride, rows,
                          ceil_div(filled(b), 2), scratch.out, width, own);
  }
  for (int r = 0; r < rows; r++)
    scale_row<Isa>(scratch.out + r * width, width, 1 / scratch.sums[r]);
}

// Numbers beyond bfloat16, and NaN, become numbers: a slot of one request is multiplied by 0 when
// its neighbour in a pair is another's last, and 0 · infinity would reach that one.
template <class Isa>
inline typename Isa::Float finite(typename Isa::Float x) {
  constexpr float kMost = 3.38e38f;
  return Isa::min(Isa::max(x, Isa::set(-kMost)), Isa::set(kMost));
}

// key and value [width] of one token into its slot.
template <class Isa>
void write_slot(bf16_pair* keys, bf16_pair* values, int slots, int slot, int width, float* key,
                float* value) {
  for (int i = 0; i < width; i += Isa::kLanes) {
    Isa::store(key + i, finite<Isa>(Isa::load(key + i)));
    Isa::store(value + i, finite<Isa>(Isa::load(value + i)));
  }
  for (int d = 0; d < width / 2; d++)
    keys[d * slots + slot] = to_bf16(key[2 * d]) | bf16_pair(to_bf16(key[2 * d + 1])) << 16;
  bf16* row = reinterpret_cast<bf16*>(values + slot / 2 * width) + slot % 2;
  for (int d = 0; d < width; d++) row[2 * d] = to_bf16(value[d]);
}

}  // namespace
