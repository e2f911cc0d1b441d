// The Python modules of the C++ kernels, one for each instruction set: compiled once, and linked to the kernels of each.
#include "../python.h"
#include "best_isa.h"
#include "kernels.h"

namespace {

PyMethodDef functions[] = {
    BDAM_FUNCTION(best_isa),
    bdam::python::of_objects("kinds", &bdam::python::kinds),
    bdam::python::of_objects("have_unit_strides", &bdam::python::have_unit_strides),
    bdam::python::of_objects("have_whole_rows", &bdam::python::have_whole_rows),
    BDAM_FUNCTION(selective_scan_forward),
    BDAM_FUNCTION(selective_scan_backward),
    BDAM_FUNCTION(causal_conv1d_forward),
    BDAM_FUNCTION(causal_conv1d_backward),
    BDAM_FUNCTION(cross_attention_forward),
    BDAM_FUNCTION(cross_attention_backward),
    BDAM_FUNCTION(pooled_cross_attention_forward),
    BDAM_FUNCTION(pooled_cross_attention_backward),
    BDAM_FUNCTION(hsic_forward),
    BDAM_FUNCTION(hsic_backward),
    BDAM_FUNCTION(hsic_gaussian_forward),
    BDAM_FUNCTION(hsic_gaussian_backward),
    BDAM_FUNCTION(hsic_permuted),
    {},
};

int initialise(PyObject* module) {
  if (bdam::python::find_torch(bdam::python::kDlCpu)) return -1;
  return PyModule_AddIntConstant(module, "lanes", bdam::lanes()) ||
                 PyModule_AddIntConstant(module, "pairs_bfloat16", bdam::pairs_bfloat16())
             ? -1
             : 0;
}

PyModuleDef_Slot slots[] = {{Py_mod_exec, reinterpret_cast<void*>(&initialise)}, {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_cpu", nullptr, 0, functions, slots, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__cpu_baseline() { return PyModuleDef_Init(&definition); }
PyMODINIT_FUNC PyInit__cpu_avx2() { return PyModuleDef_Init(&definition); }
PyMODINIT_FUNC PyInit__cpu_avx512() { return PyModuleDef_Init(&definition); }
PyMODINIT_FUNC PyInit__cpu_avx512_bf16() { return PyModuleDef_Init(&definition); }
