// What is done to one row of floats at a time: RMSNorm, rotary embedding. Rows are padded with zeros
// to whole vectors (`width`), so that there are no tails.
#pragma once
#include <cmath>

#include "numbers.h"

namespace {

// out = x / sqrt(mean of x² + eps) · weight, over n values; out may be x.
template <class Isa>
void rms_norm(const float* x, const float* weight, int n, int width, float eps, float* out) {
  auto squares = Isa::zero();
  for (int i = 0; i < width; i += Isa::kLanes) {
    auto v = Isa::load(x + i);
    squares = Isa::fma(v, v, squares);
  }
  auto inverse = Isa::set(1 / std::sqrt(Isa::sum(squares) / float(n) + eps));
  for (int i = 0; i < width; i += Isa::kLanes)
    Isa::store(out + i, Isa::mul(Isa::mul(Isa::load(x + i), inverse), Isa::load(weight + i)));
}

// Angles of one position: frequencies, cosines and sines [n].
inline void rotation(int position, const float* frequencies, int n, float* cosines, float* sines) {
  for (int i = 0; i < n; i++) {
    float angle = float(position) * frequencies[i];
    cosines[i] = std::cos(angle);
    sines[i] = std::sin(angle);
  }
}

// Turns the pairs (x[i], x[width + i]) of a head by the position's angles; as in Hugging Face
// checkpoints a pair is one value of each half. The result is multiplied by `scale`.
template <class Isa>
void rotate(float* x, const float* cosines, const float* sines, int width, float scale) {
  auto by = Isa::set(scale);
  for (int i = 0; i < width; i += Isa::kLanes) {
    auto a = Isa::load(x + i), b = Isa::load(x + width + i);
    auto cosine = Isa::load(cosines + i), sine = Isa::load(sines + i);
    auto turned_a = Isa::sub(Isa::mul(a, cosine), Isa::mul(b, sine));
    auto turned_b = Isa::fma(b, cosine, Isa::mul(a, sine));
    Isa::store(x + i, Isa::mul(turned_a, by));
    Isa::store(x + width + i, Isa::mul(turned_b, by));
  }
}

// n values, then zeros up to width: padding must not keep what an earlier step left there.
inline void embed(const bf16* embedding, int n, int width, float* out) {
  for (int i = 0; i < n; i++) out[i] = to_float(embedding[i]);
  for (int i = n; i < width; i++) out[i] = 0;
}

}  // namespace
