// Arithmetic that kernels for processors and for GPUs share. Not "math.h": where this folder is on an include path, the
// standard library would take it for its own.
#pragma once

#include "tensor.h"

namespace bdam {

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

// The least n such that n b >= a, for a >= 0 and b > 0.
template <class Int = int64_t>
BDAM_EVERYWHERE constexpr Int ceil_divide(int64_t a, int64_t b) {
  return static_cast<Int>((a + b - 1) / b);
}

}  // namespace bdam
