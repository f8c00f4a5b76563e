#include "memory.h"

#include <sys/mman.h>

#include <new>

namespace {
// Kernels read whole vectors and prefetch ahead: that much after the last byte is readable.
constexpr size_t kSlack = 4096;
}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes + kSlack) {
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw std::bad_alloc();
  }
  madvise(data_, bytes_, MADV_HUGEPAGE);  // A wish: some kernels have none.
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}
