#include "selective_scan.h"

namespace bdam {
namespace scan {
namespace {

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

}  // namespace
}  // namespace scan

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& resets, const Tensor& out, const Tensor& last_state, bool delta_softplus,
                            bool reverse, int threads) {
  using namespace scan;
  const Scan scan{u, delta, A, with_groups(B), with_groups(C), D, z, delta_bias, initial_state, resets,
                  delta_softplus, reverse};
  dispatch(scan, [&](auto nb, auto const_B, auto const_C) {
    const Shape s = scan.shape(nb);
    const Buffer rates = load_rates(A, s);
    for_tasks(threads, s, [&](int64_t, int64_t index) {
      Task<nb, const_B, const_C> task(scan, s, rates, index);
      Buffer h;
      task.for_each_block([&] { forward(task, out, last_state, h); });
    });
  });
}

}  // namespace bdam
