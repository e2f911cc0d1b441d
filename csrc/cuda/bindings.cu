#include <cuda_runtime.h>
#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

namespace {

// Name and compute capability of a device, as "NVIDIA H100 (9.0)".
std::string device_name(int device) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
  return std::string(properties.name) + " (" + std::to_string(properties.major) + "." +
         std::to_string(properties.minor) + ")";
}

}  // namespace

PYBIND11_MODULE(_cuda, m) { m.def("device_name", &device_name); }
