// Tiles of a (channel, time) matrix with any strides, as float rows of kLanes channels: tile[t * pitch + channel].
#pragma once

#include <algorithm>

#include "simd.h"

namespace bdam {

// One (channel, time) matrix in memory. A negative stride_time walks the sequence from its end.
struct Matrix {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t stride_channel = 0;
  int64_t stride_time = 0;

  explicit operator bool() const { return data != nullptr; }
};

namespace detail {

// kLanes channels by up to kLanes steps with |stride_time| = 1, through a transpose in registers.
template <class T>
inline void load_square(const T* p, int64_t stride_channel, bool backwards, int channels, int steps, float* tile,
                        int64_t pitch) {
  vf rows[kLanes];
  const T* first = backwards ? p - (steps - 1) : p;
  for (int c = 0; c < kLanes; ++c) rows[c] = c < channels ? load(first + c * stride_channel, steps) : vf{};
  transpose(rows);
  for (int t = 0; t < steps; ++t) store(tile + t * pitch, rows[backwards ? steps - 1 - t : t]);
}

template <class T>
inline void store_square(T* p, int64_t stride_channel, bool backwards, int channels, int steps, const float* tile,
                         int64_t pitch) {
  vf rows[kLanes];
  for (int t = 0; t < kLanes; ++t) {
    rows[t] = t < steps ? load(tile + (backwards ? steps - 1 - t : t) * pitch) : vf{};
  }
  transpose(rows);
  T* first = backwards ? p - (steps - 1) : p;
  for (int c = 0; c < channels; ++c) store(first + c * stride_channel, rows[c], steps);
}

}  // namespace detail

// Asks for a tile that will be read soon: its rows are too many streams for the hardware to foresee. It goes to L2,
// since rows at a large power of two from each other would push each other out of L1. Inlined by force: GCC takes a
// function that only prefetches for one without effect, and drops calls of it.
__attribute__((always_inline)) inline void prefetch_tile(const Matrix& m, int64_t channel, int64_t time,
                                                         int channels, int64_t steps) {
  if (!m || (m.stride_time != 1 && m.stride_time != -1)) return;
  const int64_t bytes = m.dtype == DType::f32 ? 4 : 2;
  const int64_t first = m.stride_time > 0 ? time : -(time + steps - 1);
  for (int c = 0; c < channels; ++c) {
    const char* p = static_cast<const char*>(m.data) + ((channel + c) * m.stride_channel + first) * bytes;
    for (int64_t i = 0; i < steps * bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
  }
}

// Reads `channels` <= kLanes channels from `channel`, and `steps` steps from `time`; other lanes are zero. Both functions
// are kept out of line, where they are compiled once: a call is nothing beside a tile.
__attribute__((noinline)) inline void load_tile(const Matrix& m, int64_t channel, int64_t time, int channels,
                                                int64_t steps, float* tile, int64_t pitch = kLanes) {
  with_type(m.dtype, m.data, [&](auto* data) {
    const auto* p = data + channel * m.stride_channel + time * m.stride_time;
    if (m.stride_time == 1 || m.stride_time == -1) {
      for (int64_t t = 0; t < steps; t += kLanes) {
        detail::load_square(p + t * m.stride_time, m.stride_channel, m.stride_time < 0, channels,
                            static_cast<int>(std::min<int64_t>(kLanes, steps - t)), tile + t * pitch, pitch);
      }
    } else if (m.stride_channel == 1) {
      for (int64_t t = 0; t < steps; ++t) store(tile + t * pitch, load(p + t * m.stride_time, channels));
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        for (int c = 0; c < kLanes; ++c) {
          tile[t * pitch + c] = c < channels ? load(p + t * m.stride_time + c * m.stride_channel, 1)[0] : 0.0f;
        }
      }
    }
  });
}

__attribute__((noinline)) inline void store_tile(const Matrix& m, int64_t channel, int64_t time, int channels,
                                                 int64_t steps, const float* tile, int64_t pitch = kLanes) {
  with_type(m.dtype, m.data, [&](auto* data) {
    auto* p = data + channel * m.stride_channel + time * m.stride_time;
    if (m.stride_time == 1 || m.stride_time == -1) {
      for (int64_t t = 0; t < steps; t += kLanes) {
        detail::store_square(p + t * m.stride_time, m.stride_channel, m.stride_time < 0, channels,
                             static_cast<int>(std::min<int64_t>(kLanes, steps - t)), tile + t * pitch, pitch);
      }
    } else if (m.stride_channel == 1) {
      for (int64_t t = 0; t < steps; ++t) store(p + t * m.stride_time, load(tile + t * pitch), channels);
    } else {
      for (int64_t t = 0; t < steps; ++t) {
        for (int c = 0; c < channels; ++c) {
          store(p + t * m.stride_time + c * m.stride_channel, splat(tile[t * pitch + c]), 1);
        }
      }
    }
  });
}

}  // namespace bdam
