// <K, L> for many permutations of L's rows and columns: a task has kLanes neighbouring columns of L, and takes all
// permutations while they are in cache.

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace bdam {
namespace {

// The sum over i in `rows` and every j of K_ij L_p(i)p(j), where `columns` are L's at p(i). Rows of L come in any order,
// but whole vectors of one are read; those of K are transposed to meet them, which costs less than to gather L.
float product(const float* K, const float* columns, const int32_t* permutation, const int32_t* rows, int64_t n) {
  vf sums[2] = {};
  for (int64_t j = 0; j < n; j += kLanes) {
    vf tile[kLanes];
#pragma GCC unroll 16
    for (int k = 0; k < kLanes; ++k) tile[k] = load(K + rows[k] * n + j);
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
