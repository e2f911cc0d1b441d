// What forward's kernels know of a warp's 16 queries besides the sums of values: the softmax, and what becomes of it.
#pragma once

#include "cross_attention.cuh"

namespace bdam {
namespace attention {

// The softmax of two rows of a warp's tile, row lane / 4 and 8 below, over what keys it has seen.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, total[2] = {};

  // Makes weights of scores, whose largest in this lane are given. shrink: what earlier weights are to be multiplied
  // by.
  template <int kTiles>
  BDAM_DEVICE void add(Tile (&s)[kTiles], int tiles, float (&here)[2], float (&shrink)[2]) {
    float origin[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float now = row_max(here[half]);
      // -inf, where no key is seen yet, can be subtracted from nothing.
      origin[half] = now == -INFINITY ? 0.0f : now;
      shrink[half] = exp2(largest[half] - origin[half]);
      largest[half] = now;
      total[half] *= shrink[half];
    }
    each_tile<kTiles>(tiles, [&](int j) {
      each_element(s[j], [&](float& x, int half, int) {
        x = exp2(x - origin[half]);
        total[half] += x;
      });
    });
  }
};

// Stores what forward made of the 16 queries from `first` on, and their logarithms, which may be absent.
template <class Type, class Parameters, int kHalves>
BDAM_DEVICE void store_softmax(const Parameters& p, const Place& place, const Softmax& softmax,
                               const Accumulator (&out)[kHalves], int first) {
  const int of = place.direction, queries = static_cast<int>(p.call.q[of].size[2]);
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float total = row_sum(softmax.total[half]);
    // NaN counts as a key; the largest score does not know of it.
    const bool has_key = total != 0;
    factor[half] = p.call.keep_scale / (has_key ? total : 1.0f);
    const int query = first + (lane_index() >> 2) + 8 * half;
    if (p.logs[of] && (lane_index() & 3) == 0 && query < queries) {
      place.row_numbers(p.logs[of])[query] = has_key ? softmax.largest[half] + log2(total) : INFINITY;
    }
  }
  store_rows(out, factor, place.rows<Type>(p.out[of]), first);
}

}  // namespace attention
}  // namespace bdam
