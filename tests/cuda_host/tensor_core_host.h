// csrc/cuda/tensor_core.cuh for the host: products by the definition, in float32.
#pragma once

#include "primitives_host.h"

namespace bdam {
namespace host {

// What a lane brings to a product.
struct Operands {
  Accumulator* c;
  Left a;
  Right b;
};

// Element k of a word that holds elements of a type.
template <class Type>
float element(uint32_t word, int k) {
  constexpr int bits = 8 * sizeof(typename Type::Bits);
  return Type::value(static_cast<typename Type::Bits>(word >> (k * bits % 32)));
}

// Type: of the elements. A step is 8 words long: lane t of a row has the words t and t + 4.
template <class Type>
void multiply_warp(void* const (&lanes)[32]) {
  constexpr int kInWord = 4 / sizeof(typename Type::Bits), kStep = 8 * kInWord;
  float a[16][kStep], b[8][kStep];
  for (int lane = 0; lane < 32; ++lane) {
    const Operands& x = *static_cast<Operands*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int k = 0; k < kInWord; ++k) {
      for (int half = 0; half < 2; ++half) {
        const int at = (t + 4 * half) * kInWord + k;
        a[g][at] = element<Type>(x.a.w[2 * half], k);
        a[g + 8][at] = element<Type>(x.a.w[2 * half + 1], k);
        b[g][at] = element<Type>(x.b.w[half], k);
      }
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    Accumulator& c = *static_cast<Operands*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int k = 0; k < kStep; ++k) sum += a[row][k] * b[column][k];
      c.v[i] += sum;
    }
  }
}

template <class Type>
void multiply_on_host(Accumulator& c, const Left& a, const Right& b, int line) {
  Operands mine{&c, a, b};
  meet_in_warp(&mine, multiply_warp<Type>, line);
}

}  // namespace host

template <class Type>
uint32_t pack(Type, float low, float high) {
  return Type::bits(low) | static_cast<uint32_t>(Type::bits(high)) << 16;
}

inline float rounded_to_tf32(float x) { return x - x != 0 ? x : F32::value((F32::bits(x) + 0x1000) & ~0x1fffu); }

inline void multiply(BF16, Accumulator& c, Left a, Right b, int line = __builtin_LINE()) {
  host::multiply_on_host<BF16>(c, a, b, line);
}
inline void multiply(F16, Accumulator& c, Left a, Right b, int line = __builtin_LINE()) {
  host::multiply_on_host<F16>(c, a, b, line);
}
inline void multiply_tf32(Accumulator& c, Left a, Right b, int line = __builtin_LINE()) {
  host::multiply_on_host<F32>(c, a, b, line);
}

}  // namespace bdam
