// Sums over the lanes of a warp.
#pragma once

#include "primitives.cuh"

namespace bdam {

// Sums of kCount values over the lanes that differ in the bits from kLow up to kHigh (powers of two), divided among
// those lanes: a lane ends with the totals v[0 ...] of what were v[first ...]; returns first. Where the lanes outnumber
// the values, neighbours end with the same total.
template <int kHigh, int kLow, int kCount>
BDAM_DEVICE int reduce_scatter(float (&v)[kCount], int first = 0) {
  if constexpr (kHigh < kLow) {
    return first;
  } else if constexpr (kCount == 1) {
    v[0] += shuffle_xor(v[0], kHigh);
    return reduce_scatter<kHigh / 2, kLow>(v, first);
  } else {
    constexpr int kHalf = kCount / 2;
    const bool upper = thread_index() & kHigh;
    float half[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float sent = upper ? v[i] : v[i + kHalf], kept = upper ? v[i + kHalf] : v[i];
      half[i] = kept + shuffle_xor(sent, kHigh);
    }
    const int index = reduce_scatter<kHigh / 2, kLow>(half, first + (upper ? kHalf : 0));
#pragma unroll
    for (int i = 0; i < kHalf; ++i) v[i] = half[i];
    return index;
  }
}

// visit(i, total) for every of the kCount sums over `kLanes` neighbouring lanes (kLow apart) that falls to this lane.
template <int kLanes, int kLow, int kCount, class Visit>
BDAM_DEVICE void sum_over_lanes(float (&v)[kCount], Visit visit) {
  const int first = reduce_scatter<kLow * kLanes / 2, kLow>(v);
  constexpr int kSharers = kLanes > kCount ? kLanes / kCount : 1, kOwn = kLanes > kCount ? 1 : kCount / kLanes;
  if (thread_index() / kLow % kSharers) return;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) visit(first + i, v[i]);
}

}  // namespace bdam
