// The Python module of the CUDA kernels.
#include "../python.h"
#include "kernels.h"

namespace {

PyMethodDef functions[] = {
    BDAM_FUNCTION(cross_attention_forward),
    BDAM_FUNCTION(cross_attention_backward),
    BDAM_FUNCTION(hsic_linear_workspace),
    BDAM_FUNCTION(hsic_linear_forward),
    BDAM_FUNCTION(hsic_linear_backward),
    BDAM_FUNCTION(selective_scan_block_channels),
    BDAM_FUNCTION(selective_scan_states),
    BDAM_FUNCTION(selective_scan_forward),
    BDAM_FUNCTION(selective_scan_adjoints),
    BDAM_FUNCTION(selective_scan_backward),
    BDAM_FUNCTION(selective_scan_sums),
    {},
};

int initialise(PyObject* module) {
  const bool on_host = std::string(bdam::kDevice) == "cpu";
  if (bdam::python::find_torch(on_host ? bdam::python::kDlCpu : bdam::python::kDlCuda)) return -1;
  return PyModule_AddStringConstant(module, "device", bdam::kDevice);
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&initialise)}, {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cuda", nullptr, 0, functions, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cuda() { return PyModuleDef_Init(&definition); }
