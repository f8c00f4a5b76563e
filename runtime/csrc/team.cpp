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

constexpr uint32_t kOpen = 1u << 31;  // in Team::inside_: threads may still enter the job

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

thread_local uint32_t Team::own_stage_ = 0;

Team::Team(int threads) : size_(threads) {
  SignalsBlocked blocked;
  for (int thread = 1; thread < size_; thread++)
    threads_.emplace_back([this, thread] { work(thread); });
}

Team::~Team() {
  ending_.store(true, std::memory_order_relaxed);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Team::start(Function function, void* context) {
  function_ = function;
  context_ = context;
  own_stage_ = first_stage_ = stage_.load(std::memory_order_relaxed);
  inside_.store(kOpen, std::memory_order_release);
  jobs_.fetch_add(1, std::memory_order_release);
  jobs_.notify_all();
  unsigned control = _mm_getcsr();
  _mm_setcsr(control | kDenormalsAreZero);
  function(context, 0);
  _mm_setcsr(control);
  // All stages are done. Who is not inside yet stays out; who is, has only to see that.
  uint32_t workers = inside_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (; workers > 0; workers = inside_.load(std::memory_order_acquire))
    wait_for_change(inside_, workers);
}

void Team::work(int thread) {
  _mm_setcsr(_mm_getcsr() | kDenormalsAreZero);
  for (uint32_t job = 0;;) {
    wait_for_change(jobs_, job);
    job = jobs_.load(std::memory_order_acquire);
    if (ending_.load(std::memory_order_relaxed)) return;
    // It may be a later job by now, or the same one again, of which then nothing is left.
    if (!enter()) continue;
    own_stage_ = first_stage_;
    function_(context_, thread);
    leave();
  }
}

bool Team::enter() {
  uint32_t inside = inside_.load(std::memory_order_relaxed);
  do {
    if (!(inside & kOpen)) return false;
  } while (!inside_.compare_exchange_weak(inside, inside + 1, std::memory_order_acquire,
                                          std::memory_order_relaxed));
  return true;
}

void Team::leave() {
  if (inside_.fetch_sub(1, std::memory_order_release) == 1) inside_.notify_all();
}

// An item of the stage, or -1: there is none left, or the others are past it.
int Team::take(uint32_t stage, int count) {
  uint64_t next = next_.load(std::memory_order_acquire);
  do {
    if (uint32_t(next >> 32) != stage || uint32_t(next) >= uint32_t(count)) return -1;
  } while (!next_.compare_exchange_weak(next, next + 1, std::memory_order_acquire));
  return int(uint32_t(next));
}

// By whoever finished its last item: makes everything ready for the next stage, then lets the others go.
void Team::end_stage(uint32_t stage) {
  done_.store(0, std::memory_order_relaxed);
  next_.store(uint64_t(stage + 1) << 32, std::memory_order_release);
  stage_.store(stage + 1, std::memory_order_release);
  stage_.notify_all();
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
