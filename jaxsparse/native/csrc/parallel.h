// Runs tasks on the threads of XLA's own pool, so that nothing is oversubscribed.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace jaxsparse {

// ThreadSanitizer cannot see that XLA, which is not built with it, runs what it is given
// after it was given, and one call after another.
#if defined(__SANITIZE_THREAD__)
extern "C" void __tsan_acquire(void*);
extern "C" void __tsan_release(void*);
inline void give(void* what) { __tsan_release(what); }
inline void take(void* what) { __tsan_acquire(what); }
#else
inline void give(void*) {}
inline void take(void*) {}
#endif

inline char last_call;  // An address that stands for the order of the calls.

template <typename Shared>
struct Work {
  explicit Work(std::shared_ptr<Shared> given) : shared(std::move(given)) {}
  Work(Work&& other) : shared(std::move(other.shared)) { give(this); }
  void operator()() {
    take(this);
    shared->work();
  }
  std::shared_ptr<Shared> shared;
};

// Calls task(i) for i in [0, n), returns when all have ended. The caller works too and
// can do everything alone, so that a pool whose threads all wait here still ends.
template <typename Task>
void parallel_for(xla::ffi::ThreadPool& pool, int64_t n, Task task) {
  const int64_t threads = std::min<int64_t>(pool.num_threads(), n);
  if (threads < 2) {
    for (int64_t i = 0; i < n; ++i) task(i);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0}, done{0};
    const int64_t n;
    Task task;
    Shared(int64_t n, Task task) : n(n), task(std::move(task)) {}
    void work() {
      int64_t ended = 0;
      for (int64_t i; (i = next.fetch_add(1)) < n; ++ended) task(i);
      done.fetch_add(ended, std::memory_order_acq_rel);
    }
  };
  take(&last_call);
  // Shared with threads that may wake up only after all has been done.
  auto shared = std::make_shared<Shared>(n, std::move(task));
  for (int64_t t = 1; t < threads; ++t) {
    pool.Schedule(Work<Shared>(shared));
  }
  shared->work();
  // The others are in their last task: about as long as it takes to fall asleep.
  for (int spins = 0; shared->done.load(std::memory_order_acquire) < n; ++spins) {
    if (spins > 1000) std::this_thread::yield();
  }
  give(&last_call);
}

// Memory that a thread keeps from call to call: fresh pages would cost as much as the
// copy that goes into them.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  template <typename T>
  T* get(size_t count) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(data_);
      data_ = nullptr;
      size_ = 0;
      if (posix_memalign(&data_, 64, bytes) != 0) throw std::bad_alloc();
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace jaxsparse
