#include "plan.h"

#include <algorithm>
#include <stdexcept>

void Plan::make(const PagodaStep& step, const PagodaConfig& config, const Cache& cache,
                int tokens_per_task) {
  positions.clear(), blocks.clear(), attention.clear();
  for (int c = 0; c < step.num_chunks; c++) {
    const int start = step.starts[c], length = step.lengths[c];
    const int32_t* table = step.block_tables + size_t(c) * step.table_width;
    const int used = ceil_div(start + length, cache.block_size());
    if (start < 0 || length < 1 || used > step.table_width)
      throw std::out_of_range("a chunk is empty or outside its block table");
    for (int b = 0; b < used; b++)
      if (table[b] < 0 || table[b] >= cache.blocks())
        throw std::out_of_range("a block table names a block that is not there");
    for (int t = 0; t < length; t += tokens_per_task)
      attention.push_back({table, int(positions.size()) + t, start + t,
                           std::min(tokens_per_task, length - t)});
    for (int t = 0; t < length; t++) {
      positions.push_back(start + t);
      blocks.push_back(table);
    }
  }
  rows = int(positions.size());
  if (rows > config.max_tokens) throw std::out_of_range("more tokens than max_tokens");
  for (int row = 0; row < rows; row++)
    if (step.tokens[row] < 0 || step.tokens[row] >= config.vocab_size)
      throw std::out_of_range("a token is not in the vocabulary");
  for (int r = 0; r < step.num_rows; r++) {
    if (step.rows[r].row < 0 || step.rows[r].row >= rows)
      throw std::out_of_range("logits are wanted of a row that is not there");
    if (step.rows[r].scored < -1 || step.rows[r].scored >= config.vocab_size)
      throw std::out_of_range("a scored token is not in the vocabulary");
  }
  for (int p = 0, end = 0; p < step.num_pools; end = step.pools[p++].end)
    if (step.pools[p].begin < end || step.pools[p].end < step.pools[p].begin ||
        step.pools[p].end > rows)
      throw std::out_of_range("pools overlap or have rows that are not there");
  // The longest first, so that no thread starts on one when the others are done.
  auto cost = [](const AttentionTask& t) { return int64_t(t.first + t.count) * t.count; };
  std::stable_sort(attention.begin(), attention.end(),
                   [&](const auto& a, const auto& b) { return cost(a) > cost(b); });
}
