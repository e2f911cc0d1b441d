// Everything of the GPU that the kernels of this folder may use. Under nvcc it is the GPU's own; the tests compile the
// same kernels for the host, with tests/cuda_host/primitives_host.h in its place, where every thread of a block is a
// fiber, collectives are meeting points, and shared memory is watched for races.
#pragma once

#include <cstdint>

#include "../arithmetic.h"
#include "../tensor.h"

#ifndef __CUDACC__
#include "primitives_host.h"
#else

#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <cooperative_groups.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#define BDAM_DEVICE __device__ __forceinline__
#define BDAM_KERNEL(threads, blocks_per_multiprocessor) \
  __global__ void __launch_bounds__(threads, blocks_per_multiprocessor)
#define BDAM_PARAMETER __grid_constant__ const

namespace bdam {

BDAM_DEVICE int thread_index() { return threadIdx.x; }
BDAM_DEVICE int block_index() { return blockIdx.x; }
BDAM_DEVICE int grid_size() { return gridDim.x; }

// x, of which the compiler knows nothing: what follows from it is not computed early and kept in registers.
BDAM_DEVICE int opaque(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Waits for all threads of the block; what they wrote to shared memory can then be read.
BDAM_DEVICE void barrier() { __syncthreads(); }

// The same for the 32 lanes of the warp.
BDAM_DEVICE void warp_barrier() { __syncwarp(); }

// Waits for all threads of all blocks of a kernel that was started by launch_together; what they wrote to memory can
// then be read.
BDAM_DEVICE void grid_barrier() { cooperative_groups::this_grid().sync(); }

// Adds 1 to a counter and returns what it was. Who comes later sees what this thread, and what had met it at a barrier,
// wrote before.
BDAM_DEVICE uint32_t take_ticket(uint32_t* counter) {
  uint32_t ticket;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;" : "=r"(ticket) : "l"(counter) : "memory");
  return ticket;
}

// The value of the lane whose index differs in the bits of mask. All 32 lanes take part; memory is not ordered by it.
BDAM_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// The value of lane 0, of which the compiler then knows that all lanes have it.
BDAM_DEVICE int of_first_lane(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// Bit l is whether the predicate of lane l holds. All 32 lanes take part.
BDAM_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(0xffffffffu, predicate); }

// Waits for all that this thread had copied to shared memory; after a barrier other threads can read it too.
BDAM_DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// The two halves of a product.
BDAM_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }

// 2^x, relative error 2^-22; results below the normal range are 0.
BDAM_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

BDAM_DEVICE float log2(float x) { return ::log2f(x); }

// a * b, rounded before anything is added to it.
BDAM_DEVICE float multiply_rounded(float a, float b) { return __fmul_rn(a, b); }

// a / b, relative error 2 ulp for b below 2^126.
BDAM_DEVICE float divide(float a, float b) { return __fdividef(a, b); }
// exp(x) - 1, accurate near 0.
BDAM_DEVICE float expm1(float x) { return ::expm1f(x); }

// The types of elements in memory: their bits, and what they mean.
struct F32 {
  using Bits = uint32_t;
  BDAM_DEVICE static float value(Bits bits) { return __uint_as_float(bits); }
  BDAM_DEVICE static Bits bits(float value) { return __float_as_uint(value); }
};
struct BF16 {
  using Bits = uint16_t;
  BDAM_DEVICE static float value(Bits bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
  BDAM_DEVICE static Bits bits(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
};
struct F16 {
  using Bits = uint16_t;
  BDAM_DEVICE static float value(Bits bits) { return __half2float(__ushort_as_half(bits)); }
  BDAM_DEVICE static Bits bits(float value) { return __half_as_ushort(__float2half_rn(value)); }
};

template <int K>
struct alignas(4 * K) Vec {
  float v[K];
};

struct alignas(16) Words {
  uint32_t w[4];
};

// `count` floats of the block's shared memory, from float `offset` on.
class Shared {
 public:
  BDAM_DEVICE Shared(int offset, int /*count*/) : data_(memory() + offset) {}
  BDAM_DEVICE float load(int i) const { return data_[i]; }
  BDAM_DEVICE void store(int i, float value) const { data_[i] = value; }
  // K floats from i on, a multiple of K.
  template <int K>
  BDAM_DEVICE Vec<K> load(int i) const {
    return *reinterpret_cast<const Vec<K>*>(data_ + i);
  }
  template <int K>
  BDAM_DEVICE void store(int i, Vec<K> value) const {
    *reinterpret_cast<Vec<K>*>(data_ + i) = value;
  }

  // Copies 16 bytes to float i, a multiple of 4, while the thread goes on; zeros instead of what does not exist.
  BDAM_DEVICE void copy_async(int i, const void* from, bool exists) const {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(i)), "l"(from), "r"(exists ? 16 : 0)
                 : "memory");
  }

  // Four 8 x 8 matrices of 16-bit elements (or 8 x 4 of 32-bit ones), of which lane 8 m + r gives where row r of matrix
  // m starts. Lane l gets of each the word l % 4 of row l / 4, or, transposed, rows 2 (l % 4) and the next of column
  // l / 4. All 32 lanes take part.
  template <bool kTransposed>
  BDAM_DEVICE Words load_matrices(int i) const {
    Words x;
    if constexpr (kTransposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3])
                   : "r"(address(i))
                   : "memory");
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x.w[0]), "=r"(x.w[1]), "=r"(x.w[2]), "=r"(x.w[3])
                   : "r"(address(i))
                   : "memory");
    }
    return x;
  }

  BDAM_DEVICE uint32_t address(int i) const { return static_cast<uint32_t>(__cvta_generic_to_shared(data_ + i)); }

 private:
  BDAM_DEVICE static float* memory() {
    extern __shared__ __align__(1024) float4 bdam_shared_memory[];
    return reinterpret_cast<float*>(bdam_shared_memory);
  }
  float* data_;
};

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// What ask(the current device) said of something when it was first asked: asking takes microseconds.
template <class Ask>
int remembered(const void* something, Ask ask) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, int> known;
  int device = 0;
  check(cudaGetDevice(&device), "device");
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({something, device});
  return found != known.end() ? found->second : known[{something, device}] = ask(device);
}

// Of the current device.
template <cudaDeviceAttr kAttribute>
int attribute() {
  static const char key = 0;
  return remembered(&key, [](int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, kAttribute, device), "device");
    return value;
  });
}
inline int multiprocessors() { return attribute<cudaDevAttrMultiProcessorCount>(); }
// Whether it has wgmma, which Hopper alone has.
inline bool has_warpgroups() { return attribute<cudaDevAttrComputeCapabilityMajor>() == 9; }
// Floats of shared memory that a block may have.
inline int64_t shared_floats_of_device() {
  return attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>() / static_cast<int64_t>(sizeof(float));
}

// Starts a kernel on a stream of the current device. Throws std::runtime_error if it cannot start.
template <class Parameters>
void launch(void (*kernel)(const Parameters), int64_t blocks, int threads, int shared_floats,
            const Parameters& parameters, int64_t stream) {
  if (blocks > INT32_MAX) throw std::runtime_error("too many blocks for one launch: " + std::to_string(blocks));
  const int bytes = shared_floats * static_cast<int>(sizeof(float));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
  kernel<<<static_cast<unsigned>(blocks), threads, bytes, reinterpret_cast<cudaStream_t>(stream)>>>(parameters);
  check(cudaGetLastError(), "kernel launch");
}

// The same for a kernel with barriers of the grid: all of its blocks, `most` or as many as the device has room for, are
// there at once. It is asked for room once, which takes longer than a launch; so a kernel always comes with the same
// threads and shared memory.
template <class Parameters>
void launch_together(void (*kernel)(const Parameters), int64_t most, int threads, int shared_floats,
                     const Parameters& parameters, int64_t stream) {
  const int bytes = shared_floats * static_cast<int>(sizeof(float));
  const auto* entry = reinterpret_cast<const void*>(kernel);
  const int64_t room = static_cast<int64_t>(multiprocessors()) * remembered(entry, [&](int) {
    int blocks_each = 0;
    check(cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory");
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_each, entry, threads, bytes), "occupancy");
    return blocks_each;
  });
  const unsigned blocks = static_cast<unsigned>(most < room ? most : room);
  void* arguments[] = {const_cast<Parameters*>(&parameters)};
  check(cudaLaunchCooperativeKernel(entry, blocks, threads, arguments, bytes, reinterpret_cast<cudaStream_t>(stream)),
        "kernel launch");
}

}  // namespace bdam
#endif

namespace bdam {

// Floats of shared memory that a block has on every chip that we build for: 99 KiB, of sm_120.
constexpr int kSharedFloats = 99 * 256;

// use(F32()), use(BF16()) or use(F16()): once for a whole loop, which then has no branch on the dtype.
template <class Use>
BDAM_DEVICE void with_type(DType dtype, Use use) {
  if (dtype == DType::f32) {
    use(F32());
  } else if (dtype == DType::bf16) {
    use(BF16());
  } else {
    use(F16());
  }
}

}  // namespace bdam
