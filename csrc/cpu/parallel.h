// Parallel loops on the OpenMP pool that torch uses too.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace bdam {

// Calls task(i) for every i in [0, count). Tasks must write disjoint memory; the order is not defined.
template <class Task>
void parallel_for(int threads, int64_t count, const Task& task) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) task(i);
}

// As parallel_for, with task(i, next): what the calling thread does after i, or the last of all.
template <class Task>
void parallel_for_with_next(int threads, int64_t count, const Task& task) {
  std::atomic<int64_t> unclaimed{0};
  const auto work = [&] {
    for (int64_t i = unclaimed++, next; i < count; i = next) {
      next = unclaimed++;
      task(i, std::min(next, count - 1));
    }
  };
  if (threads <= 1 || count <= 1) return work();
#pragma omp parallel num_threads(threads)
  work();
}

}  // namespace bdam
