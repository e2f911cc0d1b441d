// Parallel loops on the OpenMP pool that torch uses too.
#pragma once

#include <cstdint>

namespace bdam {
inline namespace BDAM_ISA {

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

}  // namespace BDAM_ISA
}  // namespace bdam
