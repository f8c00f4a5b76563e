#include "team.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>

namespace {

// First a spin of about the time by which stages differ. Then the core is offered to others again
// and again: the kernel may have put two of our threads on one core, where every microsecond of
// spinning keeps the other from arriving (measured: 20 ms a step instead of 8.6). Sleeping comes last:
// being woken takes longer than a stage, and puts the woken thread next to its waker.
constexpr std::chrono::microseconds kSpin{5};
constexpr std::chrono::microseconds kYield{1000};
constexpr int kPausesPerLook = 64;

constexpr unsigned kDenormalsAreZero = 0x8040;  // FTZ and DAZ of the control register

// No signal handler of Python's may run on a thread that it does not know.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace

Team::Team(int threads) : size_(threads) {
  SignalsBlocked blocked;
  for (int thread = 1; thread < size_; thread++)
    threads_.emplace_back([this, thread] { work(thread); });
}

Team::~Team() {
  function_ = nullptr;
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::start(Function function, void* context) {
  function_ = function;
  context_ = context;
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  unsigned control = _mm_getcsr();
  _mm_setcsr(control | kDenormalsAreZero);
  function(context, 0);
  barrier();
  _mm_setcsr(control);
}

void Team::work(int thread) {
  _mm_setcsr(_mm_getcsr() | kDenormalsAreZero);
  for (uint32_t job = 0;; job++) {
    wait_for_change(jobs_, job);
    if (function_ == nullptr) return;
    function_(context_, thread);
    barrier();
  }
}

void Team::barrier() {
  uint32_t round = round_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    // The last one makes everything ready for the next stage, then lets the others go.
    next_.store(0, std::memory_order_relaxed);
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    round_.notify_all();
  } else {
    wait_for_change(round_, round);
  }
}

void Team::wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  auto changed = [&] { return value.load(std::memory_order_acquire) != old; };
  const auto begun = std::chrono::steady_clock::now();
  auto waited = begun - begun;
  do {
    if (waited >= kSpin) sched_yield();
    for (int i = 0; i < kPausesPerLook; i++) {
      if (changed()) return;
      _mm_pause();
    }
    waited = std::chrono::steady_clock::now() - begun;
  } while (waited < kSpin + kYield);
  value.wait(old, std::memory_order_acquire);
}
