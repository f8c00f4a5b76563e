#include "isa_avx512.h"
#include "kernels.h"

void test_avx512() { test_kernels<Avx512>(); }
