// Kernels as Python functions of torch tensors, or None where one is absent, and of numbers. A tensor is read through
// DLPack's C interface, which PyTorch has since 2.10: it takes some nanoseconds, and one build serves every version.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <algorithm>
#include <climits>
#include <exception>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "tensor.h"

namespace bdam::python {

// Of dlpack.h, version 1.3: a view of a tensor, and the functions that torch.Tensor offers.
struct DlTensor {
  void* data;
  int32_t device_type, device_index, dims;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  const int64_t *size, *stride;
  uint64_t byte_offset;
};
struct DlExchange {
  uint32_t major, minor;
  const DlExchange* previous_version;
  void *allocate, *from_python, *to_python;
  int (*view)(PyObject* tensor, DlTensor* view);  // other than 0 with Python's error set
  void* current_stream;
};
enum DlDevice : int32_t { kDlCpu = 1, kDlCuda = 2 };

inline const DlExchange* torch_tensors;
inline PyTypeObject *tensor_type, *parameter_type;
inline DlDevice device_of_kernels;

struct ErrorIsSet {};  // thrown where Python's error is set

template <class... Values>
[[noreturn]] void raise(PyObject* type, const char* format, Values... values) {
  PyErr_Format(type, format, values...);
  throw ErrorIsSet();
}

inline DType dtype_of(const DlTensor& t) {
  enum { kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
  const auto is = [&](int code, int bits) { return t.type_code == code && t.type_bits == bits && t.type_lanes == 1; };
  if (is(kFloat, 32)) return DType::f32;
  if (is(kBfloat, 16)) return DType::bf16;
  if (is(kFloat, 16)) return DType::f16;
  if (is(kBool, 8) || is(kUInt, 8)) return DType::u8;
  raise(PyExc_TypeError, "kernels take float32, bfloat16, float16 and bool, got DLPack's type %d of %d bits",
        t.type_code, t.type_bits);
}

inline void convert(PyObject* object, Tensor& to) {
  if (object == Py_None) return;
  DlTensor from;
  if (torch_tensors->view(object, &from)) throw ErrorIsSet();
  if (from.device_type != device_of_kernels)
    raise(PyExc_ValueError, "kernels take tensors on DLPack's device %d, got one on %d", device_of_kernels,
          from.device_type);
  if (from.dims > Tensor::kMaxDims)
    raise(PyExc_ValueError, "kernels take at most %d dimensions, got %d", Tensor::kMaxDims, from.dims);
  int64_t count = 1;
  for (int i = 0; i < from.dims; ++i) {
    to.size[i] = from.size[i];
    to.stride[i] = from.stride[i];
    count *= from.size[i];
  }
  if (!from.data && count) raise(PyExc_ValueError, "kernels take tensors with memory, got one without");
  to.data = static_cast<char*>(from.data) + from.byte_offset;
  to.dtype = dtype_of(from);
  to.dims = from.dims;
}

inline void convert(PyObject* object, int64_t& to) {
  to = PyLong_AsLongLong(object);
  if (to == -1 && PyErr_Occurred()) throw ErrorIsSet();
}

inline void convert(PyObject* object, int& to) {
  int64_t wide;
  convert(object, wide);
  if (wide < INT_MIN || wide > INT_MAX) raise(PyExc_OverflowError, "kernels take 32 bits here, got %R", object);
  to = static_cast<int>(wide);
}

inline void convert(PyObject* object, double& to) {
  to = PyFloat_AsDouble(object);
  if (to == -1.0 && PyErr_Occurred()) throw ErrorIsSet();
}

inline void convert(PyObject* object, float& to) {
  double wide;
  convert(object, wide);
  to = static_cast<float>(wide);
}

inline void convert(PyObject* object, bool& to) {
  const int truth = PyObject_IsTrue(object);
  if (truth < 0) throw ErrorIsSet();
  to = truth;
}

inline void convert(PyObject* object, std::string& to) {
  const char* text = PyUnicode_AsUTF8(object);
  if (!text) throw ErrorIsSet();
  to = text;
}

inline PyObject* to_python(int64_t value) { return PyLong_FromLongLong(value); }
inline PyObject* to_python(const char* value) { return PyUnicode_FromString(value); }

using OfObjects = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t) noexcept;

inline PyMethodDef of_objects(const char* name, OfObjects function) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(function)), METH_FASTCALL, nullptr};
}

// Lets other threads of Python run while a kernel does.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() { PyEval_RestoreThread(state_); }

 private:
  PyThreadState* const state_;
};

template <auto function, class Signature = decltype(function)>
struct Bound;

template <auto function, class Result, class... Parameters>
struct Bound<function, Result (*)(Parameters...)> {
  using Arguments = std::tuple<std::decay_t<Parameters>...>;
  static constexpr Py_ssize_t kCount = sizeof...(Parameters);

  template <size_t... i>
  static void convert_all(PyObject* const* objects, Arguments& arguments, std::index_sequence<i...>) {
    (convert(objects[i], std::get<i>(arguments)), ...);
  }

  static PyObject* call(PyObject*, PyObject* const* objects, Py_ssize_t count) noexcept {
    if (count != kCount) return PyErr_Format(PyExc_TypeError, "expected %zd arguments, got %zd", kCount, count);
    try {
      Arguments arguments;
      convert_all(objects, arguments, std::index_sequence_for<Parameters...>());
      if constexpr (std::is_void_v<Result>) {
        {
          const Unlocked unlocked;
          std::apply(function, arguments);
        }
        Py_RETURN_NONE;
      } else {
        return to_python(std::apply(function, arguments));
      }
    } catch (const ErrorIsSet&) {
      return nullptr;
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
      return nullptr;
    }
  }

  static PyMethodDef named(const char* name) { return of_objects(name, &call); }
};

// An entry of a module's table of functions.
#define BDAM_FUNCTION(name) bdam::python::Bound<&bdam::name>::named(#name)

// Views an object that is one of torch's own tensors, no subclass; false for another, or if it has no memory.
inline bool view_plain(PyObject* object, DlTensor& view) {
  if (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type) return false;
  if (!torch_tensors->view(object, &view)) return true;
  PyErr_Clear();
  return false;
}

inline bool has_unit_stride(const DlTensor& t) { return t.dims && t.stride[t.dims - 1] == 1; }

// Of tensors and None: all that an operator's checks depend on, as bytes that are equal where it is. None if one of
// them is no plain tensor of few dimensions.
inline PyObject* kinds(PyObject*, PyObject* const* objects, Py_ssize_t count) noexcept {
  constexpr Py_ssize_t kMost = 16;
  int64_t facts[kMost * (2 + Tensor::kMaxDims)];
  if (count > kMost) Py_RETURN_NONE;
  int64_t* end = facts;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (objects[i] == Py_None) {
      *end++ = -1;
      continue;
    }
    DlTensor t;
    if (!view_plain(objects[i], t) || t.dims > Tensor::kMaxDims) Py_RETURN_NONE;
    *end++ = t.dims | t.type_code << 8 | t.type_bits << 16 | int64_t{t.type_lanes} << 24 |
             int64_t{has_unit_stride(t)} << 40;
    *end++ = int64_t{t.device_type} << 32 | static_cast<uint32_t>(t.device_index);
    end = std::copy(t.size, t.size + t.dims, end);
  }
  return PyBytes_FromStringAndSize(reinterpret_cast<const char*>(facts), (end - facts) * sizeof *facts);
}

// Whether all of these are plain tensors with adjacent elements in their last dimension.
inline PyObject* have_unit_strides(PyObject*, PyObject* const* objects, Py_ssize_t count) noexcept {
  DlTensor t;
  for (Py_ssize_t i = 0; i < count; ++i)
    if (!view_plain(objects[i], t) || !has_unit_stride(t)) Py_RETURN_FALSE;
  Py_RETURN_TRUE;
}

// Whether rows of the last dimension start at multiples of 16 bytes in all of these plain tensors, and are as wide.
inline PyObject* have_whole_rows(PyObject*, PyObject* const* objects, Py_ssize_t count) noexcept {
  DlTensor t;
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!view_plain(objects[i], t) || !has_unit_stride(t)) Py_RETURN_FALSE;
    const int64_t bytes = t.type_bits / 8;
    int64_t apart = (reinterpret_cast<int64_t>(t.data) + static_cast<int64_t>(t.byte_offset)) | t.size[t.dims - 1] * bytes;
    for (int dim = 0; dim + 1 < t.dims; ++dim) apart |= t.size[dim] > 1 ? t.stride[dim] * bytes : 0;
    if (apart % 16) Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

// Finds torch's interface when a module is imported; -1 with Python's error set if there is none.
inline int find_torch(DlDevice device) {
  device_of_kernels = device;
  PyObject* torch = PyImport_ImportModule("torch");
  PyObject* type = torch ? PyObject_GetAttrString(torch, "Tensor") : nullptr;
  PyObject* nn = type ? PyObject_GetAttrString(torch, "nn") : nullptr;
  PyObject* parameter = nn ? PyObject_GetAttrString(nn, "Parameter") : nullptr;
  PyObject* capsule = parameter ? PyObject_GetAttrString(type, "__dlpack_c_exchange_api__") : nullptr;
  if (capsule) {
    torch_tensors = static_cast<const DlExchange*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    while (torch_tensors && torch_tensors->major != 1) torch_tensors = torch_tensors->previous_version;
  }
  Py_XDECREF(capsule);
  Py_XDECREF(nn);
  Py_XDECREF(torch);
  // The types are kept for good.
  tensor_type = reinterpret_cast<PyTypeObject*>(type);
  parameter_type = reinterpret_cast<PyTypeObject*>(parameter);
  if (torch_tensors) return 0;
  if (parameter) PyErr_SetString(PyExc_ImportError, "this torch has no DLPack interface of version 1; 2.11 and later have");
  return -1;
}

}  // namespace bdam::python
