// The threads of a model. A job runs on all of them at once and shares out its stages by a common
// counter, so a thread that the kernel takes away holds up one item and not a fixed share.
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

  // Calls job(thread) for thread 0 … size-1, 0 on the calling thread; returns when all are done.
  // Denormal numbers count as zero inside, as the bfloat16 instructions have it.
  template <class Job>
  void run(Job&& job) {
    start([](void* context, int thread) { (*static_cast<Job*>(context))(thread); }, &job);
  }

  // Inside a job, by every thread: calls item(i, next) for i in 0 … count-1, each on one thread, in
  // no promised order; returns when all are done. `next` is what this thread will do next, which is
  // nothing from count on.
  template <class Item>
  void each(int count, Item&& item) {
    for (int i = take(), next; i < count; i = next) {
      next = take();
      item(i, next);
    }
    barrier();
  }

  // Inside a job: returns when every thread has come here.
  void barrier();

 private:
  using Function = void (*)(void* context, int thread);
  int take() { return next_.fetch_add(1, std::memory_order_relaxed); }
  void start(Function function, void* context);
  void work(int thread);
  static void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old);

  const int size_;
  Function function_ = nullptr;  // null: the threads end
  void* context_ = nullptr;
  // Each on a cache line of its own: they are written by all threads.
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> jobs_{0};
  std::vector<std::thread> threads_;
};
