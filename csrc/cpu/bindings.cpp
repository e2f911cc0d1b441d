#include <pybind11/pybind11.h>

#include "../tensor_caster.h"
#include "kernels.h"
#include "simd.h"

#define BDAM_CONCAT_(a, b) a##b
#define BDAM_CONCAT(a, b) BDAM_CONCAT_(a, b)

namespace py = pybind11;

namespace {

// The largest instruction set of CMakeLists.txt that this processor runs.
const char* best_isa() {
#ifdef __x86_64__
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return __builtin_cpu_supports("avx512bf16") ? "avx512_bf16" : "avx512";
  if (avx2) return "avx2";
#endif
  return "baseline";
}

}  // namespace

PYBIND11_MODULE(BDAM_CONCAT(_cpu_, BDAM_ISA), m) {
  const auto unlocked = py::call_guard<py::gil_scoped_release>();
  m.def("best_isa", &best_isa);
  m.attr("lanes") = bdam::kLanes;
  m.def("selective_scan_forward", &bdam::selective_scan_forward, unlocked);
  m.def("selective_scan_backward", &bdam::selective_scan_backward, unlocked);
  m.def("causal_conv1d_forward", &bdam::causal_conv1d_forward, unlocked);
  m.def("causal_conv1d_backward", &bdam::causal_conv1d_backward, unlocked);
  m.def("cross_attention_forward", &bdam::cross_attention_forward, unlocked);
  m.def("cross_attention_backward", &bdam::cross_attention_backward, unlocked);
  m.def("pooled_cross_attention_forward", &bdam::pooled_cross_attention_forward, unlocked);
  m.def("pooled_cross_attention_backward", &bdam::pooled_cross_attention_backward, unlocked);
  m.def("hsic_forward", &bdam::hsic_forward, unlocked);
  m.def("hsic_backward", &bdam::hsic_backward, unlocked);
  m.def("hsic_gaussian_forward", &bdam::hsic_gaussian_forward, unlocked);
  m.def("hsic_gaussian_backward", &bdam::hsic_gaussian_backward, unlocked);
}
