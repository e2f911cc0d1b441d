// Small matrix products on operands that fit in L2, with the accumulators in registers, and the packing of operands.
#pragma once

#include <algorithm>
#include <type_traits>

#include "simd.h"

namespace bdam {

// The register tile: its accumulators, a row of the right operand and one broadcast value fit in the register file.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileVectors = 4;
constexpr int tile_rows(int vectors) { return vectors == 3 ? 8 : 6; }
#else
constexpr int kTileVectors = 2;
constexpr int tile_rows(int) { return 6; }
#endif

inline int64_t pad_to_vectors(int64_t columns) { return ceil_divide(columns, kLanes) * kLanes; }

// Operands consist of elements E: a float, or a Pair of bfloat16 that are neighbours along the contraction. A matrix
// contracted along its columns is stored as (rows, columns / kGroup), one contracted along its rows as
// (rows / kGroup, columns); for float the two are the same.
struct Pair {
  uint16_t even, odd;
};
template <class E>
constexpr int kGroup = 1;
template <>
constexpr int kGroup<Pair> = 2;

inline vf load_lanes(const float* p) { return load(p); }
inline vf broadcast(const float* p) { return splat(*p); }
inline vf multiply_add(vf a, vf b, vf c) { return a * b + c; }

// Two neighbouring rows of kLanes columns; p points at the first one's element, ld is in elements.
inline void store_along_columns(float* p, int64_t ld, vf x0, vf x1) {
  store(p, x0);
  store(p + ld, x1);
}
inline void store_along_rows(float* p, int64_t ld, vf x0, vf x1) { store_along_columns(p, ld, x0, x1); }
inline void load_along_rows(const float* p, int64_t ld, vf& x0, vf& x1) {
  x0 = load(p);
  x1 = load(p + ld);
}

#if defined(__AVX512BF16__)
inline __m512i load_lanes(const Pair* p) { return _mm512_loadu_si512(p); }
inline __m512i broadcast(const Pair* p) { return _mm512_set1_epi32(bitcast<int>(*p)); }
inline vf multiply_add(__m512i a, __m512i b, vf c) {
  return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}

// kLanes bfloat16 of x0, then those of x1.
inline __m512i narrow_both(vf x0, vf x1) { return (__m512i)_mm512_cvtne2ps_pbh((__m512)x1, (__m512)x0); }

inline void store_along_columns(Pair* p, int64_t ld, vf x0, vf x1) {
  const __m512i both = narrow_both(x0, x1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(both));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + ld), _mm512_extracti64x4_epi64(both, 1));
}
inline void store_along_rows(Pair* p, int64_t, vf x0, vf x1) {
  const __m512i interleaved = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                               23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_storeu_si512(p, _mm512_permutexvar_epi16(interleaved, narrow_both(x0, x1)));
}
inline void load_along_rows(const Pair* p, int64_t, vf& x0, vf& x1) {
  const __m512i both = _mm512_loadu_si512(p);
  x0 = (vf)_mm512_slli_epi32(both, 16);
  x1 = (vf)_mm512_and_si512(both, _mm512_set1_epi32(-65536));
}
#endif

// The left operand of a product: element (i, k) is data[i * ld + k], or data[k * ld + i] if Transposed.
template <class E, bool Transposed>
struct Left {
  const E* data;
  int64_t ld;

  const E* at(int64_t i, int64_t k) const { return Transposed ? data + k * ld + i : data + i * ld + k; }
  Left from_row(int64_t i) const { return {at(i, 0), ld}; }
};

// The right operand, (depth, columns), the columns padded to whole vectors.
template <class E>
struct Right {
  const E* data;
  int64_t ld;
};

// A matrix in the caller's memory, with unit stride along its columns.
template <class T>
struct MatrixView {
  T* data;
  int64_t rows, columns, stride;

  T* row(int64_t i) const { return data + i * stride; }
  MatrixView row_range(int64_t first, int64_t count) const { return {row(first), count, columns, stride}; }
  // One of several equal parts.
  MatrixView part(int64_t index, int64_t count) const {
    const int64_t first = rows * index / count;
    return row_range(first, rows * (index + 1) / count - first);
  }
};

// Brings memory that is needed soon into L2, one cache line at a time between the steps of a product: all at once
// would stall the product.
class Prefetcher {
 public:
  template <class T>
  void add(const MatrixView<T>& m) {
    if (m.rows == 0) return;
    areas_[count_++] = {reinterpret_cast<const char*>(m.data), m.rows, static_cast<int64_t>(m.columns * sizeof(T)),
                        static_cast<int64_t>(m.stride * sizeof(T))};
    if (count_ == 1) start_row();
  }
  void step() {
    __builtin_prefetch(cursor_, 0, 2);
    cursor_ += step_;
    if (cursor_ >= row_end_) next_row();
  }

 private:
  struct Area {
    const char* data;
    int64_t rows, row_bytes, stride;
  };
  static constexpr int kMaxAreas = 8;

  void start_row() {
    cursor_ = areas_[current_].data;
    row_end_ = cursor_ + areas_[current_].row_bytes;
    step_ = 64;
  }
  inline __attribute__((always_inline)) void next_row() {
    if (current_ == count_) return;
    areas_[current_].data += areas_[current_].stride;
    if (--areas_[current_].rows == 0) ++current_;
    if (current_ < count_) {
      start_row();
    } else {
      step_ = 0;
    }
  }

  Area areas_[kMaxAreas];
  int count_ = 0, current_ = 0;
  // Without areas, its own: fetching what is not mapped is slow.
  const char* cursor_ = reinterpret_cast<const char*>(this);
  const char* row_end_ = nullptr;
  int64_t step_ = 0;
};

template <int M, int N, class E, bool Transposed, class Epilogue>
inline __attribute__((always_inline)) void multiply_tile(Left<E, Transposed> left, Right<E> right, int64_t depth,
                                                         int64_t row, int64_t column, Prefetcher& prefetcher,
                                                         const Epilogue& epilogue) {
  vf acc[M][N] = {};
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    // A prefetch at every step would take the line buffers from the product's own loads.
    if (k % 2 == 0) prefetcher.step();
    decltype(load_lanes(right.data)) b[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) b[j] = load_lanes(right.data + k * right.ld + column + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      const auto a = broadcast(left.at(row + i, k));
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) acc[i][j] = multiply_add(a, b[j], acc[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) epilogue(row + i, column + j * kLanes, acc[i][j]);
  }
}

// The rows from `row` on in tiles of M, and what is left in tiles of half as many. The epilogue comes by value, so that
// what it holds stays in registers.
template <int M, int N, class E, bool Transposed, class Epilogue>
__attribute__((noinline)) void multiply_rows(Left<E, Transposed> left, Right<E> right, int64_t rows, int64_t depth,
                                             int64_t row, int64_t column, Prefetcher& prefetcher, Epilogue epilogue) {
  for (; row + M <= rows; row += M) multiply_tile<M, N>(left, right, depth, row, column, prefetcher, epilogue);
  if constexpr (M > 1) {
    if (row < rows) multiply_rows<M / 2, N>(left, right, rows, depth, row, column, prefetcher, epilogue);
  }
}

template <int N, class E, bool Transposed, class Epilogue>
void multiply_columns(int64_t vectors, Left<E, Transposed> left, Right<E> right, int64_t rows, int64_t depth,
                      int64_t column, Prefetcher& prefetcher, const Epilogue& epilogue) {
  if (vectors == N) {
    multiply_rows<tile_rows(N), N>(left, right, rows, depth, 0, column, prefetcher, epilogue);
  } else if constexpr (N > 1) {
    multiply_columns<N - 1>(vectors, left, right, rows, depth, column, prefetcher, epilogue);
  }
}

// left (rows, depth) times right (depth, columns); every vector of the product goes to epilogue(row, column, vector).
template <class E, bool Transposed, class Epilogue>
void multiply(Left<E, Transposed> left, Right<E> right, int64_t rows, int64_t depth, int64_t columns,
              Prefetcher& prefetcher, const Epilogue& epilogue) {
  for (int64_t column = 0; column < columns;) {
    // Tiles as equal as can be: a narrow last one would wait for its loads.
    const int64_t remaining = ceil_divide(columns - column, kLanes);
    const int64_t vectors = ceil_divide(remaining, ceil_divide(remaining, kTileVectors));
    multiply_columns<kTileVectors>(vectors, left, right, rows, depth, column, prefetcher, epilogue);
    column += vectors * kLanes;
  }
}

template <class T>
inline vf load_scaled(const MatrixView<T>& m, int64_t i, int64_t j, const float* factors) {
  if (i >= m.rows) return vf{};
  const vf x = load(m.row(i) + j, m.columns - j);
  return factors ? factors[i] * x : x;
}

// Packs diag(factors) matrix, or the matrix itself, padded with zeros to whole vectors and an even number of rows:
// as a left operand, contracted along its columns, and as a right operand, contracted along its rows. Either may be
// null; for float both are the same, and one is enough.
template <class T, class E>
void pack(const MatrixView<T>& m, const float* factors, E* left, E* right) {
  const int64_t right_ld = pad_to_vectors(m.columns), left_ld = right_ld / kGroup<E>;
  for (int64_t i = 0; i < m.rows; i += 2) {
    for (int64_t j = 0; j < m.columns; j += kLanes) {
      const vf x0 = load_scaled(m, i, j, factors), x1 = load_scaled(m, i + 1, j, factors);
      if (left) store_along_columns(left + i * left_ld + j / kGroup<E>, left_ld, x0, x1);
      if (right) store_along_rows(right + i / kGroup<E> * right_ld + j, right_ld, x0, x1);
    }
  }
}

// A matrix as an operand: where it is if its memory has the form already, else packed into the buffer.
template <class E, class T>
Left<E, false> as_left(const MatrixView<T>& m, E* buffer) {
  constexpr bool kSameBits = std::is_same_v<T, E> || (std::is_same_v<T, bf16> && std::is_same_v<E, Pair>);
  if (kSameBits && m.columns % kGroup<E> == 0 && m.stride % kGroup<E> == 0) {
    return {reinterpret_cast<const E*>(m.data), m.stride / kGroup<E>};
  }
  pack<T, E>(m, nullptr, buffer, nullptr);
  return {buffer, pad_to_vectors(m.columns) / kGroup<E>};
}

constexpr int64_t kManyElements = 8192;  // as many floats as 32 KiB hold, about L1

template <class E, class T>
Right<E> as_right(const MatrixView<T>& m, E* buffer) {
  // Many rows far apart share few sets of a cache, where they push each other out.
  const bool crowded = m.stride > m.columns && m.rows * m.columns > kManyElements;
  if (std::is_same_v<T, E> && m.columns % kLanes == 0 && !crowded) {
    return {reinterpret_cast<const E*>(m.data), m.stride};
  }
  pack<T, E>(m, nullptr, nullptr, buffer);
  return {buffer, pad_to_vectors(m.columns)};
}

// kLanes elements of a row, as the bits of a vector; columns past the end are zero.
template <class E, class T>
inline vf load_elements(const T* p, int64_t columns) {
  if constexpr (std::is_same_v<E, float>) return load(p, columns);
  vf x{};
  std::memcpy(&x, p, std::min<int64_t>(columns * sizeof(T), sizeof(x)));
  return x;
}

// The transpose as a right operand, contracted along the matrix's columns; ld is its rows padded to whole vectors.
template <class E, class T>
Right<E> pack_transposed(const MatrixView<T>& m, E* buffer) {
  const int64_t ld = pad_to_vectors(m.rows);
  for (int64_t i = 0; i < m.rows; i += kLanes) {
    for (int64_t j = 0; j < m.columns; j += kLanes * kGroup<E>) {
      vf tile[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) {
        tile[r] = i + r < m.rows ? load_elements<E>(m.row(i + r) + j, m.columns - j) : vf{};
      }
      transpose(tile);
      E* out = buffer + j / kGroup<E> * ld + i;
#pragma GCC unroll 16
      for (int c = 0; c < kLanes; ++c) {
        if (j + c * kGroup<E> < m.columns) std::memcpy(out + c * ld, &tile[c], sizeof(vf));
      }
    }
  }
  return {buffer, ld};
}

}  // namespace bdam
