// Lets pybind11 functions take bdam::Tensor: Python passes (data_ptr, dtype code, shape, strides), or None if absent.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor.h"

namespace pybind11::detail {

template <>
struct type_caster<bdam::Tensor> {
  PYBIND11_TYPE_CASTER(bdam::Tensor, const_name("tuple[int, int, tuple[int, ...], tuple[int, ...]] | None"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    const auto fields = reinterpret_borrow<tuple>(source);
    const auto shape = reinterpret_borrow<tuple>(fields[2]);
    const auto strides = reinterpret_borrow<tuple>(fields[3]);
    if (shape.size() > bdam::Tensor::kMaxDims) return false;
    value.data = reinterpret_cast<void*>(fields[0].cast<uintptr_t>());
    value.dtype = static_cast<bdam::DType>(fields[1].cast<int>());
    value.dims = static_cast<int>(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) {
      value.size[i] = shape[i].cast<int64_t>();
      value.stride[i] = strides[i].cast<int64_t>();
    }
    return true;
  }
};

}  // namespace pybind11::detail
