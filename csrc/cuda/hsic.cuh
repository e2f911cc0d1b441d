// What the phases of hsic.cu share: where everything is, and the product of two tiles.
#pragma once

#include "primitives.cuh"

namespace bdam::hsic {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 64;                                         // rows and columns of a product's tile
constexpr int kStep = 32;                                         // what a product contracts at once
constexpr int kProductFloats = 2 * kStep * kTile;                 // of shared memory
constexpr int kMeanColumns = 16, kMeanLanes = kThreads / kMeanColumns;
constexpr int kGramUnits = 128;                                   // that the Gram matrices are cut into, about

BDAM_EVERYWHERE inline int divide_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

struct Input {
  Tensor features;
  int width = 0, padded_width = 0;  // padded to whole tiles
  int parts = 0;                    // of the columns, by which the Gram matrix is computed
  float *centred = nullptr, *gram = nullptr, *gradient = nullptr;

  BDAM_EVERYWHERE int mean_units() const { return padded_width / kMeanColumns; }
  BDAM_EVERYWHERE int column_tiles() const { return padded_width / kTile; }
};

struct Plan {
  Input inputs[2];
  int rows, padded, tiles, gram_tiles;  // padded to whole tiles; tiles of a row; tiles of half a Gram matrix
  int part_width;
  float *products = nullptr, *value = nullptr;
  float factor = 0.0f, p = 0.0f, q = 0.0f;  // 2 / r, p and q of bdam_kernels/ops/hsic_forms.py
  bool unbiased = false;

  Plan(int64_t n, int64_t x_width, int64_t y_width) : rows(static_cast<int>(n)) {
    tiles = divide_up(n, kTile);
    padded = tiles * kTile;
    gram_tiles = tiles * (tiles + 1) / 2;
    const int wanted = kGramUnits / (2 * gram_tiles) > 1 ? kGramUnits / (2 * gram_tiles) : 1;
    const int64_t widest = x_width > y_width ? x_width : y_width;
    part_width = divide_up(divide_up(widest, wanted), kStep) * kStep;
    const int64_t widths[2] = {x_width, y_width};
    for (int i = 0; i < 2; ++i) {
      inputs[i].width = static_cast<int>(widths[i]);
      inputs[i].padded_width = divide_up(widths[i], kTile) * kTile;
      inputs[i].parts = divide_up(inputs[i].padded_width, part_width);
    }
  }
  // Puts the arrays into a workspace, and returns how many floats they take.
  int64_t place(float* workspace) {
    int64_t used = 0;
    const auto take = [&](int64_t floats) {
      float* begin = workspace ? workspace + used : nullptr;
      used += floats;
      return begin;
    };
    for (Input& in : inputs) {
      in.centred = take(static_cast<int64_t>(padded) * in.padded_width);
      in.gram = take(static_cast<int64_t>(in.parts) * padded * padded);
    }
    products = take(padded);
    return used;
  }
  // The most units that a phase has.
  int units() const {
    int most = 0;
    const int counts[3] = {inputs[0].mean_units() + inputs[1].mean_units(),
                           (inputs[0].parts + inputs[1].parts) * gram_tiles,
                           tiles * (inputs[0].column_tiles() + inputs[1].column_tiles())};
    for (int count : counts) most = count > most ? count : most;
    return most;
  }
};

BDAM_DEVICE float warp_sum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Where element (k, i) of an operand is in shared memory: the exchange of groups of four lets a warp store whole rows
// of either layout, and read vectors, without two lanes in one bank.
BDAM_DEVICE int slot(int k, int i) { return k * kTile + (i ^ (k & 28)); }

// A thread's share of kStep x kTile elements of an operand, on its way to shared memory.
struct Fetched {
  Vec<4> v[2];
};

// An operand whose rows run along the contraction: kTile rows of a matrix from `row` on, from `column` on.
struct Rows {
  const float* data;
  int stride, row, column;

  BDAM_DEVICE void fetch(int step, Fetched& to) const {
    const int group = thread_index() % (kStep / 4), first = thread_index() / (kStep / 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = static_cast<int64_t>(row + first + i * kStep) * stride + column + step + group * 4;
      to.v[i] = *reinterpret_cast<const Vec<4>*>(data + at);
    }
  }
  BDAM_DEVICE void store(const Fetched& from, const Shared& to) const {
    const int group = thread_index() % (kStep / 4), first = thread_index() / (kStep / 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) to.store(slot(group * 4 + k, first + i * kStep), from.v[i].v[k]);
    }
  }
};

// An operand whose columns run along the contraction: kTile columns of a matrix from `column` on. With `off_diagonal`
// it is a symmetric matrix without its diagonal, of which row k has `diagonal` times that element added.
struct Columns {
  const float* data;
  int stride, column;
  float diagonal;
  bool off_diagonal;

  BDAM_DEVICE void fetch(int step, Fetched& to) const {
    const int group = thread_index() % (kTile / 4), first = thread_index() / (kTile / 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int k = step + first + i * (kStep / 2), at = column + group * 4;
      to.v[i] = *reinterpret_cast<const Vec<4>*>(data + static_cast<int64_t>(k) * stride + at);
      if (!off_diagonal) continue;
      const float added = diagonal * data[static_cast<int64_t>(k) * (stride + 1)];
#pragma unroll
      for (int c = 0; c < 4; ++c) to.v[i].v[c] = at + c == k ? 0.0f : to.v[i].v[c] + added;
    }
  }
  BDAM_DEVICE void store(const Fetched& from, const Shared& to) const {
    const int group = thread_index() % (kTile / 4), first = thread_index() / (kTile / 4);
#pragma unroll
    for (int i = 0; i < 2; ++i) to.store<4>(slot(first + i * (kStep / 2), group * 4), from.v[i]);
  }
};

// A tile of a product of two operands; every thread has 4 x 4 of its elements.
struct Product {
  const int row = thread_index() / 16 * 4, column = thread_index() % 16 * 4;
  float sums[4][4] = {};

  template <class Left, class Right>
  BDAM_DEVICE void multiply(const Left& left, const Right& right, int depth) {
    const Shared a(0, kStep * kTile), b(kStep * kTile, kStep * kTile);
    Fetched next_left, next_right;
    left.fetch(0, next_left);
    right.fetch(0, next_right);
    for (int step = 0; step < depth; step += kStep) {
      barrier();  // everyone is done with what is there
      left.store(next_left, a);
      right.store(next_right, b);
      barrier();
      // These are on their way while the ones before are multiplied.
      if (step + kStep < depth) {
        left.fetch(step + kStep, next_left);
        right.fetch(step + kStep, next_right);
      }
#pragma unroll 8
      for (int k = 0; k < kStep; ++k) {
        const Vec<4> u = a.load<4>(slot(k, row)), v = b.load<4>(slot(k, column));
#pragma unroll
        for (int r = 0; r < 4; ++r) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[r][c] += u.v[r] * v.v[c];
        }
      }
    }
  }
};

}  // namespace bdam::hsic
