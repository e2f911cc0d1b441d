// How the threads of a block share a tile of rows (channels or states) by steps, and how its elements come and go.
#pragma once

#include "primitives.cuh"

namespace bdam::scan {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kTile = 16;  // steps in shared memory at once

// Which elements neighbouring threads have: neighbouring rows, neighbouring steps, or pieces of several steps each,
// which one load or two bring; for pieces, rows must be dense and begin at multiples of 16 bytes.
enum class Order { kRows, kSteps, kPieces };
constexpr int kPieceSteps = 8;  // at most

// Rows by steps, of one batch, from the first row of the block on.
struct Matrix {
  char* data;
  int64_t row_stride, step_stride;

  BDAM_DEVICE Matrix(const Tensor& t, int64_t offset, int64_t rows, int64_t steps)
      : data(static_cast<char*>(t.data) + offset * (t.dtype == DType::f32 ? 4 : 2)),
        row_stride(rows),
        step_stride(steps) {}
  BDAM_DEVICE int64_t offset(int row, int step) const { return row * row_stride + step * step_stride; }
  template <class Type>
  BDAM_DEVICE typename Type::Bits* at(int row, int step) const {
    return reinterpret_cast<typename Type::Bits*>(data) + offset(row, step);
  }
};

// A thread's elements of a tile of kRows rows by kTile steps.
template <int kRows, Order kOrder>
struct Elements {
  static_assert(kOrder != Order::kRows || kRows <= kThreads);
  static constexpr int kCount = (kRows * kTile + kThreads - 1) / kThreads;
  static constexpr int kRowIncrement = kOrder == Order::kSteps ? kThreads / kTile : 0;
  static constexpr int kStepIncrement = kOrder == Order::kRows ? kThreads / kRows : kOrder == Order::kPieces ? 1 : 0;
  const int thread = opaque(thread_index());
  const int row = kOrder == Order::kRows    ? thread % kRows
                  : kOrder == Order::kSteps ? thread / kTile
                                            : thread * kCount / kTile;
  const int step = kOrder == Order::kRows    ? thread / kRows
                   : kOrder == Order::kSteps ? thread % kTile
                                             : thread * kCount % kTile;

  // visit(i, row, step) for each of them.
  template <class Visit>
  BDAM_DEVICE void each(Visit visit) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int r = row + i * kRowIncrement, s = step + i * kStepIncrement;
      if (kRows * kTile >= kThreads || (r < kRows && s < kTile)) visit(i, r, s);
    }
  }
  // visit(i, row, step, address) with the address of each in a matrix of the type, whose first step is `time`.
  template <class Type, class Visit>
  BDAM_DEVICE void each_in(const Matrix& m, int time, Visit visit) const {
    auto* address = m.template at<Type>(row, time + step);
    const int64_t increment = m.offset(kRowIncrement, kStepIncrement);
    each([&](int i, int r, int s) {
      visit(i, r, s, address);
      address += increment;
    });
  }
};

// How the matrices of channels by time are accessed.
template <class Type_, Order kOrder_>
struct Access {
  using Type = Type_;
  static constexpr Order kOrder = kOrder_;
};

// A thread's part of a tile on its way from or to memory: bits, so that nothing waits for them before they are used. Of
// a piece of 16-bit elements two are in a word, the first one low.
template <int kRows>
struct Fetched {
  static constexpr int kCount = Elements<kRows, Order::kSteps>::kCount;
  uint32_t bits[kCount] = {};

  template <class Access>
  static constexpr bool kHalves = Access::kOrder == Order::kPieces && sizeof(typename Access::Type::Bits) == 2;

  template <class Access>
  BDAM_DEVICE float value(int i) const {
    using Type = typename Access::Type;
    if constexpr (kHalves<Access>) {
      return Type::value(static_cast<uint16_t>(i % 2 ? bits[i / 2] >> 16 : bits[i / 2]));
    } else {
      return Type::value(bits[i]);
    }
  }
  template <class Access>
  BDAM_DEVICE void set(int i, uint32_t x) {
    if constexpr (kHalves<Access>) {
      bits[i / 2] = i % 2 ? bits[i / 2] | x << 16 : x;
    } else {
      bits[i] = x;
    }
  }

  // Zero if it does not exist.
  template <class Type>
  BDAM_DEVICE void load_piece(const Matrix& m, int row, int step, bool exists) {
    Piece<Type> piece{};
    if (exists) piece = *in_memory<Type>(m, row, step);
#pragma unroll
    for (int i = 0; i < Piece<Type>::kWords; ++i) bits[i] = piece.words[i];
    if (m.step_stride < 0) turn<Type>();
  }
  template <class Type>
  BDAM_DEVICE void store_piece(const Matrix& m, int row, int step) {
    if (m.step_stride < 0) turn<Type>();
    Piece<Type> piece;
#pragma unroll
    for (int i = 0; i < Piece<Type>::kWords; ++i) piece.words[i] = bits[i];
    *in_memory<Type>(m, row, step) = piece;
  }

 private:
  template <class Type>
  struct alignas(kCount * sizeof(typename Type::Bits) < 16 ? kCount * sizeof(typename Type::Bits) : 16) Piece {
    static constexpr int kWords = kCount * sizeof(typename Type::Bits) / 4;
    uint32_t words[kWords];
  };
  // The piece whose first step is `step`, which is its last in memory where time is reversed.
  template <class Type>
  BDAM_DEVICE static Piece<Type>* in_memory(const Matrix& m, int row, int step) {
    return reinterpret_cast<Piece<Type>*>(m.template at<Type>(row, m.step_stride < 0 ? step + kCount - 1 : step));
  }
  // Puts a piece's elements in the opposite order.
  template <class Type>
  BDAM_DEVICE void turn() {
    constexpr int kWords = Piece<Type>::kWords;
    const auto turned = [](uint32_t x) { return sizeof(typename Type::Bits) == 2 ? x >> 16 | x << 16 : x; };
#pragma unroll
    for (int i = 0; i < kWords / 2; ++i) {
      const uint32_t x = bits[i];
      bits[i] = turned(bits[kWords - 1 - i]);
      bits[kWords - 1 - i] = turned(x);
    }
  }
};

}  // namespace bdam::scan
