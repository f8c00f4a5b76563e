// The threads of a model. A job runs on all of them and shares out its stages item by item. Nobody is
// waited for but who is in the middle of an item: a thread that the kernel has taken away before it
// began, or between two items, misses what the others do meanwhile and goes on with the stage that
// they are at. On cores that are shared with other processes this is what happens all the time.
//
// Waiting is first a short spin, because most stages end together, then yielding, then sleep in the
// kernel: two engines on the same cores must not burn each other's time.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // Calls job(thread) for thread 0, which is the calling one, and for those of 1 … size-1 that are
  // there in time; returns when all are done. A job is a list of stages, the same for every thread:
  // whatever it does lies inside `each`. Denormal numbers count as zero inside, as the bfloat16
  // instructions have it.
  template <class Job>
  void run(Job&& job) {
    start([](void* context, int thread) { (*static_cast<Job*>(context))(thread); }, &job);
  }

  // Inside a job: calls item(i, next) for i in 0 … count-1, each on one thread, in no promised order;
  // returns when all are done. `next` is what this thread will do next, probably: it may be another,
  // and from count on it is nothing.
  template <class Item>
  void each(int count, Item&& item) {
    if (count == 0) return;
    const uint32_t stage = own_stage_++;
    for (int i; (i = take(stage, count)) >= 0;) {
      item(i, i + size_);
      if (done_.fetch_add(1, std::memory_order_acq_rel) == count - 1) end_stage(stage);
    }
    wait_for_change(stage_, stage);
  }

 private:
  using Function = void (*)(void* context, int thread);
  void start(Function function, void* context);
  void work(int thread);
  int take(uint32_t stage, int count);
  void end_stage(uint32_t stage);
  bool enter();
  void leave();
  static void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old);

  static thread_local uint32_t own_stage_;  // the next one of this thread

  const int size_;
  Function function_ = nullptr;
  void* context_ = nullptr;
  uint32_t first_stage_ = 0;  // of the job
  std::atomic<bool> ending_{false};
  // Each on a cache line of its own: they are written by all threads.
  alignas(64) std::atomic<uint64_t> next_{0};  // stage and, in the lower half, its next item
  alignas(64) std::atomic<int> done_{0};       // items of the stage
  alignas(64) std::atomic<uint32_t> stage_{0};
  alignas(64) std::atomic<uint32_t> jobs_{0};
  alignas(64) std::atomic<uint32_t> inside_{0};  // workers in the job, and whether it is open
  std::vector<std::thread> threads_;
};
