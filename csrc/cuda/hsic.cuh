// What the phases of hsic.cu share: where everything is, and the product of two tiles.
#pragma once

#include <stdexcept>
#include <string>

#include "tensor_core.cuh"

namespace bdam::hsic {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kTile = 64;                           // rows and columns of a product's tile
constexpr int kWideTile = 96, kNarrowTile = 32;     // columns of the gradient's, where that is faster
constexpr int kStep = 64;                           // what a product contracts at once
constexpr int kOperandFloats = 64 * 72;             // of shared memory, for a step of an operand
constexpr int kWideFloats = 64 * 104;               // and of a wide one
constexpr int kStageFloats = kOperandFloats + kWideFloats;
constexpr int kProductFloats = 2 * kStageFloats;
constexpr int kMeanRows = 16;                       // of a thread that centres
constexpr int kMeanColumns = 8;                     // of a unit
constexpr int kMostRows = kMeanRows * kThreads / kMeanColumns;
constexpr int kTogetherTiles = 2;                   // of rows, to which the units of the Gram matrices centre features
constexpr int kSumColumns = 128;                    // of a row of the Gram matrices, which a warp adds up
constexpr int kGramUnits = 132;                     // that the Gram matrices are cut into at most, or twice as many

struct Input {
  Tensor features;
  int width = 0, padded_width = 0;  // padded to whole tiles
  int parts = 0;                    // of the columns, by which the Gram matrix is computed
  // weights: what the other input's features are multiplied by, transposed. squares: the Gram matrix's diagonal.
  float *centred = nullptr, *gram = nullptr, *weights = nullptr, *squares = nullptr;
  Tensor gradient;  // contiguous

  BDAM_EVERYWHERE int mean_units() const { return padded_width / kMeanColumns; }
  BDAM_EVERYWHERE int column_tiles(int width) const { return ceil_divide<int>(padded_width, width); }
};

// Hands out an array piece by piece, or counts how long it must be.
struct Places {
  float* array;
  int64_t used = 0;

  float* take(int64_t floats) {
    float* begin = array ? array + used : nullptr;
    used += floats;
    return begin;
  }
};

struct Plan {
  Input inputs[2];
  int rows, padded, tiles, gram_tiles;  // padded to whole tiles; tiles of a row; tiles of half a Gram matrix
  float per_row;                        // 1 / rows
  int part_width;
  int sums;                                    // that a row's products are added up to
  float *products = nullptr, *value = nullptr;
  float* traces = nullptr;  // of the Gram matrices
  uint32_t* counter = nullptr;
  const float* grad = nullptr;                      // of the value
  float factor = 0.0f, per_p = 0.0f, per_q = 0.0f;  // 1 / r or 2 / r, 1 / p, 1 / q of bdam_kernels/ops/hsic/algebra.py
  bool unbiased = false;

  Plan(int64_t n, int64_t x_width, int64_t y_width) : rows(static_cast<int>(n)), per_row(1.0f / n) {
    tiles = ceil_divide<int>(n, kTile);
    padded = tiles * kTile;
    gram_tiles = tiles * (tiles + 1) / 2;
    sums = ceil_divide<int>(padded, kSumColumns);
    int wanted = kGramUnits / (2 * gram_tiles);
    if (wanted < 2) wanted = 2 * kGramUnits / (2 * gram_tiles);
    const int64_t widest = x_width > y_width ? x_width : y_width;
    part_width = ceil_divide<int>(ceil_divide<int>(widest, wanted > 1 ? wanted : 1), kStep) * kStep;
    const int64_t widths[2] = {x_width, y_width};
    for (int i = 0; i < 2; ++i) {
      inputs[i].width = static_cast<int>(widths[i]);
      inputs[i].padded_width = ceil_divide<int>(widths[i], kTile) * kTile;
      inputs[i].parts = ceil_divide<int>(inputs[i].padded_width, part_width);
    }
  }
  void choose_estimator(double factor_, double p, double q, bool unbiased_) {
    factor = static_cast<float>(factor_);
    per_p = static_cast<float>(1.0 / p);
    per_q = static_cast<float>(1.0 / q);
    unbiased = unbiased_;
  }
  // Columns of the tiles of the gradients that leave least to the multiprocessor that has most.
  int gradient_width(int multiprocessors) const {
    const auto most = [&](int width) {
      return ceil_divide<int>(gradient_units(0, width) + gradient_units(1, width), multiprocessors) * width;
    };
    const int other = most(kNarrowTile) < most(kWideTile) ? kNarrowTile : kWideTile;
    return most(other) < most(kTile) ? other : kTile;
  }
  // Puts what the gradients are made of into an array, which must have the right length.
  void place_saved(const Tensor& array) {
    Places places{array.as<float>()};
    for (Input& in : inputs) {
      in.centred = places.take(static_cast<int64_t>(padded) * in.padded_width);
      in.weights = places.take(area());
      in.squares = places.take(padded);
    }
    traces = places.take(2);
    if (places.used != array.size[0]) {
      throw std::runtime_error("hsic_linear saves " + std::to_string(places.used) + " floats, got room for " +
                               std::to_string(array.size[0]));
    }
  }
  // Puts what the first launch needs into an array, and returns how many floats it takes.
  int64_t place_workspace(float* array) {
    Places places{array};
    for (Input& in : inputs) in.gram = places.take(in.parts * area());
    products = places.take(static_cast<int64_t>(padded) * sums);
    counter = reinterpret_cast<uint32_t*>(places.take(1));
    return places.used;
  }
  BDAM_EVERYWHERE int64_t area() const { return static_cast<int64_t>(padded) * padded; }
  // Whether centring is a phase of its own.
  BDAM_EVERYWHERE bool centred_first() const { return tiles > kTogetherTiles; }
  BDAM_EVERYWHERE int gradient_units(int input, int width) const { return tiles * inputs[input].column_tiles(width); }
  // The most units that a phase of the first launch has.
  int units() const {
    const int means = centred_first() ? inputs[0].mean_units() + inputs[1].mean_units() : 0;
    const int grams = (inputs[0].parts + inputs[1].parts) * gram_tiles;
    return means > grams ? means : grams;
  }
};

BDAM_DEVICE float warp_sum(float x) {
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Operands of a product: what of a matrix goes to shared memory for a step of the contraction, and where element (k, i)
// of it is there. Rows have a length with which the 4 x 8 elements that a warp loads at once are in 32 banks.
//
// kTile rows of a matrix from `row` on, which run along the contraction from `column` on.
struct Rows {
  const float* data;
  int stride, row, column;

  BDAM_DEVICE static int at(int k, int i) { return i * (kStep + 4) + k; }
  BDAM_DEVICE void copy(int step, const Shared& to) const {
    const int k = thread_index() % (kStep / 4) * 4, first = thread_index() / (kStep / 4);
#pragma unroll
    for (int i = first; i < first + kTile; i += kThreads / (kStep / 4)) {
      to.copy_async(at(k, i), data + static_cast<int64_t>(row + i) * stride + column + step + k, true);
    }
  }
};

// kWidth columns of a matrix from `column` on, which run along the contraction; zeros instead of those beyond `stride`.
template <int kWidth>
struct Columns {
  const float* data;
  int stride, column;

  BDAM_DEVICE static int at(int k, int i) { return k * (kWidth + 8) + i; }
  BDAM_DEVICE void copy(int step, const Shared& to) const {
    const int first = opaque(thread_index());  // else the addresses of all groups are kept in registers
#pragma unroll
    for (int n = 0; n < kStep * kWidth / 4 / kThreads; ++n) {
      const int group = first + n * kThreads, k = group / (kWidth / 4), i = group % (kWidth / 4) * 4;
      const bool exists = column + i < stride;
      to.copy_async(at(k, i), data + static_cast<int64_t>(step + k) * stride + (exists ? column + i : 0), exists);
    }
  }
};

// What TensorFloat-32 holds of every word, by truncation, and in `rest` what is left, of which tensor cores take as
// much: at most 3 units of float32's last place are lost. A third of the instructions that rounding takes in split().
template <class Operand>
BDAM_DEVICE Operand truncated(Operand x, Operand& rest) {
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof x.w / sizeof x.w[0]); ++i) {
    const uint32_t large = x.w[i] & ~0x1fffu;
    rest.w[i] = F32::bits(F32::value(x.w[i]) - F32::value(large));
    x.w[i] = large;
  }
  return x;
}

// A tile of a product of two operands, kTile x kWidth. A warp has 32 x kWidth / 4 of its elements, as accumulators.
template <int kWidth>
struct Product {
  static constexpr int kAcross = kWidth / 32;                           // accumulators of a warp in a row
  const int row = thread_index() / 128 * 32 + thread_index() % 32 / 4;  // of accumulator 0's element 0
  const int column = thread_index() / 32 % 4 * (kWidth / 4) + thread_index() % 4 * 2;
  float sums[2][kAcross][4] = {};

  // visit(row and column of the tile, sum, and that of the next column)
  template <class Visit>
  BDAM_DEVICE void for_each_pair(Visit visit) const {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < kAcross; ++n) {
          const float(&v)[4] = sums[m][n];
          visit(row + m * 16 + half * 8, column + n * 8, v[2 * half], v[2 * half + 1]);
        }
      }
    }
  }

  // equal: both operands are the same.
  template <class A, class B>
  BDAM_DEVICE void multiply(const A& left, const B& right, int depth, bool equal) {
    const auto copy = [&](int step) {
      const int at = step / kStep % 2 * kStageFloats;
      left.copy(step, Shared(at, kOperandFloats));
      if (!equal) right.copy(step, Shared(at + kOperandFloats, kWideFloats));
    };
    barrier();  // everyone is done with what is there, and has written what is copied
    copy(0);
    for (int step = 0; step < depth; step += kStep) {
      wait_for_copies();
      barrier();
      // These are on their way while the ones before are multiplied.
      if (step + kStep < depth) copy(step + kStep);
      const int at = step / kStep % 2 * kStageFloats;
      multiply_step<A, B>(Shared(at, kOperandFloats), Shared(equal ? at : at + kOperandFloats, kWideFloats));
    }
  }

  // Each step has accumulators of its own, since tensor cores truncate as they add.
  template <class A, class B>
  BDAM_DEVICE void multiply_step(const Shared& left, const Shared& right) {
    const int t = thread_index() % 4, i = row, j = column - 2 * t + thread_index() % 32 / 4;
    Accumulator partial[2][kAcross];
#pragma unroll 2
    for (int step = 0; step < kStep; step += 8) {
      const int k = step + t;
      Left a[2], a_rest[2];
      Right b[kAcross], b_rest[kAcross];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          a[m].w[w] = F32::bits(left.load(A::at(k + w / 2 * 4, i + m * 16 + w % 2 * 8)));
        }
        a[m] = truncated(a[m], a_rest[m]);
      }
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
#pragma unroll
        for (int w = 0; w < 2; ++w) b[n].w[w] = F32::bits(right.load(B::at(k + w * 4, j + n * 8)));
        b[n] = truncated(b[n], b_rest[n]);
      }
      // Small terms first; products that do not wait for each other in a row.
      each(partial, a_rest, b);
      each(partial, a, b_rest);
      each(partial, a, b);
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kAcross; ++n) {
#pragma unroll
        for (int v = 0; v < 4; ++v) sums[m][n][v] += partial[m][n].v[v];
      }
    }
  }
 private:
  BDAM_DEVICE static void each(Accumulator (&c)[2][kAcross], const Left (&a)[2], const Right (&b)[kAcross]) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kAcross; ++n) multiply_tf32(c[m][n], a[m], b[n]);
    }
  }
};

}  // namespace bdam::hsic
