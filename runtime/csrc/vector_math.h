// Functions over vectors of floats.
#pragma once

namespace {

// e^x to about 2e-7 of its value; 0 below -87.5. Range reduction x = n·ln 2 + r with ln 2 in two
// parts (Cody and Waite), then the Taylor series to the sixth power, which on |r| ≤ ln 2 / 2 leaves
// an error of r^7 / 5040 < 1.3e-7.
template <class Isa>
inline typename Isa::Float exponential(typename Isa::Float x) {
  x = Isa::min(Isa::max(x, Isa::set(-88.02f)), Isa::set(88.02f));
  auto n = Isa::round(Isa::mul(x, Isa::set(1.44269504f)));
  auto r = Isa::fma(n, Isa::set(-0.693359375f), x);
  r = Isa::fma(n, Isa::set(2.12194440e-4f), r);
  auto p = Isa::set(1.0f / 720);
  p = Isa::fma(p, r, Isa::set(1.0f / 120));
  p = Isa::fma(p, r, Isa::set(1.0f / 24));
  p = Isa::fma(p, r, Isa::set(1.0f / 6));
  p = Isa::fma(p, r, Isa::set(1.0f / 2));
  p = Isa::fma(p, r, Isa::set(1.0f));
  p = Isa::fma(p, r, Isa::set(1.0f));
  return Isa::mul(p, Isa::power_of_two(n));
}

// x · sigmoid(x)
template <class Isa>
inline typename Isa::Float silu(typename Isa::Float x) {
  auto one = Isa::set(1.0f);
  return Isa::div(x, Isa::add(one, exponential<Isa>(Isa::sub(Isa::zero(), x))));
}

}  // namespace
