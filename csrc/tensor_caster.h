// Lets pybind11 functions take bdam::Tensor: Python passes a torch tensor, or None if it is absent. What a kernel needs
// of it is asked for by name, as in Python, so that this too includes no header of torch and serves all its versions.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "tensor.h"

namespace bdam {

// Names and dtypes of torch, looked up once and kept until the process ends.
struct Torch {
  pybind11::str data_ptr = intern("data_ptr"), dtype = intern("dtype"), shape = intern("shape");
  pybind11::str stride = intern("stride");
  pybind11::object dtypes[4] = {of("float32"), of("bfloat16"), of("float16"), of("bool")};  // as DType has them

  static pybind11::str intern(const char* name) {
    return pybind11::reinterpret_steal<pybind11::str>(PyUnicode_InternFromString(name));
  }
  static pybind11::object of(const char* name) { return pybind11::module_::import("torch").attr(name); }

  static const Torch& get() {
    static const Torch* torch = new Torch();
    return *torch;
  }

  DType code(pybind11::handle tensor) const {
    const pybind11::object type = tensor.attr(dtype);
    for (int i = 0; i < 4; ++i)
      if (type.is(dtypes[i])) return static_cast<DType>(i);
    throw pybind11::type_error("kernels do not take " + std::string(pybind11::str(type)));
  }
};

inline pybind11::object checked(PyObject* result) {
  if (!result) throw pybind11::error_already_set();
  return pybind11::reinterpret_steal<pybind11::object>(result);
}

}  // namespace bdam

namespace pybind11::detail {

template <>
struct type_caster<bdam::Tensor> {
  PYBIND11_TYPE_CASTER(bdam::Tensor, const_name("torch.Tensor | None"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    const auto& torch = bdam::Torch::get();
    const object pointer = bdam::checked(PyObject_CallMethodNoArgs(source.ptr(), torch.data_ptr.ptr()));
    const object shape = bdam::checked(PyObject_GetAttr(source.ptr(), torch.shape.ptr()));
    const object strides = bdam::checked(PyObject_CallMethodNoArgs(source.ptr(), torch.stride.ptr()));
    const auto dims = PyTuple_GET_SIZE(shape.ptr());
    if (dims > bdam::Tensor::kMaxDims) return false;
    value.data = PyLong_AsVoidPtr(pointer.ptr());
    value.dtype = torch.code(source);
    value.dims = static_cast<int>(dims);
    for (Py_ssize_t i = 0; i < dims; ++i) {
      value.size[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(shape.ptr(), i));
      value.stride[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(strides.ptr(), i));
    }
    return true;
  }
};

}  // namespace pybind11::detail
