#include "kernels.h"
#include "selective_scan_call.cuh"

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
  static constexpr int kSteps = kTile;  // of u and delta
  static constexpr int kU = 0, kDelta = L::kTileFloats, kY = 2 * L::kTileFloats, kB = 3 * L::kTileFloats;
  static constexpr int kC = kB + L::kMatrixFloats, kD = kC + L::kMatrixFloats, kBias = kD + L::kChannels;
  static constexpr int kFloats = kBias + L::kChannels;
};

// Walks a segment of time. kOutput: from its true start, to all outputs; otherwise from zero, to `states` and
// `step_sums`. kVaries, kPacked: as of Block.
template <class L, bool kVaries, bool kPacked, bool kOutput>
BDAM_KERNEL(kThreads, L::forward_blocks(kVaries)) selective_scan_forward_kernel(BDAM_PARAMETER Forward p) {
  constexpr int KC = L::KC, KS = L::KS;
  const Call& call = p.call;
  const Place<L> place(call, call.blocks, 0);
  const Block<L, Arrays<L>, kVaries, kPacked> block(call, place);
  const Lane<L>& lane = block.lane;
  const Shared y_tile(Arrays<L>::kY, L::kTileFloats);

  States<L> h;
  h.clear();
  if constexpr (kOutput) {
    h.load(call.initial_state, place, lane);
    for (int s = 0; s < place.segment(call); ++s) {
      h.template pass<kPacked>(p.states, p.step_sums, block.rates, place, lane, s);
    }
  }
  float steps[KC] = {};
  uint32_t all_resets = 0;

  // These are on their way while a tile is walked.
  Fetched<L::kChannels> next_u, next_delta, gate;
  const auto fetch_next = [&](auto access, int time) {
    block.template fetch<decltype(access)>(call.u, time, next_u);
    block.template fetch<decltype(access)>(call.delta, time, next_delta);
  };
  with_access(call.u, [&](auto access) { fetch_next(access, place.begin); });
  for (int time = place.begin; time < place.end; time += kTile) {
    if (kOutput && time > 0 && time % kChunk == 0) h.save(p.checkpoints, place, lane, time / kChunk - 1);
    barrier();
    with_access(call.u, [&](auto access) {
      using Access = decltype(access);
      using Type = typename Access::Type;
      if (block.B_varies()) block.template load_coefficients<Type>(call.B, time, block.B_tile);
      if (kOutput && block.C_varies()) block.template load_coefficients<Type>(call.C, time, block.C_tile);
      block.template store_delta<Access>(next_delta, time, 0);
      block.template store_u<Access>(next_u, 0);
      if (kOutput && call.z) block.template fetch<Access>(call.z, time, gate);
      if (time + kTile < place.end) fetch_next(access, time + kTile);
    });
    const uint32_t resets = block.resets_from(time);
    all_resets |= resets;
    barrier();

#pragma unroll 1
    for (int first = 0; first < kTile && time + first < place.end; first += kGroup) {
      float y[kGroup * KC];
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        const int at = (first + i) * L::kRow + lane.channel;
        const Vec<KC> d = block.delta_tile.template load<KC>(at), x = block.u_tile.template load<KC>(at);
        float b[KS], c[KS];
        block.read_coefficients(block.B_tile, block.B_varies(), first + i, b);
        if (kOutput) block.read_coefficients(block.C_tile, block.C_varies(), first + i, c);
#pragma unroll
        for (int k = 0; k < KC; ++k) {
          const float drive = d.v[k] * x.v[k];
          float sum = 0.0f;
#pragma unroll
          for (int n = 0; n < KS; ++n) {
            const float decayed = exp2(d.v[k] * block.rates.v[k][n]) * h.v[k][n];
            h.v[k][n] = unless(block.is_reset(resets, first + i), decayed) + drive * b[n];
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
      with_access(call.u, [&](auto access) {
        using Access = decltype(access);
        block.template write<Access>(p.out, time, [&](int i, int c, int s) {
          const int walked = time + s < place.end ? s : 0;  // a step of which there is a y
          const float y = y_tile.load(walked * L::kRow + c) + block.D.load(c) * block.u_tile.load(s * L::kRow + c);
          if (!call.z) return y;
          const float x = gate.template value<Access>(i);
          return y * x * sigmoid(x);
        });
      });
    }
  }
  if constexpr (kOutput) {
    if (place.end == call.delta.size[2]) h.save(p.last_state, place, lane);
  } else {
    const int segment = place.segment(call);
    h.save(p.states, place, lane, segment);
    if (lane.state == 0) save_step_sums(p.step_sums, place, lane, segment, steps, kPacked && all_resets);
  }
}

template <bool kVaries, bool kPacked, bool kOutput>
void start(Forward& p, int64_t batch, int64_t stream) {
  with_layout<kVaries, kPacked>(p.call.A.size[1], batch * p.call.A.size[0], [&](auto layout) {
    using L = decltype(layout);
    static_assert(Arrays<L>::kFloats <= kSharedFloats);
    p.call.blocks = blocks_of<L>(p.call);
    const int64_t blocks = batch * p.call.segments * p.call.groups * p.call.blocks;
    const auto kernel = selective_scan_forward_kernel<L, kVaries, kPacked, kOutput>;
    launch(kernel, blocks, kThreads, Arrays<L>::kFloats, p, stream);
  });
}

}  // namespace
}  // namespace scan

int selective_scan_block_channels(int64_t states, bool varies, bool packed, int64_t rows) {
  int channels = 0;
  scan::with_form(varies, packed, [&](auto varies, auto packed) {
    scan::with_layout<varies, packed>(states, rows, [&](auto layout) { channels = decltype(layout)::kChannels; });
  });
  return channels;
}

void selective_scan_states(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                           const Tensor& delta_bias, const Tensor& states, const Tensor& step_sums, bool delta_softplus,
                           bool reverse, const Tensor& resets, int64_t stream) {
  using namespace scan;
  const Tensor none;
  Forward p{call_of({u, delta, A, B, none, none, none, delta_bias, none, resets}, delta_softplus, reverse,
                    states.size[1]),
            states, step_sums, none, none, none};
  resets ? start<false, true, false>(p, u.size[0], stream) : start<false, false, false>(p, u.size[0], stream);
}

void selective_scan_forward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                            const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                            const Tensor& states, const Tensor& step_sums, const Tensor& out, const Tensor& last_state,
                            const Tensor& checkpoints, bool delta_softplus, bool reverse, const Tensor& resets,
                            int64_t stream) {
  using namespace scan;
  const int64_t segments = states ? states.size[1] : 1;
  Forward p{call_of({u, delta, A, B, C, D, z, delta_bias, initial_state, resets}, delta_softplus, reverse, segments),
            states, step_sums, reversed(out, reverse), states_of(last_state), checkpoints};
  with_form(B.dims == 4 && C.dims == 4, bool(resets), [&](auto varies, auto packed) {
    start<varies, packed, true>(p, u.size[0], stream);
  });
}

}  // namespace bdam
