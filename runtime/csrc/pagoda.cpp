// The C interface: exceptions become error codes, and the instruction set is chosen.
#include "pagoda.h"

#include <exception>
#include <stdexcept>
#include <string>

#include "model.h"

struct PagodaModel : Model {
  using Model::Model;
};

namespace {

thread_local std::string last_error;

template <class F>
auto guarded(F&& f, decltype(f()) failed) -> decltype(f()) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    last_error = "not enough memory";
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return failed;
}

// __builtin_cpu_supports also asks whether the kernel saves the wider registers.
PagodaInstructionSet best_instruction_set() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni"))
    return PAGODA_AVX512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return PAGODA_AVX2;
  return PAGODA_NONE;
}

std::unique_ptr<Execution> make_execution(PagodaModel& model) {
  int best = best_instruction_set(), wanted = model.config.instruction_set;
  if (wanted == PAGODA_NONE) wanted = best;
  if (wanted == PAGODA_NONE || wanted > best)
    throw std::runtime_error("this processor lacks the instructions");
  return wanted == PAGODA_AVX512 ? make_avx512(model) : make_avx2(model);
}

}  // namespace

int32_t pagoda_abi(void) { return PAGODA_ABI; }

const char* pagoda_error(void) { return last_error.c_str(); }

int32_t pagoda_instruction_set(void) { return best_instruction_set(); }

PagodaModel* pagoda_create(const PagodaConfig* config, const float* inverse_frequencies,
                           const int32_t* windows) {
  return guarded(
      [&]() -> PagodaModel* {
        auto model = std::make_unique<PagodaModel>(*config, inverse_frequencies, windows);
        model->execution = make_execution(*model);
        return model.release();
      },
      nullptr);
}

int32_t pagoda_load(PagodaModel* model, int32_t tensor, int32_t layer, const void* data,
                    int32_t type) {
  return guarded(
      [&]() -> int32_t {
        model->load(PagodaTensor(tensor), layer, data, Source(type));
        return 0;
      },
      1);
}

int32_t pagoda_step(PagodaModel* model, const PagodaStep* step) {
  return guarded(
      [&]() -> int32_t {
        model->execution->step(*step);
        return 0;
      },
      1);
}

void pagoda_destroy(PagodaModel* model) { delete model; }
