// Selective scan on the CPU: a channel a lane, the state of kLanes channels in registers, time walked in chunks.
//
// h_t = 2^(delta_t A') h_{t-1} + delta_t u_t B_t with A' = A log2(e);  y_t = C_t . h_t + D u_t;  out_t = y_t silu(z_t).
//
// This header holds what forward and backward share. The split of the work into tasks depends on shapes only, so
// results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"
#include "tile.h"

namespace bdam {
namespace scan {

constexpr int kChunk = 32;  // steps whose h and decay fit in L2 together; a multiple of every kLanes
constexpr int kInStep = kVectorBytes / 8;  // states whose exponentials go in step: half of what the registers hold

using Buffer = std::vector<float>;

struct Shape {
  int64_t batch, channels, length, states, groups;
  int64_t group_channels, blocks;  // of a group: its channels, and its blocks of kLanes channels
  int64_t state_blocks, padded;    // blocks of NB states, and the states that they hold
  int64_t tasks_per_group;         // a task is a range of one group's blocks in one batch element
  int64_t batch_parts;             // ranges of batch elements, whose tasks follow each other

  int64_t tasks() const { return batch * groups * tasks_per_group; }
  int64_t all_blocks() const { return groups * blocks; }
  // Of one of all blocks.
  int64_t first_channel(int64_t block) const { return block / blocks * group_channels + block % blocks * kLanes; }
  int lanes(int64_t block) const {
    return static_cast<int>(std::min<int64_t>(kLanes, group_channels - block % blocks * kLanes));
  }
};

// Calls body(part of the batch, task) for every task.
template <class Body>
void for_tasks(int threads, const Shape& s, const Body& body) {
  const int64_t of_element = s.groups * s.tasks_per_group;
  parallel_for(threads, s.batch_parts * of_element, [&](int64_t index) {
    const int64_t part = index / of_element;
    for (int64_t b = part * s.batch / s.batch_parts; b < (part + 1) * s.batch / s.batch_parts; ++b) {
      body(part, b * of_element + index % of_element);
    }
  });
}

// B or C of one group, (B, N, L), as (B, G, N, L).
inline Tensor with_groups(Tensor t) {
  if (t.dims != 3) return t;
  t.dims = 4;
  std::copy_backward(t.size + 1, t.size + 3, t.size + 4);
  std::copy_backward(t.stride + 1, t.stride + 3, t.stride + 4);
  t.size[1] = 1;
  return t;
}

struct Scan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
  Tensor resets;  // (B, L), true where a step starts from a state of zero; dense
  bool delta_softplus, reverse;

  Shape shape(int nb) const {
    constexpr int64_t kTasks = 32;  // enough for balance on any CPU, few enough to keep partial sums small
    Shape s;
    s.batch = u.size[0], s.channels = u.size[1], s.length = u.size[2], s.states = A.size[1];
    s.groups = B.dims == 4 ? B.size[1] : C.dims == 4 ? C.size[1] : 1;
    s.group_channels = s.channels / s.groups;
    s.blocks = (s.group_channels + kLanes - 1) / kLanes;
    s.state_blocks = (s.states + nb - 1) / nb;
    s.padded = s.state_blocks * nb;
    // Gradients of A are summed by part, C N numbers each, and those of B and C by task, 2 L N numbers each: as many
    // parts as make the fewest numbers.
    const double parts = std::sqrt(2.0 * kTasks * s.batch * s.length / std::max<int64_t>(s.channels, 1));
    s.batch_parts = std::clamp<int64_t>(parts, 1, std::max<int64_t>(s.batch, 1));
    s.tasks_per_group = std::clamp<int64_t>(kTasks / (s.batch_parts * s.groups), 1, s.blocks);
    return s;
  }

  // The (channel, time) matrix of one batch element, walked in scan order.
  Matrix matrix(const Tensor& t, int64_t batch) const {
    if (!t) return {};
    return walk(t, batch * t.stride[0], t.stride[1], t.stride[2], t.size[2]);
  }
  // The (state, time) matrix of one batch element and group of B or C.
  Matrix group_matrix(const Tensor& t, int64_t batch, int64_t group) const {
    return walk(t, batch * t.stride[0] + group * t.stride[1], t.stride[2], t.stride[3], t.size[3]);
  }

 private:
  Matrix walk(const Tensor& t, int64_t offset, int64_t stride_channel, int64_t stride_time, int64_t length) const {
    if (reverse) offset += (length - 1) * stride_time;
    const int64_t bytes = t.dtype == DType::f32 ? 4 : 2;
    return {t.as<char>() + offset * bytes, t.dtype, stride_channel, reverse ? -stride_time : stride_time};
  }
};

// Lane vectors of a float (channel, state) matrix, as [state][lane]; zero where either index is out of range.
inline void load_states(const Tensor& m, int64_t offset, int64_t stride_channel, int64_t stride_state, int lanes,
                        const Shape& s, float* to) {
  std::fill_n(to + s.states * kLanes, (s.padded - s.states) * kLanes, 0.0f);
  load_tile({m.as<float>() + offset, DType::f32, stride_channel, stride_state}, 0, 0, lanes, s.states, to);
}

inline void store_states(const float* from, int lanes, int64_t states, float* p, int64_t stride_channel,
                         int64_t stride_state) {
  store_tile({p, DType::f32, stride_channel, stride_state}, 0, 0, lanes, states, from);
}

// B or C: a scalar per (time, state) shared by a group's lanes, or one lane vector per state for all times.
template <int NB, bool kConstant>
struct Coefficients {
  Buffer values;

  // For variable coefficients, once per task; in scan order.
  void load_group(const Matrix& m, const Shape& s) {
    if constexpr (kConstant) return;
    values.resize(s.length * s.padded + kLanes);
    // From the last states on: where these are fewer than kLanes, whole vectors reach into the next row, whose first
    // states then come after them.
    for (int64_t n = (s.padded - 1) / kLanes * kLanes; n >= 0; n -= kLanes) {
      const int rows = static_cast<int>(std::clamp<int64_t>(s.states - n, 0, kLanes));
      load_tile(m, n, 0, rows, s.length, values.data() + n, s.padded);
    }
  }
  // For constant coefficients, once per lane block.
  void load_block(const Tensor& t, int64_t channel, int lanes, const Shape& s) {
    if constexpr (!kConstant) return;
    values.resize(s.padded * kLanes);
    load_states(t, channel * t.stride[0], t.stride[0], t.stride[1], lanes, s, values.data());
  }
  // At a time of the scan, from state n on: at(row(...), i) is state n + i.
  const float* row(int64_t padded, int64_t time, int64_t n) const {
    return values.data() + (kConstant ? n * kLanes : time * padded + n);
  }
  static vf at(const float* row, int i) {
    if constexpr (kConstant) return load(row + i * kLanes);
    return splat(row[i]);
  }
};

// Decay rates A' of all lane blocks, [group][block][state][lane].
inline Buffer load_rates(const Tensor& A, const Shape& s) {
  Buffer rates(s.all_blocks() * s.padded * kLanes);
  for (int64_t i = 0; i < s.all_blocks(); ++i) {
    float* to = rates.data() + i * s.padded * kLanes;
    load_states(A, s.first_channel(i) * A.stride[0], A.stride[0], A.stride[1], s.lanes(i), s, to);
    for (int64_t j = 0; j < s.padded * kLanes; ++j) to[j] *= kLog2e;
  }
  return rates;
}

// What a lane block needs of one chunk besides B and C; [time][lane].
struct Chunk {
  alignas(64) float u[kChunk * kLanes];
  alignas(64) float delta[kChunk * kLanes];  // after bias and softplus
  alignas(64) float slope[kChunk * kLanes];  // d delta / d (delta before softplus)
};

// What forward and backward share: one task's place, its coefficients, and the lane block at hand.
template <int NB, bool kConstB, bool kConstC>
struct Task {
  const Scan& scan;
  const Shape& s;
  const Buffer& all_rates;
  int64_t index, batch, group;
  const bool* resets;  // of the batch element, in memory's order; null if there are none
  Matrix u, delta, z;
  Coefficients<NB, kConstB> B;
  Coefficients<NB, kConstC> C;

  int64_t block = 0, channel = 0;  // of all lane blocks, and its first channel
  int lanes = 0;
  const float* rates = nullptr;
  vf bias = {}, D = {};
  Chunk chunk;

  Task(const Scan& scan, const Shape& s, const Buffer& rates, int64_t index)
      : scan(scan), s(s), all_rates(rates), index(index), batch(index / s.tasks_per_group / s.groups),
        group(index / s.tasks_per_group % s.groups),
        resets(scan.resets ? scan.resets.as<bool>() + batch * s.length : nullptr), u(scan.matrix(scan.u, batch)),
        delta(scan.matrix(scan.delta, batch)), z(scan.matrix(scan.z, batch)) {
    if (!kConstB) B.load_group(scan.group_matrix(scan.B, batch, group), s);
    if (!kConstC) C.load_group(scan.group_matrix(scan.C, batch, group), s);
  }

  // Calls body() for every lane block of the task.
  template <class Body>
  void for_each_block(const Body& body) {
    const int64_t part = index % s.tasks_per_group;
    for (int64_t i = part * s.blocks / s.tasks_per_group; i < (part + 1) * s.blocks / s.tasks_per_group; ++i) {
      block = group * s.blocks + i;
      channel = s.first_channel(block);
      lanes = s.lanes(block);
      rates = all_rates.data() + block * s.padded * kLanes;
      bias = load_channels(scan.delta_bias);
      D = load_channels(scan.D);
      if (kConstB) B.load_block(scan.B, channel, lanes, s);
      if (kConstC) C.load_block(scan.C, channel, lanes, s);
      body();
    }
  }

  vf load_channels(const Tensor& t) const { return t ? load(t.as<float>() + channel, lanes) : vf{}; }

  // A (batch, channel, state) tensor's lane vectors, zero if it is absent.
  void load_state(const Tensor& t, Buffer& to) const {
    to.assign(s.padded * kLanes, 0.0f);
    if (t) {
      load_states(t, batch * t.stride[0] + channel * t.stride[1], t.stride[1], t.stride[2], lanes, s, to.data());
    }
  }
  void store_state(const Buffer& from, const Tensor& t) const {
    if (!t) return;
    float* p = t.as<float>() + batch * t.stride[0] + channel * t.stride[1];
    store_states(from.data(), lanes, s.states, p, t.stride[1], t.stride[2]);
  }

  int steps_from(int64_t time) const { return static_cast<int>(std::min<int64_t>(kChunk, s.length - time)); }

  // Prefetches the chunk at a time, or the next block's first chunk if that time lies outside the sequence.
  __attribute__((always_inline)) void prefetch(int64_t time) const {
    const bool inside = time >= 0 && time < s.length;
    const int64_t first = inside ? channel : channel + kLanes, from = inside ? time : 0;
    if (first + lanes > s.channels) return;
    for (const Matrix& m : {u, delta, z}) prefetch_tile(m, first, from, lanes, steps_from(from));
  }

  template <bool kSlope>
  void load_chunk(int64_t time, int steps) {
    load_tile(u, channel, time, lanes, steps, chunk.u);
    load_tile(delta, channel, time, lanes, steps, chunk.delta);
    for (int t = 0; t < steps; ++t) {
      const vf x = load(chunk.delta + t * kLanes) + bias;
      vf slope = splat(1.0f);
      store(chunk.delta + t * kLanes, scan.delta_softplus ? softplus(x, slope) : x);
      if (kSlope) store(chunk.slope + t * kLanes, slope);
    }
  }

  bool is_reset(int64_t time) const { return resets && resets[scan.reverse ? s.length - 1 - time : time]; }

  // Walks NB states from n through the chunk. visit(t, i, state, decay) sees state n + i after every step;
  // after(t) follows the last of them.
  template <class Visit, class After>
  void walk_forward(int64_t n, int64_t time, int steps, float* h, const Visit& visit, const After& after) const {
    const float* rate = rates + n * kLanes;
    vf state[NB];
    for (int i = 0; i < NB; ++i) state[i] = load(h + (n + i) * kLanes);
    for (int t = 0; t < steps; ++t) {
      const vf dt = load(chunk.delta + t * kLanes), drive = dt * load(chunk.u + t * kLanes);
      const float* b = B.row(s.padded, time + t, n);
      const bool reset = is_reset(time + t);
      if (reset) std::fill_n(state, NB, vf{});
#pragma GCC unroll 16
      for (int first = 0; first < NB; first += kInStep) {
        vf decay[kInStep];
#pragma GCC unroll 8
        for (int i = 0; i < kInStep; ++i) decay[i] = dt * load(rate + (first + i) * kLanes);
        exp2<kInStep>(decay);
        if (reset) std::fill_n(decay, kInStep, vf{});
#pragma GCC unroll 8
        for (int i = 0; i < kInStep; ++i) {
          state[first + i] = decay[i] * state[first + i] + drive * B.at(b, first + i);
          visit(t, first + i, state[first + i], decay[i]);
        }
      }
      after(t);
    }
    for (int i = 0; i < NB; ++i) store(h + (n + i) * kLanes, state[i]);
  }
};

// Calls body with the state block size and which of B and C are constant, as compile-time values. Constant ones are rare:
// they come with one block size, since each combination takes seconds to compile.
template <class Body>
void dispatch(const Scan& scan, const Body& body) {
  const bool const_B = scan.B.dims == 2, const_C = scan.C.dims == 2;
  using False = std::false_type;
  using True = std::true_type;
  const std::integral_constant<int, 8> few;
  const std::integral_constant<int, 16> many;
  if (const_B) return const_C ? body(few, True{}, True{}) : body(few, True{}, False{});
  if (const_C) return body(few, False{}, True{});
  return scan.A.size[1] <= 8 ? body(few, False{}, False{}) : body(many, False{}, False{});
}

}  // namespace scan
}  // namespace bdam
