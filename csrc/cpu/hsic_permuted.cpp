// <K, L> for many permutations of L's rows and columns: a task has kLanes neighbouring columns of L, and takes all
// permutations while they are in cache.

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace bdam {
namespace {

constexpr int64_t kLine = 16, kAhead = 4 * kLine;  // floats of a cache line, and of K's rows that are asked for early

// The sum over i in `rows` and every j of K_ij L_p(i)p(j), where `columns` are L's at p(i). Rows of L come in any order,
// but whole vectors of one are read; those of K are transposed to meet them, which costs less than to gather L.
float product(const float* K, const float* columns, const int32_t* permutation, const int32_t* rows, int64_t n) {
  vf sums[2] = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    vf tile[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) {
      const float* row = K + rows[k] * n + j;
      tile[k] = load(row);
      // So many rows in any order are more streams than the hardware foresees.
      if (j % kLine == 0) __builtin_prefetch(row + kAhead);
    }
    transpose(tile);
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) sums[k & 1] += tile[k] * load(columns + permutation[j + k] * int64_t{kLanes});
  }
  return sum(sums[0] + sums[1]);
}

}  // namespace

void hsic_permuted(const Tensor& K, const Tensor& panels, const Tensor& permutations, const Tensor& inverses,
                   const Tensor& sums, int threads) {
  const int64_t n = K.size[0], count = sums.size[1];
  parallel_for(threads, sums.size[0], [&](int64_t task) {
    for (int64_t b = 0; b < count; ++b) {
      sums.as<float>()[task * count + b] =
          product(K.as<float>(), panels.as<float>() + task * n * kLanes, permutations.as<int32_t>() + b * n,
                  inverses.as<int32_t>() + b * n + task * kLanes, n);
    }
  });
}

}  // namespace bdam
