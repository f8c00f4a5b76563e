// Which tokens of a distribution may be drawn: top_k, top_p and min_p without a sort.
//
// Weights are exp((logit - highest) / temperature), so between 0 and 1, n of them, n a multiple of
// 16. A filter sets what it takes away to 0. top_k and top_p cut at a weight: floats that are not
// negative order like their bits, so the cut is found by bisection over bits, one pass over the
// weights per bit and fewer as the bracket snaps to weights that exist. Among tokens that weigh as
// much as the cut the lower ones stay.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

namespace {

// Sums of this many weights are kept as doubles; within, a lane adds 256 / kLanes floats.
constexpr int kSumBlock = 256;

template <class Isa>
double total(const float* weights, int n) {
  double sum = 0;
  for (int begin = 0; begin < n; begin += kSumBlock) {
    auto block = Isa::zero();
    for (int i = begin; i < std::min(n, begin + kSumBlock); i += Isa::kLanes)
      block = Isa::add(block, Isa::load(weights + i));
    sum += double(Isa::sum(block));
  }
  return sum;
}

// What lies above a level, and the nearest weights on both sides of it.
struct Above {
  int count = 0;
  double mass = 0;
  float lowest_above = 2, highest_below = 0;  // above: > level; below: <= level
};

template <class Isa>
Above look_above(const float* weights, int n, float level) {
  auto at = Isa::set(level), lowest = Isa::set(2), highest = Isa::zero();
  Above above;
  for (int begin = 0; begin < n; begin += kSumBlock) {
    auto mass = Isa::zero();
    for (int i = begin; i < std::min(n, begin + kSumBlock); i += Isa::kLanes) {
      auto w = Isa::load(weights + i);
      auto over = Isa::greater(w, at);
      above.count += __builtin_popcount(Isa::bits(over));
      mass = Isa::add(mass, Isa::select(over, w, Isa::zero()));
      lowest = Isa::min(lowest, Isa::select(over, w, Isa::set(2)));
      highest = Isa::max(highest, Isa::select(over, Isa::zero(), w));
    }
    above.mass += double(Isa::sum(mass));
  }
  above.lowest_above = Isa::minimum(lowest);
  above.highest_below = Isa::maximum(highest);
  return above;
}

inline float midway(float low, float high) {
  uint32_t a, b;
  memcpy(&a, &low, sizeof a);
  memcpy(&b, &high, sizeof b);
  uint32_t middle = a + (b - a) / 2;
  float level;
  memcpy(&level, &middle, sizeof level);
  return level;
}

// Keeps the weights above `cut`, and of those equal to it the first `equals`.
template <class Isa>
void keep(float* weights, int n, float cut, int equals) {
  auto at = Isa::set(cut);
  for (int i = 0; i < n; i += Isa::kLanes) {
    auto w = Isa::load(weights + i);
    unsigned same = Isa::bits(Isa::equal(w, at));
    Isa::store(weights + i, Isa::select(Isa::greater(w, at), w, Isa::zero()));
    for (; same != 0 && equals > 0; same &= same - 1, equals--)
      weights[i + __builtin_ctz(same)] = cut;
  }
}

// Keeps the fewest of the heaviest for which enough(count, mass) holds; it must keep holding when
// there are more. All of them if it never holds. The heaviest weight is 1.
template <class Isa, class Enough>
void keep_heaviest(float* weights, int n, Enough&& enough) {
  // Both ends of the bracket are weights that exist. Those >= low are enough, those > high are not.
  float low = 0, high = 1;
  Above over = look_above<Isa>(weights, n, low);
  if (!enough(over.count, over.mass)) return;
  low = over.lowest_above;
  over = Above();
  while (low < high) {
    float level = midway(low, high);
    Above above = look_above<Isa>(weights, n, level);
    if (enough(above.count, above.mass)) {
      low = above.lowest_above;
    } else {
      high = above.highest_below;
      over = above;
    }
  }
  int equals = 1;
  while (!enough(over.count + equals, over.mass + double(equals) * double(high))) equals++;
  keep<Isa>(weights, n, high, equals);
}

}  // namespace
