#include "isa_avx2.h"
#include "kernels.h"

void test_avx2() { test_kernels<Avx2>(); }
