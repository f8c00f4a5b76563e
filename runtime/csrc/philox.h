// One uniform number per (seed, position): Philox4x32-10 of Salmon et al., "Parallel random numbers:
// as easy as 1, 2, 3" (2011). Bit for bit that of pagoda_runtime/engine/philox.py.
#pragma once
#include <cstdint>

namespace {

// In [0, 1), with 53 bits.
inline double philox_uniform(uint64_t seed, uint64_t position) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(position), c1 = uint32_t(position >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    uint64_t product0 = uint64_t(0xD2511F53) * c0, product1 = uint64_t(0xCD9E8D57) * c2;
    c0 = uint32_t(product1 >> 32) ^ c1 ^ key0;
    c1 = uint32_t(product1);
    c2 = uint32_t(product0 >> 32) ^ c3 ^ key1;
    c3 = uint32_t(product0);
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return double((uint64_t(c1) << 32 | c0) >> 11) * 0x1p-53;
}

}  // namespace
