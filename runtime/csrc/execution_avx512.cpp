// Compiled with AVX-512, BF16 and VNNI: everything in here, and nothing else, uses these
// instructions.
#include "forward.h"
#include "isa_avx512.h"

std::unique_ptr<Execution> make_avx512(Model& model) {
  return std::make_unique<Forward<Avx512>>(model);
}
