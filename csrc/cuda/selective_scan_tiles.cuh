// How the threads of a block share a tile of rows (channels or states) by steps, and how its elements come and go.
#pragma once

#include "primitives.cuh"

namespace bdam::scan {

constexpr int kWarps = 4, kThreads = 32 * kWarps;
constexpr int kTile = 16;  // steps in shared memory at once

// Which elements neighbouring threads have. Pieces of 16 bytes a thread, where rows are aligned, take a quarter fewer
// instructions, and were 6 to 12% slower forward on an H200.
enum class Order { kRows, kSteps };

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
  static constexpr int kStepIncrement = kOrder == Order::kRows ? kThreads / kRows : 0;
  const int thread = opaque(thread_index());
  const int row = kOrder == Order::kRows ? thread % kRows : thread / kTile;
  const int step = kOrder == Order::kRows ? thread / kRows : thread % kTile;

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

// A thread's part of a tile on its way from memory: bits, so that nothing waits for them before they are used.
template <int kRows>
struct Fetched {
  uint32_t bits[Elements<kRows, Order::kSteps>::kCount] = {};

  template <class Access>
  BDAM_DEVICE float value(int i) const {
    return Access::Type::value(bits[i]);
  }
};

}  // namespace bdam::scan
