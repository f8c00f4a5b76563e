// Tests of the kernels, of the thread team and of the C interface as one program, which can be run
// under sanitizers and valgrind. Exits with 1 if a check fails.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "check.h"
#include "matrix.h"
#include "pagoda.h"
#include "team.h"

int failures = 0;

void test_avx2();
void test_avx512();

namespace {

void test_bf16() {
  CHECK(to_float(to_bf16(1.0f)) == 1.0f, "one");
  CHECK(to_bf16(1.00390625f) == 0x3f80, "a tie goes to even");
  CHECK(to_bf16(1.01171875f) == 0x3f82, "a tie goes to even");
  CHECK(std::isnan(to_float(to_bf16(NAN))), "NaN");
  CHECK(to_bf16(INFINITY) == 0x7f80, "infinity");
}

void test_team() {
  for (int threads : {1, 2, 5}) {
    Team team(threads);
    for (int job = 0; job < 20; job++) {
      std::vector<std::atomic<int>> done(100);
      std::atomic<int> wrong{0};
      team.run([&](int) {
        for (int stage = 0; stage < 50; stage++) {
          const int count = stage * 2;
          team.each(count, [&](int item, int next) {
            if (done[item].fetch_add(1) != stage - item / 2 - 1 || next <= item) wrong++;
          });
        }
      });
      CHECK(wrong == 0, "%d threads: a stage began before the last one ended", threads);
      for (int item = 0; item < 98; item++)
        CHECK(done[item] == 49 - item / 2, "item %d was done %d times", item, done[item].load());
    }
  }
}

// A small random model through the C interface: two requests, alone and together.
void test_interface(int instruction_set, bool int8) {
  const int hidden = 40, mlp = 50, vocab = 101, heads = 4, kv_heads = 2, head_dim = 12, layers = 2;
  PagodaConfig config{};
  config.vocab_size = vocab, config.hidden_size = hidden, config.intermediate_size = mlp;
  config.num_layers = layers, config.num_heads = heads, config.num_kv_heads = kv_heads;
  config.head_dim = head_dim, config.qk_norm = 1, config.int8 = int8;
  config.block_size = 4, config.num_blocks = 20, config.max_tokens = 30, config.threads = 2;
  config.logits_rows = 2;  // Three rows take turns.
  config.instruction_set = instruction_set, config.norm_eps = 1e-6f;
  const std::vector<float> frequencies = {1, 0.5f, 0.2f, 0.1f, 0.05f, 0.01f};
  const std::vector<int32_t> windows = {0, 6};
  PagodaModel* model = pagoda_create(&config, frequencies.data(), windows.data());
  CHECK(model != nullptr, "%s", pagoda_error());
  if (model == nullptr) return;

  unsigned seed = 100;
  auto load = [&](PagodaTensor tensor, int layer, int rows, int columns) {
    const std::vector<float> weights =
        random_floats(size_t(rows) * columns, seed++, 1 / std::sqrt(float(columns)));
    CHECK(pagoda_load(model, tensor, layer, weights.data(), PAGODA_FLOAT) == 0, "%s", pagoda_error());
  };
  load(PAGODA_EMBEDDING, 0, vocab, hidden);
  load(PAGODA_LM_HEAD, 0, vocab, hidden);
  load(PAGODA_FINAL_NORM, 0, hidden, 1);
  for (int layer = 0; layer < layers; layer++) {
    load(PAGODA_INPUT_NORM, layer, hidden, 1);
    load(PAGODA_POST_NORM, layer, hidden, 1);
    load(PAGODA_Q_NORM, layer, head_dim, 1);
    load(PAGODA_K_NORM, layer, head_dim, 1);
    load(PAGODA_Q_WEIGHT, layer, heads * head_dim, hidden);
    load(PAGODA_K_WEIGHT, layer, kv_heads * head_dim, hidden);
    load(PAGODA_V_WEIGHT, layer, kv_heads * head_dim, hidden);
    load(PAGODA_O_WEIGHT, layer, hidden, heads * head_dim);
    load(PAGODA_GATE_WEIGHT, layer, mlp, hidden);
    load(PAGODA_UP_WEIGHT, layer, mlp, hidden);
    load(PAGODA_DOWN_WEIGHT, layer, hidden, mlp);
  }

  PagodaRow row{};
  row.temperature = 0.8f, row.top_p = 0.9f, row.top_k = 20, row.min_p = 0.01f;
  row.presence_penalty = 0.5f, row.frequency_penalty = 0.5f, row.repetition_penalty = 1.1f;
  row.scored = -1, row.top_logprobs = 3, row.answer_begin = 2, row.answer_end = 4, row.bias_end = 1, row.seed = 7;
  row.row = 12;
  std::vector<PagodaRow> rows = {row};
  const std::vector<int32_t> history = {1, 2, 2, 3}, bias_tokens = {5};
  const std::vector<float> biases = {1};
  std::vector<int32_t> tokens(30), sampled(3), top_tokens(9);
  std::vector<float> logprobs(3), top_values(9), logits(3 * vocab);
  std::vector<double> alone_sum(hidden), sums(2 * hidden);
  for (size_t i = 0; i < tokens.size(); i++) tokens[i] = int32_t(i * 37 % vocab);
  PagodaStep step{};
  step.history = history.data(), step.bias_tokens = bias_tokens.data(), step.biases = biases.data();
  step.rows = rows.data(), step.sampled = sampled.data(), step.logprobs = logprobs.data();
  step.max_top_logprobs = 3, step.top_tokens = top_tokens.data(), step.top_values = top_values.data();
  step.logits = logits.data(), step.table_width = 5;
  std::vector<PagodaPool> pools = {{0, 13}};
  step.num_pools = 1, step.pools = pools.data(), step.pooled = alone_sum.data();

  // The second request alone, then both in one step: each chooses a token and adds up its hidden
  // states, and the second's choice is also scored.
  const std::vector<int32_t> starts = {0, 0}, lengths = {17, 13};
  const std::vector<int32_t> tables = {3, 1, 4, 15, 9, 2, 6, 5, 8, 0};
  step.num_chunks = step.num_rows = 1, step.tokens = tokens.data() + 17;
  step.starts = starts.data() + 1, step.lengths = lengths.data() + 1, step.block_tables = tables.data() + 5;
  CHECK(pagoda_step(model, &step) == 0, "%s", pagoda_error());
  const std::vector<float> alone(logits.begin(), logits.begin() + vocab);
  const int token = sampled[0];
  const float logprob = logprobs[0];
  rows.assign(3, row), pools = {{0, 17}, {17, 30}};
  rows[0].row = 16, rows[1].row = rows[2].row = 29, rows[2].scored = token;
  step.rows = rows.data(), step.pools = pools.data(), step.pooled = sums.data();
  step.num_chunks = step.num_pools = 2, step.num_rows = 3, step.tokens = tokens.data();
  step.starts = starts.data(), step.lengths = lengths.data(), step.block_tables = tables.data();
  CHECK(pagoda_step(model, &step) == 0, "%s", pagoda_error());
  CHECK(std::equal(alone.begin(), alone.end(), logits.begin() + vocab), "other bits in company");
  CHECK(sampled[1] == token && token >= 0 && token < vocab, "%d is not %d", sampled[1], token);

  CHECK(sampled[2] == token && logprobs[1] == logprob && logprobs[2] == logprob,
        "%d at %f and %f was %d at %f", sampled[2], logprobs[1], logprobs[2], token, logprob);
  CHECK(std::equal(top_values.begin() + 3, top_values.begin() + 6, top_values.begin() + 6),
        "other alternatives when scored");
  CHECK(std::equal(alone_sum.begin(), alone_sum.end(), sums.begin() + hidden),
        "other hidden states in company");
  CHECK(alone_sum[0] != 0, "no hidden states");

  auto refused = [&](const char* reason) {
    CHECK(pagoda_step(model, &step) != 0, "taken, but: %s", reason);
    CHECK(std::strstr(pagoda_error(), reason) != nullptr, "%s", pagoda_error());
  };
  for (PagodaPool pool : {PagodaPool{16, 30}, PagodaPool{17, 31}, PagodaPool{18, 17}}) {
    std::swap(pools[1], pool);
    refused("pools overlap");
    std::swap(pools[1], pool);
  }
  for (int index : {-1, 30}) rows[2].row = index, refused("a row that is not there");
  rows[2].row = 29;
  for (int scored : {-2, vocab}) rows[2].scored = scored, refused("scored token");
  rows[2].scored = token;
  tokens[3] = vocab;
  refused("a token is not in the vocabulary");
  pagoda_destroy(model);
}

void test_refusals() {
  PagodaConfig good{};
  good.vocab_size = good.hidden_size = good.intermediate_size = good.num_layers = 8;
  good.num_heads = 4, good.num_kv_heads = 2, good.head_dim = 8, good.block_size = 4;
  good.num_blocks = good.max_tokens = good.logits_rows = good.threads = 1;
  const std::vector<float> frequencies(4);
  const std::vector<int32_t> windows(8);
  auto refused = [&](auto&& change) {
    PagodaConfig config = good;
    change(config);
    PagodaModel* model = pagoda_create(&config, frequencies.data(), windows.data());
    pagoda_destroy(model);
    return model == nullptr;
  };
  CHECK(!refused([](auto&) {}), "%s", pagoda_error());
  CHECK(refused([](auto& c) { c.head_dim = 7; }), "an odd head_dim was taken");
  CHECK(refused([](auto& c) { c.block_size = 3; }), "an odd block_size was taken");
  CHECK(refused([](auto& c) { c.num_kv_heads = 3; }), "4 heads were shared among 3");
  CHECK(refused([](auto& c) { c.threads = 0; }), "no threads were taken");
  CHECK(refused([](auto& c) { c.instruction_set = 9; }), "an unknown instruction set was taken");
}

}  // namespace

int main() {
  const int best = pagoda_instruction_set();
  test_bf16();
  test_team();
  test_refusals();
  if (best >= PAGODA_AVX2) test_avx2();
  if (best >= PAGODA_AVX512) test_avx512();
  for (int set = PAGODA_AVX2; set <= best; set++)
    for (bool int8 : {false, true}) test_interface(set, int8);
  std::printf("instruction set %d, %d failures\n", best, failures);
  return failures > 0;
}
