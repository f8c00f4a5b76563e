// Where keys and values of the paged cache lie. Addresses only; attention.h reads and writes.
//
// A block has `block_size` slots, one per token, for every layer and KV head:
//
//     block → layer → KV head → keys   [width / 2][slots] pairs of dimensions (2d, 2d+1)
//                               values [block_size / 2][width] pairs of slots (2s, 2s+1)
//
// Both are panels as in matrix.h: keys with a slot as column and dimensions as inputs (scores are
// queries · keys), values with a dimension as column and slots as inputs (the result is
// probabilities · values). Slots are rounded up to whole vectors, and so is each half of a head.
#pragma once
#include <cstddef>

#include "memory.h"
#include "numbers.h"

class Cache {
 public:
  Cache() = default;
  // width: of a head, padded. Memory is zero, so every value in it is a number from the start.
  Cache(int blocks, int layers, int heads, int block_size, int width)
      : blocks_(blocks),
        layers_(layers),
        heads_(heads),
        block_size_(block_size),
        width_(width),
        slots_(round_up(block_size, 16)),
        words_(size_t(blocks) * layers * heads * head_words() * sizeof(bf16_pair)) {}

  int blocks() const { return blocks_; }
  int block_size() const { return block_size_; }
  int slots() const { return slots_; }

  bf16_pair* keys(int block, int layer, int head) const {
    return words_.as<bf16_pair>() +
           ((size_t(block) * layers_ + layer) * heads_ + head) * head_words();
  }
  bf16_pair* values(int block, int layer, int head) const {
    return keys(block, layer, head) + size_t(width_ / 2) * slots_;
  }

 private:
  size_t head_words() const {
    return size_t(width_ / 2) * slots_ + size_t(block_size_ / 2) * width_;
  }

  int blocks_ = 0, layers_ = 0, heads_ = 0, block_size_ = 0, width_ = 0, slots_ = 0;
  Memory words_;
};
