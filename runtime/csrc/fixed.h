// A number of rows known at run time as one known to the compiler.
#pragma once

namespace {

template <int N>
struct Fixed {
  static constexpr int value = N;
};

// Calls f(Fixed<n>()); n is 1 … 6.
template <class F>
inline void fixed_rows(int n, F&& f) {
  switch (n) {
    case 1: return f(Fixed<1>());
    case 2: return f(Fixed<2>());
    case 3: return f(Fixed<3>());
    case 4: return f(Fixed<4>());
    case 5: return f(Fixed<5>());
    default: return f(Fixed<6>());
  }
}

}  // namespace
