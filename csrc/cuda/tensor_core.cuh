// Products of small matrices that the lanes of a warp hold together, in the layout of the GPU's mma instructions. With
// g = lane / 4 and t = lane % 4: an accumulator (16 x 8) has the elements (g, 2 t), (g, 2 t + 1), (g + 8, 2 t) and
// (g + 8, 2 t + 1) of its lane. A step of the contraction is 32 bytes of elements: 16 of 16 bits, or 8 of 32.
#pragma once

#include "primitives.cuh"

namespace bdam {

// The left operand, 16 x kStep: two words of rows g and g + 8 each, in the order that Shared::load_matrices gives.
using Left = Words;
// The right operand, kStep x 8: two words of column g.
struct Right {
  uint32_t w[2];
};
struct Accumulator {
  float v[4] = {};
};

}  // namespace bdam

#ifndef __CUDACC__
#include "tensor_core_host.h"
#else

namespace bdam {

// Two floats as neighbouring 16-bit elements, the first one in the lower half.
BDAM_DEVICE uint32_t pack(BF16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
BDAM_DEVICE uint32_t pack(F16, float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// x in TensorFloat-32, 11 significant bits.
BDAM_DEVICE float rounded_to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

// c += a b. All 32 lanes take part.
#define BDAM_MMA(instruction)                                                                            \
  asm volatile("mma.sync.aligned." instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
      : "+f"(c.v[0]), "+f"(c.v[1]), "+f"(c.v[2]), "+f"(c.v[3])                                           \
      : "r"(a.w[0]), "r"(a.w[1]), "r"(a.w[2]), "r"(a.w[3]), "r"(b.w[0]), "r"(b.w[1]))
BDAM_DEVICE void multiply(BF16, Accumulator& c, Left a, Right b) { BDAM_MMA("m16n8k16.row.col.f32.bf16.bf16.f32"); }
BDAM_DEVICE void multiply(F16, Accumulator& c, Left a, Right b) { BDAM_MMA("m16n8k16.row.col.f32.f16.f16.f32"); }
BDAM_DEVICE void multiply_tf32(Accumulator& c, Left a, Right b) { BDAM_MMA("m16n8k8.row.col.f32.tf32.tf32.f32"); }
#undef BDAM_MMA

}  // namespace bdam
#endif

namespace bdam {

// The part of every word that TensorFloat-32 holds, and in `rest` what is left, rounded likewise.
template <class Operand>
BDAM_DEVICE Operand split(Operand x, Operand& rest) {
  Operand large;
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof x.w / sizeof x.w[0]); ++i) {
    const float value = F32::value(x.w[i]), part = rounded_to_tf32(value);
    large.w[i] = F32::bits(part);
    rest.w[i] = F32::bits(rounded_to_tf32(value - part));
  }
  return large;
}

// The same in float32: three products in TensorFloat-32, relative error of a term 2^-21.
BDAM_DEVICE void multiply(F32, Accumulator& c, Left a, Right b) {
  Left a_rest;
  Right b_rest;
  const Left a_large = split(a, a_rest);
  const Right b_large = split(b, b_rest);
  multiply_tf32(c, a_rest, b_large);
  multiply_tf32(c, a_large, b_rest);
  multiply_tf32(c, a_large, b_large);
}

}  // namespace bdam
