#include "kernels.h"
#include "selective_scan.cuh"

namespace bdam {
namespace scan {
namespace {

struct Forward {
  Call call;
  Tensor states, step_sums;             // of the pass before, or of this one if it is the first of two
  Tensor out, last_state, checkpoints;
};

// Where the arrays of a block begin in shared memory.
template <class L>
struct Arrays {
  static constexpr int kDelta = 0, kU = L::kTileFloats, kY = 2 * L::kTileFloats, kB = 3 * L::kTileFloats;
  static constexpr int kC = kB + L::kMatrixFloats, kD = kC + L::kMatrixFloats, kBias = kD + L::kChannels;
  static constexpr int kFloats = kBias + L::kChannels;
};

// Walks a segment of time. kOutput: from its true start, to all outputs; otherwise from zero, to `states` and `step_sums`.
template <class L, bool kConstant, bool kOutput>
BDAM_KERNEL(kThreads, 3) selective_scan_forward_kernel(BDAM_PARAMETER Forward p) {
  constexpr int KC = L::KC, KS = L::KS;
  using A = Arrays<L>;
  const Call& call = p.call;
  const Place<L> place(call, call.blocks, 0);
  const Lane<L> lane;
  const int states = static_cast<int>(call.A.size[1]);
  const Shared delta_tile(A::kDelta, L::kTileFloats), u_tile(A::kU, L::kTileFloats), y_tile(A::kY, L::kTileFloats);
  const Shared B_tile(A::kB, L::kMatrixFloats), C_tile(A::kC, L::kMatrixFloats);
  const Shared D(A::kD, L::kChannels), bias(A::kBias, L::kChannels);

  const Matrix u = place.over_time(call.u), delta = place.over_time(call.delta);
  const bool B_varies = !kConstant || call.B_varies, C_varies = kOutput && (!kConstant || call.C_varies);
  const Matrix B = place.coefficients(call.B, B_varies), C = place.coefficients(kOutput ? call.C : call.B, C_varies);
  const Elements<L::kChannels> elements(u);
  const Elements<L::kStates> B_elements(B), C_elements(C);
  load_channels(call.D, place, D);
  load_channels(call.delta_bias, place, bias);
  if (!B_varies) load_constant<L>(B, place.channels, states, B_tile);
  if (kOutput && !C_varies) load_constant<L>(C, place.channels, states, C_tile);

  States<L> rates, h;
  rates.load_rates(call.A, place, lane);
  h.clear();
  if constexpr (kOutput) {
    h.load(call.initial_state, place, lane);
    for (int s = 0; s < place.segment; ++s) h.pass(p.states, p.step_sums, rates, place, lane, s);
  }
  float steps[KC] = {};

  Fetched<L::kChannels> next_u, next_delta, gate;
  const auto fetch = [&](int64_t time) {
    next_u.fetch(u, elements, place.channels, time, place.end);
    next_delta.fetch(delta, elements, place.channels, time, place.end);
  };
  fetch(place.begin);
  for (int64_t time = place.begin; time < place.end; time += kTile) {
    if (kOutput && time > 0 && time % kChunk == 0) h.save(p.checkpoints, place, lane, time / kChunk - 1);
    barrier();
    if (B_varies) load_matrix<L>(B, B_elements, states, time, place.end, B_tile);
    if (C_varies) load_matrix<L>(C, C_elements, states, time, place.end, C_tile);
    elements.each([&](int i, int c, int s) {
      const float x = from_bits(next_delta.bits[i], delta.dtype) + bias.load(c);
      const bool exists = c < place.channels && time + s < place.end;
      delta_tile.store(s * L::kRow + c, exists ? (call.delta_softplus ? softplus(x) : x) : 0.0f);
      u_tile.store(s * L::kRow + c, from_bits(next_u.bits[i], u.dtype));
    });
    barrier();
    if (kOutput && call.z) gate.fetch(place.over_time(call.z), elements, place.channels, time, place.end);
    if (time + kTile < place.end) fetch(time + kTile);

#pragma unroll 1
    for (int first = 0; first < kTile; first += kGroup) {
      float y[kGroup * KC];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int step = first + i;
        const Vec<KC> d = delta_tile.load<KC>(step * L::kRow + lane.channel);
        const Vec<KC> x = u_tile.load<KC>(step * L::kRow + lane.channel);
        float b[KS], c[KS];
#pragma unroll
        for (int k = 0; k < KC; ++k) {
          if (k == 0 || kConstant) {
            load_row(B_tile, (B_varies ? step : lane.channel + k) * L::kStates + lane.state, b);
            if (kOutput) load_row(C_tile, (C_varies ? step : lane.channel + k) * L::kStates + lane.state, c);
          }
          const float drive = d.v[k] * x.v[k];
          float sum = 0.0f;
#pragma unroll
          for (int n = 0; n < KS; ++n) {
            h.v[k][n] = exp2(d.v[k] * rates.v[k][n]) * h.v[k][n] + drive * b[n];
            if (kOutput) sum += h.v[k][n] * c[n];
          }
          y[i * KC + k] = sum;
          steps[k] += d.v[k];
        }
      }
      if constexpr (kOutput) {
        sum_over_lanes<L::kStateLanes, 1>(y, [&](int i, float total) {
          y_tile.store((first + i / KC) * L::kRow + lane.channel + i % KC, total);
        });
      }
    }
    if constexpr (kOutput) {
      barrier();
      const Matrix out = place.over_time(p.out);
      const int64_t first = out.offset(elements.row, time + elements.step);
      const int64_t increment = out.offset(elements.row_increment, elements.step_increment);
      elements.each([&](int i, int c, int s) {
        if (c >= place.channels || time + s >= place.end) return;
        float y = y_tile.load(s * L::kRow + c) + D.load(c) * u_tile.load(s * L::kRow + c);
        if (call.z) {
          const float x = from_bits(gate.bits[i], call.z.dtype);
          y *= x * sigmoid(x);
        }
        out.store(first + i * increment, y);
      });
    }
  }
  if constexpr (kOutput) {
    if (place.segment == call.segments - 1) h.save(p.last_state, place, lane);
  } else {
    h.save(p.states, place, lane, place.segment);
    if (lane.state == 0) save_step_sums(p.step_sums, place, lane, steps);
  }
}

template <class L, bool kConstant, bool kOutput>
void start(const Forward& p, int64_t batch, int64_t stream) {
  const int64_t blocks = batch * p.call.segments * p.call.groups * p.call.blocks;
  launch(selective_scan_forward_kernel<L, kConstant, kOutput>, blocks, kThreads, Arrays<L>::kFloats, p, stream);
}

}  // namespace
}  // namespace scan

int selective_scan_block_channels(int64_t states) {
  int channels = 0;
  scan::with_layout(states, [&](auto layout) { channels = decltype(layout)::kChannels; });
  return channels;
}

void selective_scan_states(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                           const Tensor& delta_bias, const Tensor& states, const Tensor& step_sums, bool delta_softplus,
                           bool reverse, int64_t stream) {
  using namespace scan;
  const Tensor none;
  Forward p{call_of({u, delta, A, B, none, none, none, delta_bias, none}, delta_softplus, reverse, states.size[1]),
            states, step_sums, none, none, none};
  with_layout(A.size[1], [&](auto layout) {
    using L = decltype(layout);
    p.call.blocks = blocks_of<L>(p.call);
    start<L, true, false>(p, u.size[0], stream);
  });
}

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& states, const Tensor& step_sums, const Tensor& out, const Tensor& last_state,
                            const Tensor& checkpoints, bool delta_softplus, bool reverse, int64_t stream) {
  using namespace scan;
  const int64_t segments = states ? states.size[1] : 1;
  Forward p{call_of({u, delta, A, B, C, D, z, delta_bias, initial_state}, delta_softplus, reverse, segments),
            states, step_sums, reversed(out, reverse), states_of(last_state), checkpoints};
  with_layout(A.size[1], [&](auto layout) {
    using L = decltype(layout);
    p.call.blocks = blocks_of<L>(p.call);
    if (B.dims == 4 && C.dims == 4) return start<L, false, true>(p, u.size[0], stream);
    start<L, true, true>(p, u.size[0], stream);
  });
}

}  // namespace bdam
