// Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), kLanes counters at a time.
#pragma once

#include "simd.h"

namespace bdam {

// The 64-bit product of every lane with a constant, in two halves.
inline void multiply_wide(vu a, uint32_t constant, vu& high, vu& low) {
  typedef uint64_t vl __attribute__((vector_size(kVectorBytes)));
  const vl even = (bitcast<vl>(a) & 0xffffffffu) * constant;
  const vl odd = (bitcast<vl>(a) >> 32) * constant;
  low = bitcast<vu>((even & 0xffffffffu) | (odd << 32));
  high = bitcast<vu>((even >> 32) | (odd & 0xffffffff00000000u));
}

// Replaces the counter's four words by four random words.
inline void philox(vu (&word)[4], uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key), key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    vu high0, low0, high2, low2;
    multiply_wide(word[0], 0xd2511f53u, high0, low0);
    multiply_wide(word[2], 0xcd9e8d57u, high2, low2);
    word[0] = high2 ^ word[1] ^ key0;
    word[1] = low2;
    word[2] = high0 ^ word[3] ^ key1;
    word[3] = low0;
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
}

}  // namespace bdam
