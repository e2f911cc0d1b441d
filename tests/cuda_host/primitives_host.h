// csrc/cuda/primitives.cuh for the host: runs CUDA kernels on the CPU to prove them. Every thread of a block is a
// fiber. Barriers and shuffles are meeting points; one that not all threads reach, or that they reach in different
// places of the program, is an error, as are reads of shared memory that nothing wrote, accesses outside of an array,
// misaligned vectors, and two accesses by different threads, one of them a write, with no barrier of the block or the
// warp in between. Blocks run one after the other, the last one first, so that a kernel that counts on their order
// fails; those of a kernel with barriers of the grid run in this way from barrier to barrier.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tensor.h"

#define BDAM_DEVICE inline
#define BDAM_KERNEL(threads, blocks_per_multiprocessor) void
#define BDAM_PARAMETER const

namespace bdam {

namespace host {

int thread_index();
int block_index();
int grid_size();
void grid_barrier(int line);
void barrier(int line);
void warp_barrier(int line);
float shuffle_xor(float value, int mask, int line);
// Waits until all 32 lanes of the warp have come to the same call; all(lanes) then does for the warp what it does, with
// what each lane brought.
void meet_in_warp(void* mine, void (*all)(void* const (&lanes)[32]), int line);
// Address of floats [offset + i, offset + i + width) of shared memory, after the checks above.
float* shared(int offset, int count, int i, int width, bool write);
// Like a write to 4 floats of shared memory that takes place when the thread next waits for its copies; until then,
// nobody may touch them. from: null copies zeros.
void copy_async(int offset, int count, int i, const void* from);
void wait_for_copies();
// A product of 64 rows on the left, 16 for each of a warpgroup's 4 warps, as wgmma has them, contracted over 16 elements of
// 16 bits: rows in shared memory begin at floats that are multiples of 256, are 32 floats long, and their pieces of 4
// floats are permuted.
struct GroupProduct {
  float* c;     // of this lane
  int columns;  // of c
  bool adds;
  bool over_rows;     // of the right operand, 16 rows of 64; else it is as many rows as c has columns
  int left_at;        // its first row, or -1 where it is in registers
  int right_at, step;  // step: which 16 elements of the rows
  uint32_t left[4];
  float (*value)(uint16_t);
};
// For the warpgroup's next wait_for_group_products, at which all of its threads meet, with the same products.
void add_group_product(const GroupProduct& product);
// What this thread wrote to shared memory can be read by products after a barrier; before, they may miss it.
void show_to_products();
void wait_for_group_products();
// Runs body once for every thread of every block, with all blocks there at once if `together`. Throws
// std::runtime_error for what is wrong with the kernel.
void run(int64_t blocks, int threads, int shared_floats, bool together, const std::function<void()>& body);

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace host

inline int thread_index() { return host::thread_index(); }
inline int block_index() { return host::block_index(); }
inline int grid_size() { return host::grid_size(); }
inline void grid_barrier(int line = __builtin_LINE()) { host::grid_barrier(line); }
inline uint32_t take_ticket(uint32_t* counter) { return (*counter)++; }
inline int min(int a, int b) { return b < a ? b : a; }
inline int opaque(int x) { return x; }
inline void barrier(int line = __builtin_LINE()) { host::barrier(line); }
inline void warp_barrier(int line = __builtin_LINE()) { host::warp_barrier(line); }
inline float shuffle_xor(float value, int mask, int line = __builtin_LINE()) {
  return host::shuffle_xor(value, mask, line);
}
inline int of_first_lane(int value, int line = __builtin_LINE()) {
  const auto spread = [](void* const(&lanes)[32]) {
    for (void* lane : lanes) *static_cast<int*>(lane) = *static_cast<int*>(lanes[0]);
  };
  host::meet_in_warp(&value, spread, line);
  return value;
}

inline uint32_t ballot(bool predicate, int line = __builtin_LINE()) {
  uint32_t bits = predicate;
  const auto gather = [](void* const(&lanes)[32]) {
    uint32_t all = 0;
    for (int lane = 0; lane < 32; ++lane) all |= *static_cast<uint32_t*>(lanes[lane]) << lane;
    for (void* lane : lanes) *static_cast<uint32_t*>(lane) = all;
  };
  host::meet_in_warp(&bits, gather, line);
  return bits;
}
inline void wait_for_copies() { host::wait_for_copies(); }
inline uint32_t multiply_high(uint32_t a, uint32_t b) { return static_cast<uint64_t>(a) * b >> 32; }

inline float exp2(float x) { return std::exp2(x); }
inline float log2(float x) { return std::log2(x); }
inline float divide(float a, float b) { return a / b; }
inline float multiply_rounded(float a, float b) { return a * b; }
inline float expm1(float x) { return std::expm1(x); }

struct F32 {
  using Bits = uint32_t;
  static float value(Bits bits) { return host::bits_as<float>(bits); }
  static Bits bits(float value) { return host::bits_as<Bits>(value); }
};
struct BF16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return host::bits_as<float>(static_cast<uint32_t>(bits) << 16); }
  // To the nearest, ties to even; NaN stays NaN.
  static Bits bits(float value) {
    const uint32_t wide = host::bits_as<uint32_t>(value);
    return value != value ? 0x7fff : static_cast<Bits>((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
};
struct F16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return host::bits_as<_Float16>(bits); }
  static Bits bits(float value) { return host::bits_as<Bits>(static_cast<_Float16>(value)); }
};

template <int K>
struct alignas(4 * K) Vec {
  float v[K];
};

struct alignas(16) Words {
  uint32_t w[4];
};

namespace host {

// lanes: each a row of one of the four matrices, as Words, which becomes what the lane gets.
template <bool kTransposed>
void exchange_matrices(void* const (&lanes)[32]) {
  uint16_t element[4][8][8];
  for (int lane = 0; lane < 32; ++lane) std::memcpy(element[lane / 8][lane % 8], lanes[lane], 16);
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; ++m) {
      const auto& x = element[m];
      const uint32_t low = kTransposed ? x[2 * t][g] : x[g][2 * t],
                     high = kTransposed ? x[2 * t + 1][g] : x[g][2 * t + 1];
      static_cast<Words*>(lanes[lane])->w[m] = low | high << 16;
    }
  }
}

}  // namespace host

class Shared {
 public:
  Shared(int offset, int count) : offset_(offset), count_(count) {}
  float load(int i) const { return *host::shared(offset_, count_, i, 1, false); }
  void store(int i, float value) const { *host::shared(offset_, count_, i, 1, true) = value; }
  template <int K>
  Vec<K> load(int i) const {
    Vec<K> value;
    std::memcpy(value.v, host::shared(offset_, count_, i, K, false), sizeof value.v);
    return value;
  }
  template <int K>
  void store(int i, Vec<K> value) const {
    std::memcpy(host::shared(offset_, count_, i, K, true), value.v, sizeof value.v);
  }
  int offset() const { return offset_; }
  void copy_async(int i, const void* from, bool exists) const {
    host::copy_async(offset_, count_, i, exists ? from : nullptr);
  }
  template <bool kTransposed>
  Words load_matrices(int i, int line = __builtin_LINE()) const {
    Words row;
    std::memcpy(row.w, host::shared(offset_, count_, i, 4, false), sizeof row.w);
    host::meet_in_warp(&row, host::exchange_matrices<kTransposed>, line);
    return row;
  }

 private:
  int offset_, count_;
};

// As an H100, but for its warpgroups where BDAM_CUDA_HOST_WARPGROUPS says 0: older chips have none.
inline int64_t shared_floats_of_device() { return 227 * 256; }
inline bool has_warpgroups() {
  const char* said = std::getenv("BDAM_CUDA_HOST_WARPGROUPS");
  return said == nullptr || said[0] != '0';
}

template <class Parameters>
void launch(void (*kernel)(const Parameters), int64_t blocks, int threads, int shared_floats,
            const Parameters& parameters, int64_t /*stream*/) {
  host::run(blocks, threads, shared_floats, false, [&] { kernel(parameters); });
}

// Of which each has room for one block.
inline int multiprocessors() { return 3; }

template <class Parameters>
void launch_together(void (*kernel)(const Parameters), int64_t most, int threads, int shared_floats,
                     const Parameters& parameters, int64_t /*stream*/) {
  host::run(most < multiprocessors() ? most : multiprocessors(), threads, shared_floats, true, [&] { kernel(parameters); });
}

}  // namespace bdam
