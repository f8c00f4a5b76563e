// From a row of logits to a token.
#pragma once
#include "pagoda.h"

namespace {

// Index of the largest value; the first of equal ones.
template <class Isa>
int argmax(const float* x, int n) {
  int best = 0;
  for (int i = 1; i < n; i++)
    if (x[i] > x[best]) best = i;
  return best;
}

template <class Isa>
void sample(const PagodaStep& step, int r, int vocab, float* logits) {
  step.sampled[r] = argmax<Isa>(logits, vocab);
}

}  // namespace
