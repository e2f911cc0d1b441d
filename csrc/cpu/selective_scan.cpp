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
constexpr int kInStep = kVectorBytes / 8;  // states whose exponentials go in step: half of what the registers hold
constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

using Buffer = std::vector<float>;

struct Shape {
  int64_t batch, channels, length, states, groups;
  int64_t group_channels, blocks;  // of a group: its channels, and its blocks of kLanes channels
  int64_t state_blocks, padded;    // blocks of NB states, and the states that they hold
  int64_t tasks_per_group;         // a task is a range of one group's blocks in one batch element

  int64_t tasks() const { return batch * groups * tasks_per_group; }
};

struct Scan {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state;
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
    s.tasks_per_group = std::clamp<int64_t>(kTasks / (s.batch * s.groups), 1, s.blocks);
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
void load_states(const Tensor& m, int64_t offset, int64_t stride_channel, int64_t stride_state, int lanes,
                 const Shape& s, float* to) {
  const float* p = m.as<float>() + offset;
  for (int64_t n = 0; n < s.padded; ++n) {
    for (int c = 0; c < kLanes; ++c) {
      to[n * kLanes + c] = n < s.states && c < lanes ? p[c * stride_channel + n * stride_state] : 0.0f;
    }
  }
}

void store_states(const float* from, int lanes, int64_t states, float* p, int64_t stride_channel,
                  int64_t stride_state) {
  for (int64_t n = 0; n < states; ++n) {
    for (int c = 0; c < lanes; ++c) p[c * stride_channel + n * stride_state] = from[n * kLanes + c];
  }
}

// B or C: a scalar per (time, state) shared by a group's lanes, or one lane vector per state for all times.
template <int NB, bool kConstant>
struct Coefficients {
  Buffer values;

  // For variable coefficients, once per task; in scan order.
  void load_group(const Matrix& m, const Shape& s) {
    if constexpr (kConstant) return;
    values.resize(s.length * s.padded + kLanes);
    for (int64_t n = 0; n < s.padded; n += kLanes) {
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
Buffer load_rates(const Tensor& A, const Shape& s) {
  Buffer rates(s.groups * s.blocks * s.padded * kLanes);
  for (int64_t i = 0; i < s.groups * s.blocks; ++i) {
    const int64_t within = i % s.blocks * kLanes, channel = i / s.blocks * s.group_channels + within;
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, s.group_channels - within));
    float* to = rates.data() + i * s.padded * kLanes;
    load_states(A, channel * A.stride[0], A.stride[0], A.stride[1], lanes, s, to);
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
  Matrix u, delta, z;
  Coefficients<NB, kConstB> B;
  Coefficients<NB, kConstC> C;

  int64_t channel = 0;  // first channel of the lane block
  int lanes = 0;
  const float* rates = nullptr;
  vf bias = {}, D = {};
  Chunk chunk;

  Task(const Scan& scan, const Shape& s, const Buffer& rates, int64_t index)
      : scan(scan), s(s), all_rates(rates), index(index), batch(index / s.tasks_per_group / s.groups),
        group(index / s.tasks_per_group % s.groups), u(scan.matrix(scan.u, batch)),
        delta(scan.matrix(scan.delta, batch)), z(scan.matrix(scan.z, batch)) {
    if (!kConstB) B.load_group(scan.group_matrix(scan.B, batch, group), s);
    if (!kConstC) C.load_group(scan.group_matrix(scan.C, batch, group), s);
  }

  // Calls body() for every lane block of the task.
  template <class Body>
  void for_each_block(const Body& body) {
    const int64_t part = index % s.tasks_per_group;
    for (int64_t i = part * s.blocks / s.tasks_per_group; i < (part + 1) * s.blocks / s.tasks_per_group; ++i) {
      channel = group * s.group_channels + i * kLanes;
      lanes = static_cast<int>(std::min<int64_t>(kLanes, s.group_channels - i * kLanes));
      rates = all_rates.data() + (group * s.blocks + i) * s.padded * kLanes;
      bias = load_channels(scan.delta_bias);
      D = load_channels(scan.D);
      if (kConstB) B.load_block(scan.B, channel, lanes, s);
      if (kConstC) C.load_block(scan.C, channel, lanes, s);
      body();
    }
  }

  vf load_channels(const Tensor& t) const {
    vf x = {};
    for (int c = 0; t && c < lanes; ++c) x[c] = t.as<float>()[(channel + c) * t.stride[0]];
    return x;
  }

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
      store(chunk.delta + t * kLanes, scan.delta_softplus ? softplus(x) : x);
      if (kSlope) store(chunk.slope + t * kLanes, scan.delta_softplus ? sigmoid(x) : splat(1.0f));
    }
  }

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
#pragma GCC unroll 16
      for (int first = 0; first < NB; first += kInStep) {
        vf decay[kInStep];
#pragma GCC unroll 8
        for (int i = 0; i < kInStep; ++i) decay[i] = dt * load(rate + (first + i) * kLanes);
        exp2<kInStep>(decay);
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

template <int NB, bool kConstB, bool kConstC>
void forward(Task<NB, kConstB, kConstC>& task, const Tensor& out, const Tensor& last_state, Buffer& h) {
  const Shape& s = task.s;
  const Chunk& chunk = task.chunk;
  const Matrix y_out = task.scan.matrix(out, task.batch);
  alignas(64) float gate[kChunk * kLanes], y[kChunk * kLanes];
  task.load_state(task.scan.initial_state, h);
  for (int64_t time = 0; time < s.length; time += kChunk) {
    const int steps = task.steps_from(time);
    task.template load_chunk<false>(time, steps);
    task.prefetch(time + kChunk);
    for (int t = 0; t < steps; ++t) store(y + t * kLanes, task.D * load(chunk.u + t * kLanes));
    for (int64_t n = 0; n < s.padded; n += NB) {
      vf sums[2] = {};
      task.walk_forward(
          n, time, steps, h.data(),
          [&](int t, int i, vf state, vf) { sums[i % 2] += state * task.C.at(task.C.row(s.padded, time + t, n), i); },
          [&](int t) {
            store(y + t * kLanes, load(y + t * kLanes) + sums[0] + sums[1]);
            sums[0] = sums[1] = vf{};
          });
    }
    if (task.z) {
      load_tile(task.z, task.channel, time, task.lanes, steps, gate);
      for (int t = 0; t < steps; ++t) {
        const vf x = load(gate + t * kLanes);
        store(y + t * kLanes, load(y + t * kLanes) * x * sigmoid(x));
      }
    }
    store_tile(y_out, task.channel, time, task.lanes, steps, y);
  }
  task.store_state(h, last_state);
}

// Gradients that a task reads (out, last_state) and writes by itself.
struct Gradients {
  Tensor out, last_state, u, delta, z, initial_state;
};

// Sums of gradients that several tasks share; added up in task order afterwards.
struct Partials {
  Buffer B, C;           // [task][time][padded state]; of constant B and C [batch][channel][state]
  Buffer A;              // [batch][channel][state]
  Buffer D, delta_bias;  // [batch][channel]
};

// Adds the sums over lanes of rows[0], ..., rows[NB - 1] to to[0], ..., to[NB - 1].
template <int NB>
inline void add_row_sums(vf* rows, float* to) {
  if constexpr (NB < kLanes) {
    vf padded[kLanes] = {};
    for (int i = 0; i < NB; ++i) padded[i] = rows[i];
    const vf sums = row_sums(padded);
    for (int i = 0; i < NB; ++i) to[i] += sums[i];
  } else {
    for (int i = 0; i < NB; i += kLanes) store(to + i, load(to + i) + row_sums(rows + i));
  }
}

inline void accumulate(float* to, vf x) { store(to, load(to) + x); }

template <int NB, bool kConstB, bool kConstC>
struct Backward {
  Task<NB, kConstB, kConstC>& task;
  const Gradients& grads;
  Partials& partials;
  const Shape& s = task.s;
  const Chunk& chunk = task.chunk;

  Buffer starts;                              // h at every chunk's start, [chunk][state][lane]
  Buffer carry, sum_A, sum_B, sum_C;          // [state][lane]; carry is dh decay of the step after
  Buffer h = Buffer((kChunk + 1) * NB * kLanes), decay = Buffer(kChunk * NB * kLanes);  // [time][i][lane]
  alignas(64) float g[kChunk * kLanes], y[kChunk * kLanes];  // dL/dy and y; [time][lane]
  alignas(64) float dh_B[kChunk * kLanes], dh_A[kChunk * kLanes];  // sums over states

  void find_starts() {
    const int64_t row = s.padded * kLanes, chunks = (s.length + kChunk - 1) / kChunk;
    starts.resize(chunks * row);
    task.load_state(task.scan.initial_state, carry);
    for (int64_t c = 0;; ++c) {
      std::copy(carry.begin(), carry.end(), starts.begin() + c * row);
      if (c + 1 == chunks) return;
      task.template load_chunk<false>(c * kChunk, kChunk);
      task.prefetch((c + 1) * kChunk);
      for (int64_t n = 0; n < s.padded; n += NB) {
        task.walk_forward(n, c * kChunk, kChunk, carry.data(), [](int, int, vf, vf) {}, [](int) {});
      }
    }
  }

  // h and decay of NB states at every step of the chunk, and their share of y.
  void recompute(int64_t n, int64_t time, int steps) {
    float* start = starts.data() + time / kChunk * s.padded * kLanes;
    std::copy_n(start + n * kLanes, NB * kLanes, h.begin());
    vf sum = {};
    task.walk_forward(
        n, time, steps, start,
        [&](int t, int i, vf state, vf a) {
          sum += state * task.C.at(task.C.row(s.padded, time + t, n), i);
          store(decay.data() + (t * NB + i) * kLanes, a);
          store(h.data() + ((t + 1) * NB + i) * kLanes, state);
        },
        [&](int t) {
          accumulate(y + t * kLanes, sum);
          sum = vf{};
        });
  }

  // dh_t = C_t g_t + decay_{t+1} dh_{t+1}, and what follows from it, for NB states.
  void walk_back(int64_t n, int64_t time, int steps) {
    const float* rate = task.rates + n * kLanes;
    const int64_t shared = (task.index * s.length + time) * s.padded + n;
    vf dh[NB], dA[NB] = {};
    for (int i = 0; i < NB; ++i) dh[i] = load(carry.data() + (n + i) * kLanes);
    for (int t = steps - 1; t >= 0; --t) {
      const vf dt = load(chunk.delta + t * kLanes), drive = dt * load(chunk.u + t * kLanes);
      const vf grad = load(g + t * kLanes);
      const float *b = task.B.row(s.padded, time + t, n), *c = task.C.row(s.padded, time + t, n);
      const float *before = h.data() + t * NB * kLanes, *after = before + NB * kLanes;
      vf rows[NB];
#pragma GCC unroll 16
      for (int i = 0; i < NB; ++i) rows[i] = grad * load(after + i * kLanes);
      if constexpr (kConstC) {
        for (int i = 0; i < NB; ++i) accumulate(sum_C.data() + (n + i) * kLanes, rows[i]);
      } else {
        add_row_sums<NB>(rows, partials.C.data() + shared + t * s.padded);
      }
      vf sum_B_t = {}, sum_A_t = {};
#pragma GCC unroll 16
      for (int i = 0; i < NB; ++i) {
        const vf d = dh[i] + grad * task.C.at(c, i);
        rows[i] = drive * d;
        sum_B_t += d * task.B.at(b, i);
        dh[i] = d * load(decay.data() + (t * NB + i) * kLanes);
        const vf q = dh[i] * load(before + i * kLanes);
        sum_A_t += q * load(rate + i * kLanes);
        dA[i] += dt * q;
      }
      accumulate(dh_B + t * kLanes, sum_B_t);
      accumulate(dh_A + t * kLanes, sum_A_t);
      if constexpr (kConstB) {
        for (int i = 0; i < NB; ++i) accumulate(sum_B.data() + (n + i) * kLanes, rows[i]);
      } else {
        add_row_sums<NB>(rows, partials.B.data() + shared + t * s.padded);
      }
    }
    for (int i = 0; i < NB; ++i) {
      store(carry.data() + (n + i) * kLanes, dh[i]);
      accumulate(sum_A.data() + (n + i) * kLanes, dA[i]);
    }
  }

  void run_block() {
    const Matrix grad_out = task.scan.matrix(grads.out, task.batch), grad_u = task.scan.matrix(grads.u, task.batch);
    const Matrix grad_delta = task.scan.matrix(grads.delta, task.batch);
    const Matrix grad_z = task.scan.matrix(grads.z, task.batch);
    alignas(64) float gate[kChunk * kLanes], dout[kChunk * kLanes], du[kChunk * kLanes], ddelta[kChunk * kLanes];
    vf sum_D = {}, sum_bias = {};
    find_starts();
    task.load_state(grads.last_state, carry);
    for (Buffer* sums : {&sum_A, &sum_B, &sum_C}) sums->assign(s.padded * kLanes, 0.0f);

    for (int64_t time = (s.length - 1) / kChunk * kChunk; time >= 0; time -= kChunk) {
      const int steps = task.steps_from(time);
      task.template load_chunk<true>(time, steps);
      task.prefetch(time - kChunk);
      load_tile(grad_out, task.channel, time, task.lanes, steps, dout);
      if (task.z) load_tile(task.z, task.channel, time, task.lanes, steps, gate);
      for (int at = 0; at < steps * kLanes; at += kLanes) {
        const vf x = load(gate + at);
        store(g + at, task.z ? load(dout + at) * x * sigmoid(x) : load(dout + at));
        sum_D += load(g + at) * load(chunk.u + at);
        store(y + at, task.D * load(chunk.u + at));
        store(dh_A + at, vf{});
        store(dh_B + at, vf{});
      }
      for (int64_t n = 0; n < s.padded; n += NB) {
        recompute(n, time, steps);
        walk_back(n, time, steps);
      }
      for (int at = 0; at < steps * kLanes; at += kLanes) {
        const vf from_B = load(dh_B + at);
        const vf d = (load(chunk.u + at) * from_B + kLn2 * load(dh_A + at)) * load(chunk.slope + at);
        sum_bias += d;
        store(ddelta + at, d);
        store(du + at, task.D * load(g + at) + load(chunk.delta + at) * from_B);
        const vf x = load(gate + at), sx = sigmoid(x);
        if (task.z) store(gate + at, load(dout + at) * load(y + at) * sx * (1.0f + x * (1.0f - sx)));
      }
      store_tile(grad_u, task.channel, time, task.lanes, steps, du);
      store_tile(grad_delta, task.channel, time, task.lanes, steps, ddelta);
      if (task.z) store_tile(grad_z, task.channel, time, task.lanes, steps, gate);
    }
    store_sums(sum_D, sum_bias);
  }

  void store_sums(vf sum_D, vf sum_bias) {
    const int64_t at = task.batch * s.channels + task.channel;
    store_states(sum_A.data(), task.lanes, s.states, partials.A.data() + at * s.states, s.states, 1);
    if (kConstB) store_states(sum_B.data(), task.lanes, s.states, partials.B.data() + at * s.states, s.states, 1);
    if (kConstC) store_states(sum_C.data(), task.lanes, s.states, partials.C.data() + at * s.states, s.states, 1);
    store(partials.D.data() + at, sum_D, task.lanes);
    store(partials.delta_bias.data() + at, sum_bias, task.lanes);
    task.store_state(carry, grads.initial_state);
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
  constexpr int64_t kPiece = 1024;
  parallel_for(threads, (count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t first = piece * kPiece, n = std::min(kPiece, count - first);
    float totals[kPiece] = {};
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < n; ++i) totals[i] += from[row * count + first + i];
    }
    std::copy_n(totals, n, to.as<float>() + first);
  });
}

// Adds up the gradient of B or C.
void sum_coefficients(int threads, const Scan& scan, const Shape& s, const Buffer& partial, const Tensor& to) {
  if (to.dims == 2) return sum_rows(threads, partial, s.batch, s.channels * s.states, to);
  parallel_for(threads, s.batch * s.groups, [&](int64_t group) {
    const Matrix m = scan.group_matrix(to, group / s.groups, group % s.groups);
    const float* first = partial.data() + group * s.tasks_per_group * s.length * s.padded;
    Buffer sums(s.length * s.padded + kLanes);
    for (int64_t task = 0; task < s.tasks_per_group; ++task) {
      for (int64_t i = 0; i < s.length * s.padded; ++i) sums[i] += first[task * s.length * s.padded + i];
    }
    for (int64_t n = 0; n < s.states; n += kLanes) {
      const int rows = static_cast<int>(std::min<int64_t>(kLanes, s.states - n));
      store_tile(m, n, 0, rows, s.length, sums.data() + n, s.padded);
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
    const Buffer rates = load_rates(A, s);
    parallel_for(threads, s.tasks(), [&](int64_t index) {
      Task<nb, const_B, const_C> task(scan, s, rates, index);
      Buffer h;
      task.for_each_block([&] { forward(task, out, last_state, h); });
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
  const Gradients grads{grad_out, grad_last_state, grad_u, grad_delta, grad_z, grad_initial_state};
  dispatch(scan, [&](auto nb, auto const_B, auto const_C) {
    const Shape s = scan.shape(nb);
    const Buffer rates = load_rates(A, s);
    const int64_t variable = s.tasks() * s.length * s.padded, constant = s.batch * s.channels * s.states;
    Partials partials{Buffer(const_B ? constant : variable), Buffer(const_C ? constant : variable), Buffer(constant),
                      Buffer(s.batch * s.channels), Buffer(s.batch * s.channels)};
    parallel_for(threads, s.tasks(), [&](int64_t index) {
      Task<nb, const_B, const_C> task(scan, s, rates, index);
      Backward<nb, const_B, const_C> backward{task, grads, partials};
      task.for_each_block([&] { backward.run_block(); });
    });
    sum_rows(threads, partials.A, s.batch, s.channels * s.states, grad_A);
    sum_rows(threads, partials.D, s.batch, s.channels, grad_D);
    sum_rows(threads, partials.delta_bias, s.batch, s.channels, grad_delta_bias);
    sum_coefficients(threads, scan, s, partials.B, grad_B);
    sum_coefficients(threads, scan, s, partials.C, grad_C);
  });
}

}  // namespace BDAM_ISA
}  // namespace bdam
