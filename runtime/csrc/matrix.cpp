#include "matrix.h"

#include <cmath>

namespace {

int output_of(const Rows& rows, int row) {
  return rows.first + row / rows.run * rows.stride + row % rows.run;
}

}  // namespace

Matrix::Matrix(Format format, int outputs, int inputs, bool bias)
    : format_(format),
      inputs_(inputs),
      panels_(ceil_div(outputs, kPanel)),
      steps_(ceil_div(inputs, format == Format::kBf16 ? 2 : 4)) {
  size_t padded = size_t(panels_) * kPanel;
  words_ = Memory(padded * steps_ * sizeof(uint32_t));
  if (bias) bias_ = Memory(padded * sizeof(float));
  if (format == Format::kInt8) {
    scales_ = Memory(padded * sizeof(float));
    shifts_ = Memory(padded * sizeof(int32_t));
  }
}

void Matrix::pack(Rows rows, const void* source, Source type, int begin, int end) {
  for (int row = begin; row < end; row++) {
    int output = output_of(rows, row);
    uint32_t* column =
        words_.as<uint32_t>() + size_t(output / kPanel) * steps_ * kPanel + output % kPanel;
    if (format_ == Format::kBf16)
      pack_bf16(column, source, type, size_t(row));
    else
      pack_int8(column, output, source, type, size_t(row));
  }
}

void Matrix::pack_bf16(uint32_t* column, const void* source, Source type, size_t row) {
  size_t first = row * inputs_;
  auto input = [&](int k) -> uint32_t {
    return k < inputs_ ? to_bf16(element(source, type, first + k)) : 0;
  };
  for (int step = 0; step < steps_; step++)
    column[size_t(step) * kPanel] = input(2 * step) | input(2 * step + 1) << 16;
}

void Matrix::pack_int8(uint32_t* column, int output, const void* source, Source type, size_t row) {
  size_t first = row * inputs_;
  float most = 0;
  for (int k = 0; k < inputs_; k++)
    most = std::fmax(most, std::fabs(element(source, type, first + k)));
  float scale = most > 0 ? most / 127 : 1;
  int sum = 0;
  for (int step = 0; step < steps_; step++) {
    uint32_t quad = 0;
    for (int i = 0; i < 4 && 4 * step + i < inputs_; i++) {
      int q = int(std::lrint(element(source, type, first + 4 * step + i) / scale));
      sum += q;
      quad |= uint32_t(uint8_t(int8_t(q))) << (8 * i);
    }
    column[size_t(step) * kPanel] = quad;
  }
  scales_.as<float>()[output] = scale;
  shifts_.as<int32_t>()[output] = 128 * sum;
}

void Matrix::set_bias(Rows rows, const void* source, Source type, int count) {
  for (int row = 0; row < count; row++)
    bias_.as<float>()[output_of(rows, row)] = element(source, type, size_t(row));
}
