// Weights of a linear layer, packed for reading straight through.
//
// A panel holds 64 outputs. Inputs advance in steps of two (bfloat16) or four (int8); one step of a
// panel is 64 words of 32 bits, word c holding the step's inputs of output c:
//
//             output 0   output 1          output 63
//     step 0  w0 w1      w0 w1      …      w0 w1         256 bytes
//     step 1  w2 w3      w2 w3      …      w2 w3
//       …                                                     then the next panel
//
// A dot-product instruction takes one such word per lane and the activations' word for all lanes.
// Outputs are filled up with zero rows to whole panels, inputs with zeros to whole steps.
#pragma once
#include <cstdint>

#include "memory.h"
#include "numbers.h"

constexpr int kPanel = 64;

enum class Format { kBf16, kInt8 };
enum class Source { kBf16 = 0, kFloat = 1 };

// Element of a tensor in a file, which need not be aligned.
inline float element(const void* source, Source type, size_t index) {
  if (type == Source::kFloat) {
    float x;
    memcpy(&x, static_cast<const float*>(source) + index, sizeof x);
    return x;
  }
  bf16 x;
  memcpy(&x, static_cast<const bf16*>(source) + index, sizeof x);
  return to_float(x);
}

// Where the rows of a source go: row i becomes output first + i / run * stride + i % run.
struct Rows {
  int first = 0;
  int run = 1 << 30;
  int stride = 0;
};

class Matrix {
 public:
  Matrix() = default;
  Matrix(Format format, int outputs, int inputs, bool bias);

  Format format() const { return format_; }
  int panels() const { return panels_; }
  int steps() const { return steps_; }

  // Packs `count` rows [count, inputs] of the source. Different rows may be packed at once. int8:
  // a row's scale is its largest magnitude / 127, each weight the nearest multiple of it.
  void pack(Rows rows, const void* source, Source type, int begin, int end);
  void set_bias(Rows rows, const void* source, Source type, int count);

  const uint32_t* panel(int index) const {
    return words_.as<const uint32_t>() + size_t(index) * steps_ * kPanel;
  }
  // 64 floats of a panel, or null.
  const float* bias(int panel) const { return bias_ ? bias_.as<float>() + panel * kPanel : nullptr; }
  // int8 only: what a whole number is worth, and 128 times the sum of an output's weights (what
  // activations shifted by 128 add too much).
  const float* scales(int panel) const { return scales_.as<float>() + panel * kPanel; }
  const int32_t* shifts(int panel) const { return shifts_.as<int32_t>() + panel * kPanel; }

 private:
  void pack_bf16(uint32_t* column, const void* source, Source type, size_t row);
  void pack_int8(uint32_t* column, int output, const void* source, Source type, size_t row);

  Format format_ = Format::kBf16;
  int inputs_ = 0, panels_ = 0, steps_ = 0;
  Memory words_, bias_, scales_, shifts_;
};
