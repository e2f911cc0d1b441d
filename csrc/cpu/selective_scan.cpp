// Selective scan on the CPU: a channel a lane, the state of kLanes channels in registers, time walked in chunks.
//
// h_t = 2^(delta_t A') h_{t-1} + delta_t u_t B_t with A' = A log2(e);  y_t = C_t . h_t + D u_t;  out_t = y_t silu(z_t).
//
// Backward stores h only at chunk starts and recomputes it within the chunk that it walks. Gradients of B and C are
// summed over lanes in registers, over the lane blocks of a task in order, and over tasks in order: no atomics, and the
// split into tasks depends on shapes only, so results do not depend on the number of threads.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"
#include "tile.h"

namespace bdam {
inline namespace BDAM_ISA {
namespace {

constexpr int kChunk = 32;  // steps whose h and decay fit in L2 together; a multiple of every kLanes
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

using Buffer = std::vector<float>;

struct Shape {
  int64_t batch, channels, length, states, groups, group_channels, blocks;  // blocks of kLanes channels in a group
  int64_t state_blocks;                                                     // blocks of NB states
};

struct Scan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
  bool delta_softplus, reverse;

  Shape shape(int nb) const {
    const int64_t groups = B.dims == 4 ? B.size[1] : C.dims == 4 ? C.size[1] : 1;
    const int64_t group_channels = u.size[1] / groups;
    return {u.size[0], u.size[1],      u.size[2], A.size[1], groups, group_channels, (group_channels + kLanes - 1) / kLanes,
            (A.size[1] + nb - 1) / nb};
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
template <int NB>
void load_states(const float* p, int64_t stride_channel, int64_t stride_state, int lanes, int64_t states, float* to) {
  const int64_t padded = (states + NB - 1) / NB * NB;
  for (int64_t n = 0; n < padded; ++n) {
    for (int c = 0; c < kLanes; ++c) {
      to[n * kLanes + c] = n < states && c < lanes ? p[c * stride_channel + n * stride_state] : 0.0f;
    }
  }
}

void store_states(const float* from, int lanes, int64_t states, float* p, int64_t stride_channel, int64_t stride_state) {
  for (int64_t n = 0; n < states; ++n) {
    for (int c = 0; c < lanes; ++c) p[c * stride_channel + n * stride_state] = from[n * kLanes + c];
  }
}

// B or C within a chunk: a scalar per (time, state) shared by all lanes, or a lane vector per state for all times.
template <int NB, bool kConstant>
struct Coefficients {
  Buffer values;

  void load_constant(const Tensor& t, int64_t channel, int lanes, const Shape& s) {
    values.resize(s.state_blocks * NB * kLanes);
    load_states<NB>(t.as<float>() + channel * t.stride[0], t.stride[0], t.stride[1], lanes, s.states, values.data());
  }
  void load_chunk(const Matrix& m, int64_t time, int steps, const Shape& s) {
    const int64_t pitch = s.state_blocks * NB;
    values.resize(kChunk * pitch + kLanes);
    for (int64_t n = 0; n < pitch; n += kLanes) {
      const int rows = static_cast<int>(std::clamp<int64_t>(s.states - n, 0, kLanes));
      load_tile(m, n, time, rows, steps, values.data() + n, pitch);
    }
  }
  // State n of block sb at step t.
  vf at(int64_t state_blocks, int t, int64_t sb, int n) const {
    if constexpr (kConstant) return load(values.data() + (sb * NB + n) * kLanes);
    return splat(values[t * state_blocks * NB + sb * NB + n]);
  }
};

// What a lane block needs of one chunk besides B and C.
struct Chunk {
  alignas(64) float u[kChunk * kLanes];
  alignas(64) float delta[kChunk * kLanes];  // after bias and softplus
  alignas(64) float slope[kChunk * kLanes];  // d delta / d (delta before softplus)
};

template <bool kSlope>
void load_inputs(const Scan& scan, const Matrix& u, const Matrix& delta, vf bias, int64_t channel, int64_t time,
                 int lanes, int steps, Chunk& chunk) {
  load_tile(u, channel, time, lanes, steps, chunk.u);
  load_tile(delta, channel, time, lanes, steps, chunk.delta);
  for (int t = 0; t < steps; ++t) {
    const vf x = load(chunk.delta + t * kLanes) + bias;
    store(chunk.delta + t * kLanes, scan.delta_softplus ? softplus(x) : x);
    if (kSlope) store(chunk.slope + t * kLanes, scan.delta_softplus ? sigmoid(x) : splat(1.0f));
  }
}

// The lane vector of an optional (channels,) parameter.
vf load_channels(const Tensor& t, int64_t channel, int lanes) {
  vf x = {};
  for (int c = 0; t && c < lanes; ++c) x[c] = t.as<float>()[(channel + c) * t.stride[0]];
  return x;
}

// Decay rates A' of a lane block, [state][lane].
template <int NB>
void load_rates(const Tensor& A, int64_t channel, int lanes, const Shape& s, Buffer& rates) {
  rates.resize(s.state_blocks * NB * kLanes);
  load_states<NB>(A.as<float>() + channel * A.stride[0], A.stride[0], A.stride[1], lanes, s.states, rates.data());
  for (float& rate : rates) rate *= kLog2e;
}

template <int NB>
void load_initial(const Tensor& state, int64_t batch, int64_t channel, int lanes, const Shape& s, Buffer& h) {
  h.assign(s.state_blocks * NB * kLanes, 0.0f);
  if (!state) return;
  load_states<NB>(state.as<float>() + batch * state.stride[0] + channel * state.stride[1], state.stride[1],
                  state.stride[2], lanes, s.states, h.data());
}

template <int NB, bool kConstB, bool kConstC>
void forward_block(const Scan& scan, const Shape& s, const Tensor& out, const Tensor& last_state, int64_t batch,
                   int64_t group, int64_t block) {
  const int64_t channel = group * s.group_channels + block * kLanes;
  const int lanes = static_cast<int>(std::min<int64_t>(kLanes, s.group_channels - block * kLanes));
  const Matrix u = scan.matrix(scan.u, batch), delta = scan.matrix(scan.delta, batch), z = scan.matrix(scan.z, batch);
  const Matrix y_out = scan.matrix(out, batch);
  const vf bias = load_channels(scan.delta_bias, channel, lanes), D = load_channels(scan.D, channel, lanes);

  Buffer rates, h;
  load_rates<NB>(scan.A, channel, lanes, s, rates);
  load_initial<NB>(scan.initial_state, batch, channel, lanes, s, h);
  Coefficients<NB, kConstB> B;
  Coefficients<NB, kConstC> C;
  if constexpr (kConstB) B.load_constant(scan.B, channel, lanes, s);
  if constexpr (kConstC) C.load_constant(scan.C, channel, lanes, s);
  Chunk chunk;
  alignas(64) float gate[kChunk * kLanes], y[kChunk * kLanes];

  for (int64_t time = 0; time < s.length; time += kChunk) {
    const int steps = static_cast<int>(std::min<int64_t>(kChunk, s.length - time));
    load_inputs<false>(scan, u, delta, bias, channel, time, lanes, steps, chunk);
    if constexpr (!kConstB) B.load_chunk(scan.group_matrix(scan.B, batch, group), time, steps, s);
    if constexpr (!kConstC) C.load_chunk(scan.group_matrix(scan.C, batch, group), time, steps, s);
    for (int t = 0; t < steps; ++t) store(y + t * kLanes, D * load(chunk.u + t * kLanes));

    for (int64_t sb = 0; sb < s.state_blocks; ++sb) {
      const float* rate = rates.data() + sb * NB * kLanes;
      vf state[NB];
      for (int n = 0; n < NB; ++n) state[n] = load(h.data() + (sb * NB + n) * kLanes);
      for (int t = 0; t < steps; ++t) {
        const vf dt = load(chunk.delta + t * kLanes);
        const vf drive = dt * load(chunk.u + t * kLanes);
        vf even = load(y + t * kLanes), odd = {};
#pragma GCC unroll 16
        for (int n = 0; n < NB; n += 2) {
          state[n] = exp2(dt * load(rate + n * kLanes)) * state[n] + drive * B.at(s.state_blocks, t, sb, n);
          state[n + 1] =
              exp2(dt * load(rate + (n + 1) * kLanes)) * state[n + 1] + drive * B.at(s.state_blocks, t, sb, n + 1);
          even += state[n] * C.at(s.state_blocks, t, sb, n);
          odd += state[n + 1] * C.at(s.state_blocks, t, sb, n + 1);
        }
        store(y + t * kLanes, even + odd);
      }
      for (int n = 0; n < NB; ++n) store(h.data() + (sb * NB + n) * kLanes, state[n]);
    }

    if (z) {
      load_tile(z, channel, time, lanes, steps, gate);
      for (int t = 0; t < steps; ++t) {
        const vf x = load(gate + t * kLanes);
        store(y + t * kLanes, load(y + t * kLanes) * x * sigmoid(x));
      }
    }
    store_tile(y_out, channel, time, lanes, steps, y);
  }
  if (last_state) {
    store_states(h.data(), lanes, s.states,
                 last_state.as<float>() + batch * last_state.stride[0] + channel * last_state.stride[1],
                 last_state.stride[1], last_state.stride[2]);
  }
}

struct Gradients {
  Tensor out, last_state;  // arriving
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
};

// Per-task sums of gradients that several tasks share; reduced in task order afterwards.
struct Partials {
  Buffer B, C;                     // [task][time][padded state], for variable B and C
  Buffer A, B_constant, C_constant;  // [batch][channel][state]
  Buffer D, delta_bias;            // [batch][channel]
};

template <int NB, bool kConstB, bool kConstC>
struct BackwardBlock {
  const Scan& scan;
  const Shape& s;
  const Gradients& grads;
  Partials& partials;
  int64_t batch, group, channel, task;
  int lanes;

  Buffer rates, starts, carry, sum_A, sum_B, sum_C;  // [state][lane]; starts: one per chunk
  std::vector<float> h, decay;                       // [time][n][lane] of the chunk being walked; h has one row more
  Coefficients<NB, kConstB> B;
  Coefficients<NB, kConstC> C;
  Chunk chunk;
  alignas(64) float g[kChunk * kLanes], y[kChunk * kLanes], from_B[kChunk * kLanes], from_A[kChunk * kLanes];

  int64_t padded() const { return s.state_blocks * NB; }

  template <bool kSlope>
  void load_chunk(int64_t time, int steps, const Matrix& u, const Matrix& delta, vf bias) {
    load_inputs<kSlope>(scan, u, delta, bias, channel, time, lanes, steps, chunk);
    if constexpr (!kConstB) B.load_chunk(scan.group_matrix(scan.B, batch, group), time, steps, s);
    if constexpr (!kConstC) C.load_chunk(scan.group_matrix(scan.C, batch, group), time, steps, s);
  }

  // Walks the whole sequence forward, keeping the state at every chunk's start.
  void find_starts(const Matrix& u, const Matrix& delta, vf bias) {
    const int64_t chunks = (s.length + kChunk - 1) / kChunk, row = padded() * kLanes;
    load_initial<NB>(scan.initial_state, batch, channel, lanes, s, starts);
    starts.resize(chunks * row);
    for (int64_t c = 0; c + 1 < chunks; ++c) {
      load_chunk<false>(c * kChunk, kChunk, u, delta, bias);
      for (int64_t sb = 0; sb < s.state_blocks; ++sb) {
        const float* rate = rates.data() + sb * NB * kLanes;
        const float* from = starts.data() + c * row + sb * NB * kLanes;
        vf state[NB];
        for (int n = 0; n < NB; ++n) state[n] = load(from + n * kLanes);
        for (int t = 0; t < kChunk; ++t) {
          const vf dt = load(chunk.delta + t * kLanes);
          const vf drive = dt * load(chunk.u + t * kLanes);
#pragma GCC unroll 16
          for (int n = 0; n < NB; ++n) {
            state[n] = exp2(dt * load(rate + n * kLanes)) * state[n] + drive * B.at(s.state_blocks, t, sb, n);
          }
        }
        for (int n = 0; n < NB; ++n) store(starts.data() + (c + 1) * row + (sb * NB + n) * kLanes, state[n]);
      }
    }
  }

  // h and decay at every step of the chunk, and the block's share of y.
  void recompute(int64_t sb, int steps, const float* start) {
    const float* rate = rates.data() + sb * NB * kLanes;
    vf state[NB];
    for (int n = 0; n < NB; ++n) {
      state[n] = load(start + n * kLanes);
      store(h.data() + n * kLanes, state[n]);
    }
    for (int t = 0; t < steps; ++t) {
      const vf dt = load(chunk.delta + t * kLanes);
      const vf drive = dt * load(chunk.u + t * kLanes);
      vf sum = load(y + t * kLanes);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) {
        const vf a = exp2(dt * load(rate + n * kLanes));
        state[n] = a * state[n] + drive * B.at(s.state_blocks, t, sb, n);
        sum += state[n] * C.at(s.state_blocks, t, sb, n);
        store(decay.data() + (t * NB + n) * kLanes, a);
        store(h.data() + ((t + 1) * NB + n) * kLanes, state[n]);
      }
      store(y + t * kLanes, sum);
    }
  }

  // Adds the sums over lanes of rows[0..NB) to to[0..NB).
  static void add_row_sums(vf* rows, float* to) {
    constexpr int kRows = NB < kLanes ? kLanes : NB;
    for (int n = NB; n < kRows; ++n) rows[n] = vf{};
    for (int n = 0; n < kRows; n += kLanes) {
      const vf sums = row_sums(rows + n);
      if constexpr (NB < kLanes) {
        for (int i = 0; i < NB; ++i) to[i] += sums[i];
      } else {
        store(to + n, load(to + n) + sums);
      }
    }
  }

  // Walks the chunk backwards: dh_t = C_t g_t + decay_{t+1} dh_{t+1}.
  void walk(int64_t sb, int64_t time, int steps) {
    const float* rate = rates.data() + sb * NB * kLanes;
    const int64_t row = sb * NB * kLanes;
    float* to_B = kConstB ? nullptr : partials.B.data() + ((task * s.length + time) * s.state_blocks + sb) * NB;
    float* to_C = kConstC ? nullptr : partials.C.data() + ((task * s.length + time) * s.state_blocks + sb) * NB;
    vf dh[NB], dA[NB];
    for (int n = 0; n < NB; ++n) dh[n] = load(carry.data() + row + n * kLanes), dA[n] = vf{};
    for (int t = steps - 1; t >= 0; --t) {
      const vf dt = load(chunk.delta + t * kLanes);
      const vf drive = dt * load(chunk.u + t * kLanes);
      const vf grad = load(g + t * kLanes);
      vf rows[NB < kLanes ? kLanes : NB];
      if constexpr (kConstC) {
        for (int n = 0; n < NB; ++n) {
          float* to = sum_C.data() + row + n * kLanes;
          store(to, load(to) + grad * load(h.data() + ((t + 1) * NB + n) * kLanes));
        }
      } else {
#pragma GCC unroll 16
        for (int n = 0; n < NB; ++n) rows[n] = grad * load(h.data() + ((t + 1) * NB + n) * kLanes);
        add_row_sums(rows, to_C + t * padded());
      }
      vf sum_dh_B = load(from_B + t * kLanes), sum_dh_A = load(from_A + t * kLanes);
#pragma GCC unroll 16
      for (int n = 0; n < NB; ++n) {
        const vf d = dh[n] + grad * C.at(s.state_blocks, t, sb, n);
        rows[n] = drive * d;
        sum_dh_B += d * B.at(s.state_blocks, t, sb, n);
        dh[n] = d * load(decay.data() + (t * NB + n) * kLanes);
        const vf q = dh[n] * load(h.data() + (t * NB + n) * kLanes);
        sum_dh_A += q * load(rate + n * kLanes);
        dA[n] += dt * q;
      }
      store(from_B + t * kLanes, sum_dh_B);
      store(from_A + t * kLanes, sum_dh_A);
      if constexpr (kConstB) {
        for (int n = 0; n < NB; ++n) {
          float* to = sum_B.data() + row + n * kLanes;
          store(to, load(to) + rows[n]);
        }
      } else {
        add_row_sums(rows, to_B + t * padded());
      }
    }
    for (int n = 0; n < NB; ++n) {
      store(carry.data() + row + n * kLanes, dh[n]);
      store(sum_A.data() + row + n * kLanes, load(sum_A.data() + row + n * kLanes) + dA[n]);
    }
  }

  void run() {
    const Matrix u = scan.matrix(scan.u, batch), delta = scan.matrix(scan.delta, batch), z = scan.matrix(scan.z, batch);
    const Matrix grad_out = scan.matrix(grads.out, batch), grad_u = scan.matrix(grads.u, batch);
    const Matrix grad_delta = scan.matrix(grads.delta, batch), grad_z = scan.matrix(grads.z, batch);
    const vf bias = load_channels(scan.delta_bias, channel, lanes), D = load_channels(scan.D, channel, lanes);
    const int64_t row = padded() * kLanes;
    load_rates<NB>(scan.A, channel, lanes, s, rates);
    if constexpr (kConstB) B.load_constant(scan.B, channel, lanes, s), sum_B.assign(row, 0.0f);
    if constexpr (kConstC) C.load_constant(scan.C, channel, lanes, s), sum_C.assign(row, 0.0f);
    sum_A.assign(row, 0.0f);
    h.resize((kChunk + 1) * NB * kLanes);
    decay.resize(kChunk * NB * kLanes);
    find_starts(u, delta, bias);
    load_initial<NB>(grads.last_state, batch, channel, lanes, s, carry);

    vf sum_D = {}, sum_bias = {};
    alignas(64) float gate[kChunk * kLanes];
    for (int64_t c = (s.length - 1) / kChunk; c >= 0; --c) {
      const int64_t time = c * kChunk;
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, s.length - time));
      load_chunk<true>(time, steps, u, delta, bias);
      load_tile(grad_out, channel, time, lanes, steps, g);
      if (z) load_tile(z, channel, time, lanes, steps, gate);
      // With a gate, g holds dout until y is known; the scan needs dout silu(z).
      alignas(64) float dout[kChunk * kLanes];
      for (int t = 0; t < steps; ++t) {
        const vf ut = load(chunk.u + t * kLanes), zt = load(gate + t * kLanes);
        store(y + t * kLanes, D * ut);
        store(from_A + t * kLanes, vf{});
        store(from_B + t * kLanes, vf{});
        if (z) {
          store(dout + t * kLanes, load(g + t * kLanes));
          store(g + t * kLanes, load(g + t * kLanes) * zt * sigmoid(zt));
        }
        sum_D += load(g + t * kLanes) * ut;
      }
      for (int64_t sb = 0; sb < s.state_blocks; ++sb) {
        recompute(sb, steps, starts.data() + c * row + sb * NB * kLanes);
        walk(sb, time, steps);
      }
      for (int t = 0; t < steps; ++t) {
        const int at = t * kLanes;
        const vf dt = load(chunk.delta + at), ut = load(chunk.u + at);
        const vf grad_dt = (ut * load(from_B + at) + kLn2 * load(from_A + at)) * load(chunk.slope + at);
        sum_bias += grad_dt;
        store(chunk.u + at, D * load(g + at) + dt * load(from_B + at));
        store(chunk.delta + at, grad_dt);
        if (z) {
          const vf zt = load(gate + at), sz = sigmoid(zt);
          store(gate + at, load(dout + at) * load(y + at) * sz * (1.0f + zt * (1.0f - sz)));
        }
      }
      store_tile(grad_u, channel, time, lanes, steps, chunk.u);
      store_tile(grad_delta, channel, time, lanes, steps, chunk.delta);
      if (z) store_tile(grad_z, channel, time, lanes, steps, gate);
    }
    store_sums(sum_D, sum_bias);
  }

  void store_sums(vf sum_D, vf sum_bias) {
    const int64_t at = batch * s.channels + channel;
    store_states(sum_A.data(), lanes, s.states, partials.A.data() + at * s.states, s.states, 1);
    if constexpr (kConstB) {
      store_states(sum_B.data(), lanes, s.states, partials.B_constant.data() + at * s.states, s.states, 1);
    }
    if constexpr (kConstC) {
      store_states(sum_C.data(), lanes, s.states, partials.C_constant.data() + at * s.states, s.states, 1);
    }
    store(partials.D.data() + at, sum_D, lanes);
    store(partials.delta_bias.data() + at, sum_bias, lanes);
    if (const Tensor& to = grads.initial_state) {
      store_states(carry.data(), lanes, s.states, to.as<float>() + batch * to.stride[0] + channel * to.stride[1],
                   to.stride[1], to.stride[2]);
    }
  }
};

// Calls body with the state block size and which of B and C are constant, as compile-time values.
template <class Body>
void dispatch(const Scan& scan, const Body& body) {
  const bool const_B = scan.B.dims == 2, const_C = scan.C.dims == 2;
  const auto with_flags = [&](auto nb) {
    using False = std::false_type;
    using True = std::true_type;
    if (const_B) return const_C ? body(nb, True{}, True{}) : body(nb, True{}, False{});
    return const_C ? body(nb, False{}, True{}) : body(nb, False{}, False{});
  };
  if (scan.A.size[1] <= 8) return with_flags(std::integral_constant<int, 8>{});
  return with_flags(std::integral_constant<int, 16>{});
}

// to[i] = sum over rows of from[row * count + i], in row order.
void sum_rows(int threads, const Buffer& from, int64_t rows, int64_t count, const Tensor& to) {
  if (!to) return;
  constexpr int64_t kPiece = 4096;
  parallel_for(threads, (count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t end = std::min(count, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < end; ++i) {
      float total = 0.0f;
      for (int64_t row = 0; row < rows; ++row) total += from[row * count + i];
      to.as<float>()[i] = total;
    }
  });
}

// Sums the partial gradients of variable B or C over the tasks of each (batch, group) and lays them out as (state, time).
void sum_tasks(int threads, const Scan& scan, const Shape& s, const Buffer& partial, int64_t padded,
               int64_t tasks_per_group, const Tensor& to) {
  parallel_for(threads, s.batch * s.groups, [&](int64_t bg) {
    const Matrix m = scan.group_matrix(to, bg / s.groups, bg % s.groups);
    const float* first = partial.data() + bg * tasks_per_group * s.length * padded;
    Buffer sums(kChunk * kLanes);
    for (int64_t time = 0; time < s.length; time += kChunk) {
      const int steps = static_cast<int>(std::min<int64_t>(kChunk, s.length - time));
      for (int64_t n = 0; n < s.states; n += kLanes) {
        const int rows = static_cast<int>(std::min<int64_t>(kLanes, s.states - n));
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t task = 0; task < tasks_per_group; ++task) {
          const float* from = first + (task * s.length + time) * padded + n;
          for (int t = 0; t < steps; ++t) {
            for (int i = 0; i < rows; ++i) sums[t * kLanes + i] += from[t * padded + i];
          }
        }
        store_tile(m, n, time, rows, steps, sums.data());
      }
    }
  });
}

}  // namespace

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& out, const Tensor& last_state, bool delta_softplus, bool reverse,
                            int threads) {
  const Scan scan{u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse};
  dispatch(scan, [&](auto nb, auto const_B, auto const_C) {
    const Shape s = scan.shape(nb);
    parallel_for(threads, s.batch * s.groups * s.blocks, [&](int64_t i) {
      const int64_t block = i % s.blocks, group = i / s.blocks % s.groups, batch = i / s.blocks / s.groups;
      forward_block<nb, const_B, const_C>(scan, s, out, last_state, batch, group, block);
    });
  });
}

void selective_scan_backward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                             const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                             const Tensor& grad_out, const Tensor& grad_last_state, const Tensor& grad_u,
                             const Tensor& grad_delta, const Tensor& grad_A, const Tensor& grad_B, const Tensor& grad_C,
                             const Tensor& grad_D, const Tensor& grad_z, const Tensor& grad_delta_bias,
                             const Tensor& grad_initial_state, bool delta_softplus, bool reverse, int threads) {
  const Scan scan{u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, reverse};
  const Gradients grads{grad_out, grad_last_state, grad_u, grad_delta,      grad_A,           grad_B,
                        grad_C,   grad_D,          grad_z, grad_delta_bias, grad_initial_state};
  dispatch(scan, [&](auto nb, auto const_B, auto const_C) {
    constexpr int64_t kTasks = 32;  // enough for balance on any CPU, few enough to keep the partial sums small
    const Shape s = scan.shape(nb);
    const int64_t groups = s.batch * s.groups, padded = s.state_blocks * nb;
    const int64_t per_group = std::clamp<int64_t>(kTasks / groups, 1, s.blocks);
    Partials partials;
    if (!const_B) partials.B.assign(groups * per_group * s.length * padded, 0.0f);
    if (!const_C) partials.C.assign(groups * per_group * s.length * padded, 0.0f);
    partials.A.resize(s.batch * s.channels * s.states);
    if (const_B) partials.B_constant.resize(s.batch * s.channels * s.states);
    if (const_C) partials.C_constant.resize(s.batch * s.channels * s.states);
    partials.D.resize(s.batch * s.channels);
    partials.delta_bias.resize(s.batch * s.channels);

    parallel_for(threads, groups * per_group, [&](int64_t task) {
      const int64_t group = task / per_group % s.groups, batch = task / per_group / s.groups;
      const int64_t part = task % per_group;
      for (int64_t block = part * s.blocks / per_group; block < (part + 1) * s.blocks / per_group; ++block) {
        BackwardBlock<nb, const_B, const_C> work{scan, s, grads, partials, batch, group,
                                                 group * s.group_channels + block * kLanes, task,
                                                 static_cast<int>(std::min<int64_t>(kLanes, s.group_channels - block * kLanes))};
        work.run();
      }
    });

    const int64_t states = s.channels * s.states;
    sum_rows(threads, partials.A, s.batch, states, grads.A);
    sum_rows(threads, partials.D, s.batch, s.channels, grads.D);
    sum_rows(threads, partials.delta_bias, s.batch, s.channels, grads.delta_bias);
    if (const_B) {
      sum_rows(threads, partials.B_constant, s.batch, states, grads.B);
    } else {
      sum_tasks(threads, scan, s, partials.B, padded, per_group, grads.B);
    }
    if (const_C) {
      sum_rows(threads, partials.C_constant, s.batch, states, grads.C);
    } else {
      sum_tasks(threads, scan, s, partials.C, padded, per_group, grads.C);
    }
  });
}

}  // namespace BDAM_ISA
}  // namespace bdam
