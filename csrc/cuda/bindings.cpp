#include <pybind11/pybind11.h>

#include "../tensor_caster.h"
#include "kernels.h"

PYBIND11_MODULE(_cuda, m) {
  const auto unlocked = pybind11::call_guard<pybind11::gil_scoped_release>();
  m.attr("device") = bdam::kDevice;
  m.def("cross_attention_forward", &bdam::cross_attention_forward, unlocked);
  m.def("cross_attention_backward", &bdam::cross_attention_backward, unlocked);
  m.def("pooled_cross_attention_forward", &bdam::pooled_cross_attention_forward, unlocked);
  m.def("pooled_cross_attention_backward", &bdam::pooled_cross_attention_backward, unlocked);
  m.def("hsic_linear_workspace", &bdam::hsic_linear_workspace);
  m.def("hsic_linear", &bdam::hsic_linear, unlocked);
  m.def("selective_scan_block_channels", &bdam::selective_scan_block_channels);
  m.def("selective_scan_states", &bdam::selective_scan_states, unlocked);
  m.def("selective_scan_forward", &bdam::selective_scan_forward, unlocked);
  m.def("selective_scan_adjoints", &bdam::selective_scan_adjoints, unlocked);
  m.def("selective_scan_backward", &bdam::selective_scan_backward, unlocked);
  m.def("selective_scan_sums", &bdam::selective_scan_sums, unlocked);
}
