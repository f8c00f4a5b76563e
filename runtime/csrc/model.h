// A decoder's weights, its cache and its threads: what all instruction sets share.
#pragma once
#include <memory>
#include <vector>

#include "cache.h"
#include "matrix.h"
#include "pagoda.h"
#include "team.h"

struct Layer {
  Matrix qkv, o, gate_up, down;
  Memory input_norm, post_norm, q_norm, k_norm;  // floats, padded with zeros
  int window = 0;
};

// One model on one instruction set: its working memory and its step.
class Execution {
 public:
  virtual ~Execution() = default;
  virtual void step(const PagodaStep& step) = 0;
};

struct Model {
  Model(const PagodaConfig& config, const float* inverse_frequencies, const int32_t* windows);

  void load(PagodaTensor tensor, int layer, const void* data, Source type);

  // Each half of a head is padded to whole vectors, so that turning it has no tail; padding is zero
  // all the way. Heads of the usual sizes have none.
  int half() const { return round_up(config.head_dim / 2, 16); }
  int head_width() const { return 2 * half(); }
  int hidden_width() const { return round_up(config.hidden_size, kPanel); }
  // gate_up's panels hold 32 gates and their 32 ups.
  int mlp_width() const { return round_up(config.intermediate_size, kPanel / 2); }
  int attention_width() const { return round_up(config.num_heads * config.head_dim, 16); }

  PagodaConfig config;
  Team team;
  Cache cache;
  std::vector<float> frequencies;  // [half]
  std::vector<Layer> layers;
  const bf16* embedding = nullptr;  // [vocab, hidden]
  Memory own_embedding;             // if it had to be converted
  Memory final_norm;
  Matrix head;
  std::unique_ptr<Execution> execution;

 private:
  void pack(Matrix& matrix, Rows rows, int count, const void* data, Source type);
  Rows heads_from(int first_head) const;
};

std::unique_ptr<Execution> make_avx2(Model& model);
std::unique_ptr<Execution> make_avx512(Model& model);
