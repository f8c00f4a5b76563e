// Compiled with -mavx2 -mfma: everything in here, and nothing else, uses these instructions.
#include "forward.h"
#include "isa_avx2.h"

std::unique_ptr<Execution> make_avx2(Model& model) { return std::make_unique<Forward<Avx2>>(model); }
