// From rows of logits to tokens and log-probabilities, of the tokens chosen or of given ones. What the parameters mean and in which order
// they work is said in pagoda_runtime/engine/sampler.py; this computes the same.
#pragma once
#include <cmath>
#include <limits>

#include "filter.h"
#include "memory.h"
#include "pagoda.h"
#include "philox.h"
#include "vector_math.h"

namespace {

// Working memory of one thread.
struct SampleScratch {
  explicit SampleScratch(int width)
      : memory_(size_t(width) * (2 * sizeof(float) + sizeof(int32_t))),
        weights(memory_.as<float>()),
        raw(weights + width),
        counts(reinterpret_cast<int32_t*>(raw + width)) {}

 private:
  Memory memory_;

 public:
  float* weights;   // [width]
  float* raw;       // [width] logits before anything was changed
  int32_t* counts;  // [width], zero between rows
};

template <class Isa>
float highest(const float* x, int n) {
  auto most = Isa::set(-std::numeric_limits<float>::infinity());
  for (int i = 0; i < n; i += Isa::kLanes) most = Isa::max(Isa::load(x + i), most);
  return Isa::maximum(most);
}

// Index of the highest; the first of equal ones. 0 if there is none, which is when all are NaN.
template <class Isa>
int argmax(const float* x, int n) {
  auto most = Isa::set(highest<Isa>(x, n));
  for (int i = 0; i < n; i += Isa::kLanes)
    if (unsigned same = Isa::bits(Isa::equal(Isa::load(x + i), most)); same != 0)
      return i + __builtin_ctz(same);
  return 0;
}

// weights = exp((logits - the highest) / temperature)
template <class Isa>
void exponentials(const float* logits, int n, float temperature, float* weights) {
  auto most = Isa::set(highest<Isa>(logits, n)), inverse = Isa::set(1 / temperature);
  for (int i = 0; i < n; i += Isa::kLanes) {
    auto x = Isa::mul(Isa::sub(Isa::load(logits + i), most), inverse);
    Isa::store(weights + i, exponential<Isa>(x));
  }
}

// The `count` highest, best first, equal ones by lower token.
template <class Isa>
void top(const float* logits, int n, int count, int32_t* tokens, float* values) {
  std::fill_n(values, count, -std::numeric_limits<float>::infinity());
  std::fill_n(tokens, count, -1);
  for (int i = 0; i < n; i += Isa::kLanes) {
    auto x = Isa::load(logits + i);
    unsigned better = Isa::bits(Isa::greater(x, Isa::set(values[count - 1])));
    for (; better != 0; better &= better - 1) {
      int token = i + __builtin_ctz(better);
      int at = count;
      for (; at > 0 && logits[token] > values[at - 1]; at--)
        if (at < count) {
          values[at] = values[at - 1];
          tokens[at] = tokens[at - 1];
        }
      if (at < count) {
        values[at] = logits[token];
        tokens[at] = token;
      }
    }
  }
}

// Bias first, then the penalties; each once per distinct token.
inline void adjust(const PagodaStep& step, const PagodaRow& row, int vocab, float* logits,
                   int32_t* counts) {
  for (int i = row.bias_begin; i < row.bias_end; i++)
    if (int token = step.bias_tokens[i]; token >= 0 && token < vocab) logits[token] += step.biases[i];

  auto repeated = [&](int token) {
    float& x = logits[token];
    x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
  };
  const int32_t* history = step.history;
  constexpr int kDone = -1;
  for (int i = row.answer_begin; i < row.answer_end; i++) counts[history[i]]++;
  for (int i = row.answer_begin; i < row.answer_end; i++) {
    int token = history[i], count = counts[token];
    if (count == kDone) continue;
    repeated(token);
    logits[token] -= row.frequency_penalty * float(count) + row.presence_penalty;
    counts[token] = kDone;
  }
  for (int i = row.prompt_begin; i < row.answer_begin; i++) {
    int token = history[i];
    if (counts[token] == kDone) continue;
    repeated(token);
    counts[token] = kDone;
  }
  for (int i = row.prompt_begin; i < row.answer_end; i++) counts[history[i]] = 0;
}

// The token in whose slice of the cumulative weights, in order of tokens, the uniform number falls.
template <class Isa>
int invert(const float* weights, int n, double uniform) {
  const double target = uniform * total<Isa>(weights, n);
  double before = 0;
  for (int begin = 0; begin < n; begin += kSumBlock) {
    const int end = std::min(n, begin + kSumBlock);
    const double block = total<Isa>(weights + begin, end - begin);
    if (before + block <= target) {
      before += block;
      continue;
    }
    // Rounding may leave the target behind the block's last weight: then it is that one.
    int last = begin;
    for (int i = begin; i < end && before <= target; i++) {
      if (weights[i] == 0) continue;
      before += double(weights[i]);
      last = i;
    }
    return last;
  }
  int last = n - 1;
  while (last > 0 && weights[last] == 0) last--;
  return last;
}

template <class Isa>
int draw(const PagodaRow& row, const float* logits, int n, float* weights) {
  exponentials<Isa>(logits, n, row.temperature, weights);
  if (row.min_p > 0) {
    auto least = Isa::set(row.min_p);
    for (int i = 0; i < n; i += Isa::kLanes) {
      auto w = Isa::load(weights + i);
      Isa::store(weights + i, Isa::select(Isa::greater(least, w), Isa::zero(), w));
    }
  }
  if (row.top_k > 0)
    keep_heaviest<Isa>(weights, n, [&](int count, double) { return count >= row.top_k; });
  if (row.top_p < 1) {
    const double needed = double(row.top_p) * total<Isa>(weights, n);
    keep_heaviest<Isa>(weights, n, [&](int, double mass) { return mass >= needed; });
  }
  return invert<Isa>(weights, n, philox_uniform(row.seed, row.position));
}

// One row. logits [vocab rounded up to vectors] are changed.
template <class Isa>
void sample(const PagodaStep& step, int r, int vocab, float* logits, SampleScratch& scratch) {
  const PagodaRow& row = step.rows[r];
  const int n = round_up(vocab, 16);
  std::fill(logits + vocab, logits + n, -std::numeric_limits<float>::infinity());

  float log_sum = 0;
  const float* raw = logits;
  if (row.top_logprobs >= 0) {
    exponentials<Isa>(logits, n, 1, scratch.weights);
    log_sum = highest<Isa>(logits, n) + float(std::log(total<Isa>(scratch.weights, n)));
    const size_t at = size_t(r) * size_t(step.max_top_logprobs);
    top<Isa>(logits, n, row.top_logprobs, step.top_tokens + at, step.top_values + at);
    for (int i = 0; i < row.top_logprobs; i++) step.top_values[at + i] -= log_sum;
    raw = std::copy_n(logits, vocab, scratch.raw) - vocab;
  }
  int token = row.scored;
  if (token < 0) {
    adjust(step, row, vocab, logits, scratch.counts);
    token = row.temperature > 0 ? draw<Isa>(row, logits, n, scratch.weights)
                                : argmax<Isa>(logits, n);
  }
  step.sampled[r] = token;
  if (row.top_logprobs >= 0) step.logprobs[r] = raw[token] - log_sum;
}

}  // namespace
