// Matrices in shared memory whose rows warps multiply, 16 at a time, and what warps do with their products.
#pragma once

#include "tensor_core.cuh"

namespace bdam {

constexpr int kTileRows = 16;

// Rows of the tiles that hold `rows` rows.
BDAM_EVERYWHERE constexpr int whole_tiles(int rows) { return (rows + kTileRows - 1) / kTileRows * kTileRows; }

BDAM_DEVICE int lane_index() { return thread_index() & 31; }

// Rows of a matrix in global memory: `count` of them exist, `width` elements wide, each a whole number of 16 bytes.
template <class Type>
struct GlobalRows {
  typename Type::Bits* data;
  int64_t stride;
  int count, width;

  // 16 bytes of a row; zeros where it does not exist.
  BDAM_DEVICE bool exists(int row, int piece) const {
    return row < count && piece * static_cast<int>(16 / sizeof(typename Type::Bits)) < width;
  }
  BDAM_DEVICE Words* at(int row, int piece) const { return reinterpret_cast<Words*>(data + row * stride) + piece; }
  BDAM_DEVICE Words load(int row, int piece) const { return exists(row, piece) ? *at(row, piece) : Words(); }
};

// Element i of 16 bytes.
template <class Type>
BDAM_DEVICE float element(const Words& x, int i) {
  constexpr int kBits = 8 * sizeof(typename Type::Bits);
  return Type::value(static_cast<typename Type::Bits>(x.w[i * kBits / 32] >> (i * kBits % 32)));
}

// Rows of D elements. Their pieces of 16 bytes are permuted, so that warps read eight rows without bank conflicts.
template <class Type_, int D_>
struct Matrix {
  using Type = Type_;
  static constexpr int D = D_, kBytes = sizeof(typename Type::Bits), kPieces = D * kBytes / 16;
  static constexpr int kFloats = D * kBytes / 4;  // of shared memory, a row
  static constexpr int kStep = 32 / kBytes;       // elements in a step of a contraction
  static constexpr int kSteps = D / kStep, kTileSteps = kTileRows / kStep;
  static_assert(D % 32 == 0);

  Shared memory;

  // In terms that compilers split into a constant and few that differ by lane.
  BDAM_DEVICE static int at(int row, int piece) {
    constexpr int kMask = kPieces % 8 ? 3 : 7;
    const int permuted = (piece ^ (kPieces % 8 ? row >> 1 : row)) & kMask;
    return (row * kPieces + (piece & ~kMask)) * 4 + permuted * 4;
  }

  // Starts to copy `rows` rows here, to row 0 and on, from row `first` and on, by `threads` threads.
  BDAM_DEVICE void fetch(const GlobalRows<Type>& from, int first, int rows, int thread, int threads) const {
    for (int i = thread; i < rows * kPieces; i += threads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool exists = from.exists(first + row, piece);
      memory.copy_async(at(row, piece), exists ? from.at(first + row, piece) : from.at(0, 0), exists);
    }
  }

  // Of a product with the 16 rows from `row` on the left, contracted over columns.
  BDAM_DEVICE Left left(int row, int step) const {
    const int lane = lane_index();
    return memory.template load_matrices<false>(at(row + (lane & 15), 2 * step + (lane >> 4)));
  }

  // The same with them on the right: two operands of 8 rows each.
  BDAM_DEVICE void right(int row, int step, Right (&x)[2]) const {
    const int lane = lane_index();
    const Words w =
        memory.template load_matrices<false>(at(row + ((lane >> 4) * 8 + (lane & 7)), 2 * step + (lane >> 3 & 1)));
    x[0] = {w.w[0], w.w[1]};
    x[1] = {w.w[2], w.w[3]};
  }

  // Contracted over the rows from `row` on, kStep of them: two operands of 8 columns each from 16 `tile` on. Of 32-bit
  // elements the contraction takes the even rows first, as `weights_on_the_left` has them.
  BDAM_DEVICE void right_over_rows(int row, int tile, Right (&x)[2]) const {
    const int lane = lane_index();
    if constexpr (kBytes == 2) {
      const Words w = memory.template load_matrices<true>(at(row + (lane & 15), 2 * tile + (lane >> 4)));
      x[0] = {w.w[0], w.w[1]};
      x[1] = {w.w[2], w.w[3]};
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int from = row + 2 * (lane & 3) + i % 2, piece = 4 * tile + i / 2 * 2 + (lane >> 4);
        x[i / 2].w[i % 2] = F32::bits(memory.load(at(from, piece) + (lane >> 2 & 3)));
      }
    }
  }
};

// A tile of 16 x 16, two accumulators beside each other.
struct Tile {
  Accumulator half[2];
};

// Step `step` of a tile on the left of a product that is contracted over its columns.
template <class M>
BDAM_DEVICE Left weights_on_the_left(const Tile& x, int step) {
  if constexpr (M::kBytes == 2) {
    const float (&a)[4] = x.half[0].v;
    const float (&b)[4] = x.half[1].v;
    const typename M::Type type;
    return {pack(type, a[0], a[1]), pack(type, a[2], a[3]), pack(type, b[0], b[1]), pack(type, b[2], b[3])};
  } else {
    const float (&a)[4] = x.half[step].v;
    return {F32::bits(a[0]), F32::bits(a[2]), F32::bits(a[1]), F32::bits(a[3])};
  }
}

// total (16 x D) += x (16 x 16) times the 16 rows of m from `row` on.
template <class M>
BDAM_DEVICE void add_product(Accumulator (&total)[M::D / 8], const Tile& x, const M& m, int row) {
#pragma unroll
  for (int step = 0; step < M::kTileSteps; ++step) {
    const Left a = weights_on_the_left<M>(x, step);
#pragma unroll
    for (int c = 0; c < M::D / 16; ++c) {
      Right b[2];
      m.right_over_rows(row + step * M::kStep, c, b);
      multiply(typename M::Type(), total[2 * c], a, b[0]);
      multiply(typename M::Type(), total[2 * c + 1], a, b[1]);
    }
  }
}

// 16 rows of a matrix on the left, for many products: kept in registers where there are few enough.
template <class M>
struct LeftRows {
  static constexpr bool kKept = M::kBytes == 2 && M::kSteps <= 4;
  M matrix;
  int row;
  Left kept[kKept ? M::kSteps : 1];

  BDAM_DEVICE LeftRows(const M& matrix, int row) : matrix(matrix), row(row) {
    if constexpr (kKept) {
#pragma unroll
      for (int step = 0; step < M::kSteps; ++step) kept[step] = matrix.left(row, step);
    }
  }
  BDAM_DEVICE Left operator()(int step) const {
    if constexpr (kKept) {
      return kept[step];
    } else {
      return matrix.left(row, step);
    }
  }
};

// x y^T for the 16 rows of y from `row` on.
template <class M>
BDAM_DEVICE Tile product(const LeftRows<M>& x, const M& y, int row) {
  Tile total;
  // Unrolled as far as registers are indexed by it.
  [[maybe_unused]] constexpr int kUnrolled = LeftRows<M>::kKept ? M::kSteps : 4;
#pragma unroll kUnrolled
  for (int step = 0; step < M::kSteps; ++step) {
    const Left a = x(step);
    Right b[2];
    y.right(row, step, b);
    multiply(typename M::Type(), total.half[0], a, b[0]);
    multiply(typename M::Type(), total.half[1], a, b[1]);
  }
  return total;
}

// Sum, or largest value, over the four lanes that share a row of an accumulator.
BDAM_DEVICE float row_sum(float x) {
  x += shuffle_xor(x, 1);
  return x + shuffle_xor(x, 2);
}
BDAM_DEVICE float row_max(float x) {
  x = fmaxf(x, shuffle_xor(x, 1));
  return fmaxf(x, shuffle_xor(x, 2));
}

// x[i] of lane t becomes x[t] of lane i, among the four lanes that share a row.
BDAM_DEVICE void transpose_in_row(uint32_t (&x)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = thread_index() & bit;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & bit) continue;
      const uint32_t sent = upper ? x[i] : x[i | bit];
      const uint32_t got = F32::bits(shuffle_xor(F32::value(sent), bit));
      x[i] = upper ? got : x[i];
      x[i | bit] = upper ? x[i | bit] : got;
    }
  }
}

// Multiplies the upper 8 rows of 16 x D accumulated numbers by factor[0] and the lower by factor[1].
template <int kHalves>
BDAM_DEVICE void scale_rows(Accumulator (&x)[kHalves], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < kHalves; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) x[i].v[e] *= factor[e / 2];
  }
}

// Stores 16 x D accumulated numbers, times factor[0] in the upper 8 rows and factor[1] in the lower, as the rows from
// `row` on.
template <class Type, int kHalves>
BDAM_DEVICE void store_rows(const Accumulator (&x)[kHalves], const float (&factor)[2], const GlobalRows<Type>& to,
                            int row) {
  const int t = (lane_index() & 3);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + (lane_index() >> 2) + 8 * half;
    const auto value = [&](int i, int k) { return x[i].v[2 * half + k] * factor[half]; };
    if constexpr (sizeof(typename Type::Bits) == 2) {
#pragma unroll
      for (int c = 0; c < kHalves / 4; ++c) {
        Words words;
#pragma unroll
        for (int i = 0; i < 4; ++i) words.w[i] = pack(Type(), value(4 * c + i, 0), value(4 * c + i, 1));
        transpose_in_row(words.w);
        if (to.exists(at, 4 * c + t)) *to.at(at, 4 * c + t) = words;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kHalves; ++i) {
        if (!to.exists(at, 2 * i + t / 2)) continue;
        *reinterpret_cast<Vec<2>*>(to.data + at * to.stride + 8 * i + 2 * t) = {{value(i, 0), value(i, 1)}};
      }
    }
  }
}

}  // namespace bdam
