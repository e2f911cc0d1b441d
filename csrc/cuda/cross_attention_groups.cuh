// Cross-attention by warpgroups, on Hopper: for heads of 33 to 64 columns of 16 bits, without dropout. A group has a tile
// of 64 rows of one side, its own, and walks the other side in chunks of 64 rows. Where all rows of the other side fit, a
// block of one group loads them once and takes several tiles; else ("streamed") they pass by the tiles of its groups.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cross_attention.cuh"
#include "warpgroup.cuh"

namespace bdam {
namespace attention {

struct Backward;

namespace groups {

constexpr int kChunk = kGroupRows;
// With three buffers one is filled, one is computed with, and of one the last products may still be under way.
constexpr int kBuffers = 3;
// Of the other side, so that three blocks have room on a multiprocessor.
constexpr int kMostResident = 224;

template <bool kStreamed>
constexpr int kGroups = kStreamed ? 3 : 1;

template <class Type>
using Rows = Matrix<Type, 64>;
constexpr int kRowFloats = Rows<BF16>::kFloats, kTileFloats = kGroupRows * kRowFloats;

// How blocks walk: tiles of a group, one after the other, and rows of the other side in shared memory.
struct Course {
  int rounds, rows;
};

void forward(const Call& call, const Tensor (&out)[2], const Tensor (&logs)[2], int64_t stream);

void backward(const Backward& backward, int64_t stream);

// Whether the kernels are for such calls.
inline bool take(const Call& call) {
  const Tensor &a = call.q[0], &b = call.q[1];
  const bool narrow = a.size[3] > 32 && a.size[3] <= 64, is_long = std::max(a.size[2], b.size[2]) >= 48;
  return has_warpgroups() && a.dtype != DType::f32 && narrow && is_long && !call.threshold;
}

inline int rows_resident(const Call& call) { return kTileRows * std::max(tiles_of(call.q[0]), tiles_of(call.q[1])); }
inline bool is_streamed(const Call& call) { return rows_resident(call) > kMostResident; }

// As many rounds as leave blocks to fill a GPU several times.
inline Course course_of(const Call& call) {
  if (is_streamed(call)) return {1, kBuffers * kChunk};
  const int rows = rows_resident(call), tiles = ceil_divide(rows, kGroupRows);
  const int64_t all = 2 * heads_in(call) * tiles, enough = 12 * multiprocessors();
  return {static_cast<int>(std::clamp<int64_t>(all / enough, 1, tiles)), rows};
}

// Blocks that take the tiles of `rows` rows.
template <bool kStreamed>
int blocks_of(const Course& course, int64_t rows) {
  return ceil_divide<int>(rows, kGroups<kStreamed> * kGroupRows * course.rounds);
}

template <class Launch>
void with_kernel(const Call& call, Launch launch) {
  const auto with_type = [&](auto type) {
    is_streamed(call) ? launch(type, std::true_type()) : launch(type, std::false_type());
  };
  call.q[0].dtype == DType::bf16 ? with_type(BF16()) : with_type(F16());
}

// step(tiles, start) for every chunk of `rows` rows, with its tiles of 16 as a constant.
template <class Step>
BDAM_DEVICE void each_chunk(int rows, Step step) {
  int start = 0;
#pragma unroll 1
  for (; start + kChunk <= rows; start += kChunk) step(std::integral_constant<int, 4>(), start);
  switch ((rows - start + kTileRows - 1) / kTileRows) {
    case 1:
      return step(std::integral_constant<int, 1>(), start);
    case 2:
      return step(std::integral_constant<int, 2>(), start);
    case 3:
      return step(std::integral_constant<int, 3>(), start);
    case 4:
      return step(std::integral_constant<int, 4>(), start);
  }
}

// The other side in shared memory, two matrices and two numbers a row.
template <class Type, bool kStreamed>
struct Others {
  using M = Rows<Type>;
  int rows;

  BDAM_DEVICE static int place_of(int start) { return kStreamed ? start / kChunk % kBuffers * kChunk : start; }
  BDAM_DEVICE M matrix(int which, int start) const {
    const int first = place_of(start);
    return {Shared((which * rows + first) * kRowFloats, (rows - first) * kRowFloats)};
  }
  // After them and `tiles` tiles of own rows.
  BDAM_DEVICE Shared numbers(int which, int tiles, int start) const {
    const int first = place_of(start);
    return {2 * rows * kRowFloats + tiles * kTileFloats + which * rows + first, rows - first};
  }
  BDAM_DEVICE M own(int tile) const { return {Shared(2 * rows * kRowFloats + tile * kTileFloats, kTileFloats)}; }
  static int64_t floats(int rows, int tiles, int numbers) {
    return 2 * rows * kRowFloats + tiles * kTileFloats + numbers * rows;
  }
};

// Of a thread: its group, its number in it, and where its warp's 16 rows are in the group's tile.
struct Member {
  int warp = of_first_lane(thread_index() / 32), group = warp / kGroupWarps;
  int thread = thread_index() % kGroupThreads, row = warp % kGroupWarps * kTileRows;

  // The first row of the group's tile.
  template <bool kStreamed>
  BDAM_DEVICE int tile(int block, const Course& course, int round) const {
    return ((block * course.rounds + round) * kGroups<kStreamed> + group) * kGroupRows;
  }
};

// Weights on the left of a product, and that product: total += x times the rows of m.
template <class M, int kTiles>
struct Weights {
  Left of_tile[kTiles];

  BDAM_DEVICE explicit Weights(const Tile (&x)[kTiles]) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) of_tile[j] = weights_on_the_left<M>(x[j], 0);
  }
  BDAM_DEVICE void add_product(Accumulator (&total)[8], const M& m) const {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) add_product_of_group(total, of_tile[j], m, kTileRows * j);
  }
};

// All that was copied can be read, and multiplied.
BDAM_DEVICE void receive() {
  wait_for_copies();
  show_to_products();
  barrier();
}

}  // namespace groups
}  // namespace attention
}  // namespace bdam
