// A tensor as the kernels see it: a pointer, a dtype, sizes and strides. No torch header is included anywhere, so that
// one build serves every version of torch; bdam_kernels/dispatch.py hands over from torch tensors.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define BDAM_EVERYWHERE __host__ __device__
#else
#define BDAM_EVERYWHERE
#endif

namespace bdam {

enum class DType : int { f32 = 0, bf16 = 1, f16 = 2, u8 = 3 };

struct Tensor {
  static constexpr int kMaxDims = 4;

  void* data = nullptr;  // nullptr is an absent optional tensor
  DType dtype = DType::f32;
  int dims = 0;
  int64_t size[kMaxDims] = {};
  int64_t stride[kMaxDims] = {};  // in elements

  BDAM_EVERYWHERE explicit operator bool() const { return data != nullptr; }
  template <class T>
  BDAM_EVERYWHERE T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace bdam
