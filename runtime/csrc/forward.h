// One step of the decoder over a mixed batch: every thread runs `forward`, which is a list of stages
// with a barrier after each.
//
// The rows of a step are the tokens of its chunks, one chunk after another. Per layer:
//
//     residual ─ norm ─► input ─ qkv ─► qkv ─ norms, RoPE, write cache ─► attention ─► input
//        ▲                                                                                │
//        ├───────────────────────────────────── + o ──────────────────────────────────────┘
//        └─ + down ◄─ input ◄─ SwiGLU of gate and up ◄─ input ◄─ norm ─ residual
#pragma once
#include <algorithm>

#include "attention.h"
#include "linear.h"
#include "model.h"
#include "plan.h"
#include "rows.h"
#include "sample.h"

namespace {

template <class Isa>
class Forward final : public Execution {
 public:
  explicit Forward(Model& model);
  void step(const PagodaStep& step) override;

 private:
  using Act = typename Isa::Act;

  void forward(const PagodaStep& step, int thread);
  void attention(const Layer& layer, int index, Scratch<Isa>& scratch);
  void pool(const PagodaStep& step);
  void head(const PagodaStep& step, int thread);

  void norm_into_input(const float* x, const Memory& weight, int row);
  void turn_and_store(const Layer& layer, int index, int row);
  void quantize_rows(int columns);
  template <class Item>
  void each_row(int rows, Item&& item);
  void add_to_residual(const Matrix& matrix, const Input<Isa>& x);
  void enter(const Input<Isa>& input, int row, int column, const float* values, int count);

  float* residual(int row) { return residual_.as<float>() + size_t(row) * model_.hidden_width(); }
  float* qkv(int row) { return qkv_.as<float>() + size_t(row) * qkv_width_; }
  float* wide(int row) { return wide_.as<float>() + size_t(row) * input_.stride; }
  float* logits(int row) { return logits_.as<float>() + size_t(row) * logits_width_; }

  Model& model_;
  const HeadShape shape_;
  const bool int8_;
  const int qkv_width_, logits_width_;
  const int most_logits_rows_;  // at once; their input must fit where that of a step's tokens does
  // products_ is written while input_ is read: what SwiGLU makes of gate and up.
  Input<Isa> input_, products_;
  Memory residual_, qkv_, act_, products_act_, bytes_, scales_, wide_, cosines_, sines_, logits_;
  int logits_rows_ = 0;
  std::vector<Scratch<Isa>> scratch_;
  std::vector<SampleScratch> sampling_;

  Plan plan_;
};

template <class Isa>
Forward<Isa>::Forward(Model& model)
    : model_(model),
      shape_{model.config.num_heads, model.config.num_kv_heads, model.config.head_dim,
             model.half()},
      int8_(model.config.int8 != 0),
      qkv_width_(model.layers[0].qkv.panels() * kPanel),
      logits_width_(model.head.panels() * kPanel),
      most_logits_rows_(std::min(model.config.logits_rows, model.config.max_tokens)) {
  const size_t rows = size_t(model.config.max_tokens);
  const int stride =
      round_up(std::max({model.hidden_width(), model.mlp_width(), model.attention_width()}), kPanel);
  residual_ = Memory(rows * model.hidden_width() * sizeof(float));
  qkv_ = Memory(rows * qkv_width_ * sizeof(float));
  act_ = Memory(rows * stride * sizeof(Act));
  products_act_ = Memory(rows * stride * sizeof(Act));
  bytes_ = Memory(rows * stride);
  scales_ = Memory(rows * sizeof(float));
  wide_ = Memory(rows * stride * sizeof(float));
  cosines_ = Memory(rows * shape_.half * sizeof(float));
  sines_ = Memory(rows * shape_.half * sizeof(float));
  input_ = {act_.as<Act>(), bytes_.as<uint8_t>(), scales_.as<float>(), stride};
  products_ = input_;
  products_.act = products_act_.as<Act>();
  for (int thread = 0; thread < model.team.size(); thread++) {
    scratch_.emplace_back(shape_, model.config.block_size);
    sampling_.emplace_back(logits_width_);
  }
}

template <class Isa>
void Forward<Isa>::step(const PagodaStep& step) {
  plan_.make(step, model_.config, model_.cache, shape_.tile_tokens());
  if (int rows = std::min(step.num_rows, most_logits_rows_); rows > logits_rows_) {
    logits_ = Memory(size_t(rows) * logits_width_ * sizeof(float));
    logits_rows_ = rows;
  }
  model_.team.run([&](int thread) { forward(step, thread); });
}

template <class Isa>
void Forward<Isa>::forward(const PagodaStep& step, int thread) {
  Team& team = model_.team;
  const PagodaConfig& c = model_.config;
  each_row(plan_.rows, [&](int row) {
    embed(model_.embedding + size_t(step.tokens[row]) * c.hidden_size, c.hidden_size,
          model_.hidden_width(), residual(row));
    rotation(plan_.positions[row], model_.frequencies.data(), shape_.half,
             cosines_.as<float>() + row * shape_.half, sines_.as<float>() + row * shape_.half);
  });
  for (int i = 0; i < c.num_layers; i++) {
    const Layer& layer = model_.layers[i];
    each_row(plan_.rows, [&](int row) { norm_into_input(residual(row), layer.input_norm, row); });
    linear(team, layer.qkv, input_, plan_.rows, [&](int row, int panel, const float* outputs) {
      std::copy_n(outputs, kPanel, qkv(row) + panel * kPanel);
    });
    each_row(plan_.rows, [&](int row) { turn_and_store(layer, i, row); });
    attention(layer, i, scratch_[thread]);
    add_to_residual(layer.o, input_);

    each_row(plan_.rows, [&](int row) { norm_into_input(residual(row), layer.post_norm, row); });
    linear(team, layer.gate_up, input_, plan_.rows, [&](int row, int panel, float* outputs) {
      constexpr int half = kPanel / 2;
      for (int j = 0; j < half; j += Isa::kLanes)
        Isa::store(outputs + j, Isa::mul(silu<Isa>(Isa::load(outputs + j)),
                                         Isa::load(outputs + half + j)));
      enter(products_, row, panel * half, outputs, half);
    });
    quantize_rows(c.intermediate_size);
    add_to_residual(layer.down, products_);
  }
  pool(step);
  head(step, thread);
}

template <class Isa>
void Forward<Isa>::attention(const Layer& layer, int index, Scratch<Isa>& scratch) {
  const PagodaConfig& c = model_.config;
  const int half = c.head_dim / 2;
  model_.team.each(int(plan_.attention.size()) * c.num_kv_heads, [&](int item, int) {
    const AttentionTask& task = plan_.attention[item / c.num_kv_heads];
    const int kv_head = item % c.num_kv_heads, group = shape_.group();
    attend<Isa>(model_.cache, shape_, index, kv_head, task.blocks, task.first, task.count,
                layer.window, qkv(task.row), qkv_width_, scratch);
    for (int r = 0; r < task.count * group; r++) {
      // Without the padding: the halves of all heads side by side.
      const float* out = scratch.out + r * shape_.width();
      const int row = task.row + r / group, head = kv_head * group + r % group;
      enter(input_, row, head * c.head_dim, out, half);
      enter(input_, row, head * c.head_dim + half, out + shape_.half, half);
    }
  });
  quantize_rows(c.num_heads * c.head_dim);
}

// Hidden states added up, each sum by one thread and in order of rows: in one order of additions
// however the rows are spread over steps.
template <class Isa>
void Forward<Isa>::pool(const PagodaStep& step) {
  const PagodaConfig& c = model_.config;
  if (step.num_pools == 0) return;
  model_.team.each(step.num_pools, [&](int p, int) {
    double* sums = step.pooled + size_t(p) * c.hidden_size;
    for (int row = step.pools[p].begin; row < step.pools[p].end; row++) {
      float* hidden = wide(row);
      rms_norm<Isa>(residual(row), model_.final_norm.as<float>(), c.hidden_size,
                    model_.hidden_width(), c.norm_eps, hidden);
      for (int i = 0; i < c.hidden_size; i++) sums[i] += double(hidden[i]);
    }
  });
}

// Final norm of the rows whose logits are wanted, their logits, their tokens.
template <class Isa>
void Forward<Isa>::head(const PagodaStep& step, int thread) {
  const PagodaConfig& c = model_.config;
  for (int first = 0; first < step.num_rows; first += most_logits_rows_) {
    const int rows = std::min(step.num_rows - first, most_logits_rows_);
    each_row(rows, [&](int r) {
      norm_into_input(residual(step.rows[first + r].row), model_.final_norm, r);
    });
    linear(model_.team, model_.head, input_, rows, [&](int r, int panel, const float* outputs) {
      std::copy_n(outputs, kPanel, logits(r) + panel * kPanel);
    });
    model_.team.each(rows, [&](int r, int) {
      const int wish = first + r;
      if (step.logits != nullptr)
        std::copy_n(logits(r), c.vocab_size, step.logits + size_t(wish) * c.vocab_size);
      sample<Isa>(step, wish, c.vocab_size, logits(r), sampling_[thread]);
    });
  }
}

// Queries and keys normed and turned, queries scaled; key and value into their slot.
template <class Isa>
void Forward<Isa>::turn_and_store(const Layer& layer, int index, int row) {
  const PagodaConfig& c = model_.config;
  const int width = shape_.width(), position = plan_.positions[row];
  const int block = plan_.blocks[row][position / model_.cache.block_size()];
  const int slot = position % model_.cache.block_size();
  const float* cosines = cosines_.as<float>() + row * shape_.half;
  const float* sines = sines_.as<float>() + row * shape_.half;
  float* head = qkv(row);
  const float scale = 1 / std::sqrt(float(c.head_dim));
  auto turn = [&](const Memory& norm, float by) {
    if (c.qk_norm) rms_norm<Isa>(head, norm.as<float>(), c.head_dim, width, c.norm_eps, head);
    rotate<Isa>(head, cosines, sines, shape_.half, by);
  };
  for (int h = 0; h < c.num_heads; h++, head += width) turn(layer.q_norm, scale);
  for (int h = 0; h < c.num_kv_heads; h++, head += width) {
    turn(layer.k_norm, 1);
    write_slot<Isa>(model_.cache.keys(block, index, h), model_.cache.values(block, index, h),
                    model_.cache.slots(), slot, width, head, head + c.num_kv_heads * width);
  }
}

template <class Isa>
void Forward<Isa>::norm_into_input(const float* x, const Memory& weight, int row) {
  const PagodaConfig& c = model_.config;
  const int width = model_.hidden_width();
  float* out = wide(row);
  rms_norm<Isa>(x, weight.as<float>(), c.hidden_size, width, c.norm_eps, out);
  size_t at = size_t(row) * input_.stride;
  if (int8_)
    input_.scales[row] = quantize<Isa>(out, width, input_.bytes + at);
  else
    for (int i = 0; i < width; i += Isa::kLanes)
      Isa::store_act(input_.act + at + i, Isa::load(out + i));
}

template <class Isa>
void Forward<Isa>::add_to_residual(const Matrix& matrix, const Input<Isa>& x) {
  linear(model_.team, matrix, x, plan_.rows, [&](int row, int panel, const float* outputs) {
    float* sum = residual(row) + panel * kPanel;
    for (int i = 0; i < kPanel; i += Isa::kLanes)
      Isa::store(sum + i, Isa::add(Isa::load(sum + i), Isa::load(outputs + i)));
  });
}

// Some values of a row into the next linear layer's input; int8 has to see the whole row first.
template <class Isa>
void Forward<Isa>::enter(const Input<Isa>& input, int row, int column, const float* values,
                         int count) {
  if (int8_) {
    std::copy_n(values, count, wide(row) + column);
    return;
  }
  Act* to = input.act + size_t(row) * input.stride + column;
  int i = 0;
  for (; i + Isa::kLanes <= count; i += Isa::kLanes) Isa::store_act(to + i, Isa::load(values + i));
  if (i < count) {
    Act last[Isa::kLanes];
    Isa::store_act(last, Isa::load(values + i));
    std::copy_n(last, count - i, to + i);
  }
}

template <class Isa>
void Forward<Isa>::quantize_rows(int columns) {
  if (!int8_) return;
  const int width = round_up(columns, 16);
  each_row(plan_.rows, [&](int row) {
    // What an earlier stage left behind the columns must not choose the scale.
    std::fill(wide(row) + columns, wide(row) + width, 0.0f);
    input_.scales[row] =
        quantize<Isa>(wide(row), width, input_.bytes + size_t(row) * input_.stride);
  });
}

template <class Isa>
template <class Item>
void Forward<Isa>::each_row(int rows, Item&& item) {
  constexpr int kTogether = 4;
  model_.team.each(ceil_div(rows, kTogether), [&](int task, int) {
    for (int row = task * kTogether; row < std::min(rows, (task + 1) * kTogether); row++) item(row);
  });
}

}  // namespace
