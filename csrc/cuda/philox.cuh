// Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
#pragma once

#include "primitives.cuh"

namespace bdam {

// Replaces the counter's four words by four random words.
BDAM_DEVICE void philox(uint32_t (&word)[4], uint32_t key0, uint32_t key1) {
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = multiply_high(word[0], 0xd2511f53u), low0 = word[0] * 0xd2511f53u;
    const uint32_t high2 = multiply_high(word[2], 0xcd9e8d57u), low2 = word[2] * 0xcd9e8d57u;
    word[0] = high2 ^ word[1] ^ key0;
    word[1] = low2;
    word[2] = high0 ^ word[3] ^ key1;
    word[3] = low0;
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
}

}  // namespace bdam
