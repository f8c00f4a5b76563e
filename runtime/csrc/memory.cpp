#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#ifdef __SANITIZE_ADDRESS__

// The sanitizer sees what goes beyond memory of its own allocator only.
Memory::Memory(size_t bytes) : data_(std::calloc(bytes, 1)), bytes_(bytes) {
  if (data_ == nullptr) throw std::bad_alloc();
}

Memory::~Memory() { std::free(data_); }

#else

Memory::Memory(size_t bytes) : bytes_(bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  data_ = data;
  madvise(data_, bytes_, MADV_HUGEPAGE);  // A wish: some kernels have none.
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

#endif
