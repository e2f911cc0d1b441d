// Backward stores h only at chunk starts and recomputes it within the chunk that it walks. Gradients of B and C are
// summed over lanes in registers, over the lane blocks of a task in order, and over tasks in order: no atomics.

#include "selective_scan.h"

namespace bdam {
namespace scan {
namespace {

// Gradients that a task reads (out, last_state) and writes by itself.
struct Gradients {
  Tensor out, last_state, u, delta, z, initial_state;
};

// Sums of gradients that several tasks share; added up in order afterwards.
struct Partials {
  Buffer B, C;           // [task][time][padded state]; of constant B and C as of A
  Buffer A;              // [part of the batch][block][state][lane]
  Buffer D, delta_bias;  // [part of the batch][block][lane]
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
  const int64_t part;  // of the batch
  const Shape& s = task.s;
  const Chunk& chunk = task.chunk;

  Buffer starts;                              // h at every chunk's start, [chunk][state][lane]
  Buffer carry;                               // dh decay of the step after; [state][lane]
  float *sum_A = nullptr, *sum_B = nullptr, *sum_C = nullptr;  // [state][lane]
  Buffer h = Buffer((kChunk + 1) * NB * kLanes), decay = Buffer(kChunk * NB * kLanes);  // [time][i][lane]
  alignas(64) float g[kChunk * kLanes], y[kChunk * kLanes];  // dL/dy and y; [time][lane]
  alignas(64) float dh_B[kChunk * kLanes], dh_A[kChunk * kLanes];  // sums over states
  alignas(64) float nothing[NB * kLanes] = {};  // the state before a reset

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
      const bool reset = task.is_reset(time + t);  // Then nothing comes over, be it infinite.
      const float *after = h.data() + (t + 1) * NB * kLanes, *before = reset ? nothing : after - NB * kLanes;
      vf rows[NB];
#pragma GCC unroll 16
      for (int i = 0; i < NB; ++i) rows[i] = grad * load(after + i * kLanes);
      if constexpr (kConstC) {
        for (int i = 0; i < NB; ++i) accumulate(sum_C + (n + i) * kLanes, rows[i]);
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
      if (reset) std::fill_n(dh, NB, vf{});
      accumulate(dh_B + t * kLanes, sum_B_t);
      accumulate(dh_A + t * kLanes, sum_A_t);
      if constexpr (kConstB) {
        for (int i = 0; i < NB; ++i) accumulate(sum_B + (n + i) * kLanes, rows[i]);
      } else {
        add_row_sums<NB>(rows, partials.B.data() + shared + t * s.padded);
      }
    }
    for (int i = 0; i < NB; ++i) {
      store(carry.data() + (n + i) * kLanes, dh[i]);
      accumulate(sum_A + (n + i) * kLanes, dA[i]);
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
    sum_A = of_block(partials.A, s.padded);
    if (kConstB) sum_B = of_block(partials.B, s.padded);
    if (kConstC) sum_C = of_block(partials.C, s.padded);

    for (int64_t time = (s.length - 1) / kChunk * kChunk; time >= 0; time -= kChunk) {
      const int steps = task.steps_from(time);
      task.template load_chunk<true>(time, steps);
      task.prefetch(time - kChunk);
      load_tile(grad_out, task.channel, time, task.lanes, steps, dout);
      if (task.z) load_tile(task.z, task.channel, time, task.lanes, steps, gate);
      for (int at = 0; at < steps * kLanes; at += kLanes) {
        vf dy = load(dout + at);
        if (task.z) {
          const vf x = load(gate + at), sx = sigmoid(x);
          store(gate + at, dy * sx * (1.0f + x * (1.0f - sx)));
          dy = dy * x * sx;
        }
        store(g + at, dy);
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
        if (task.z) store(gate + at, load(gate + at) * load(y + at));
      }
      store_tile(grad_u, task.channel, time, task.lanes, steps, du);
      store_tile(grad_delta, task.channel, time, task.lanes, steps, ddelta);
      if (task.z) store_tile(grad_z, task.channel, time, task.lanes, steps, gate);
    }
    accumulate(of_block(partials.D, 1), sum_D);
    accumulate(of_block(partials.delta_bias, 1), sum_bias);
    task.store_state(carry, grads.initial_state);
  }

  float* of_block(Buffer& sums, int64_t rows) const {
    return sums.data() + (part * s.all_blocks() + task.block) * rows * kLanes;
  }
};

// Adds up what the parts of the batch have for each block, [row][lane], and stores it as (channel, row).
void sum_parts(int threads, const Shape& s, const Buffer& from, int64_t padded_rows, int64_t rows, const Tensor& to) {
  if (!to) return;
  const int64_t count = padded_rows * kLanes;
  parallel_for(threads, s.all_blocks(), [&](int64_t block) {
    Buffer total(count);
    for (int64_t part = 0; part < s.batch_parts; ++part) {
      const float* sums = from.data() + (part * s.all_blocks() + block) * count;
      for (int64_t i = 0; i < count; ++i) total[i] += sums[i];
    }
    store_states(total.data(), s.lanes(block), rows, to.as<float>() + s.first_channel(block) * rows, rows, 1);
  });
}

// Adds up the gradient of B or C.
void sum_coefficients(int threads, const Scan& scan, const Shape& s, const Buffer& partial, const Tensor& to) {
  if (to.dims == 2) return sum_parts(threads, s, partial, s.padded, s.states, to);
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
}  // namespace scan

void selective_scan_backward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                             const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                             const Tensor& resets, const Tensor& grad_out, const Tensor& grad_last_state,
                             const Tensor& grad_u, const Tensor& grad_delta, const Tensor& grad_A, const Tensor& grad_B,
                             const Tensor& grad_C, const Tensor& grad_D, const Tensor& grad_z,
                             const Tensor& grad_delta_bias, const Tensor& grad_initial_state, bool delta_softplus,
                             bool reverse, int threads) {
  using namespace scan;
  const Scan scan{u, delta, A, with_groups(B), with_groups(C), D, z, delta_bias, initial_state, resets,
                  delta_softplus, reverse};
  const Gradients grads{grad_out, grad_last_state, grad_u, grad_delta, grad_z, grad_initial_state};
  dispatch(scan, [&](auto nb, auto const_B, auto const_C) {
    const Shape s = scan.shape(nb);
    const Buffer rates = load_rates(A, s);
    const int64_t lanes = s.batch_parts * s.all_blocks() * kLanes;
    const int64_t variable = s.tasks() * s.length * s.padded, constant = lanes * s.padded;
    Partials partials{Buffer(const_B ? constant : variable), Buffer(const_C ? constant : variable), Buffer(constant),
                      Buffer(lanes), Buffer(lanes)};
    for_tasks(threads, s, [&](int64_t part, int64_t index) {
      Task<nb, const_B, const_C> task(scan, s, rates, index);
      Backward<nb, const_B, const_C> backward{task, grads, partials, part};
      task.for_each_block([&] { backward.run_block(); });
    });
    sum_parts(threads, s, partials.A, s.padded, s.states, grad_A);
    sum_parts(threads, s, partials.D, 1, 1, grad_D);
    sum_parts(threads, s, partials.delta_bias, 1, 1, grad_delta_bias);
    sum_coefficients(threads, scan, s, partials.B, with_groups(grad_B));
    sum_coefficients(threads, scan, s, partials.C, with_groups(grad_C));
  });
}

}  // namespace bdam
