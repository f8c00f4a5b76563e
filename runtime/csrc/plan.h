// The rows of a step: which token, position and block table each has, and how attention is cut into
// tasks. Compiled without special instructions, as everything that is not a kernel.
#pragma once
#include <vector>

#include "cache.h"
#include "pagoda.h"

// Some neighbouring tokens of one chunk that attend together.
struct AttentionTask {
  const int32_t* blocks;
  int row, first, count;  // row of the step and position of the first token, number of tokens
};

struct Plan {
  int rows = 0;
  std::vector<int> positions;            // [rows]
  std::vector<const int32_t*> blocks;    // [rows] block table
  std::vector<AttentionTask> attention;

  // Lays out a step; std::out_of_range if it asks for what is not there.
  void make(const PagodaStep& step, const PagodaConfig& config, const Cache& cache,
            int tokens_per_task);
};
