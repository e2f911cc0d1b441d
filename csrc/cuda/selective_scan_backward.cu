#include "kernels.h"
#include "selective_scan_backward.cuh"
#include "selective_scan_call.cuh"

namespace bdam {
namespace scan {
namespace {

template <class L, bool kVaries, bool kPacked>
BDAM_KERNEL(kThreads, L::backward_blocks(kVaries)) selective_scan_backward_kernel(BDAM_PARAMETER Backward p) {
  const Place<L> place(p.call, p.window, p.first_block);
  if (place.channels <= 0) return;
  Walk<L, kVaries, kPacked> walk(p, place);
  walk.clear_sums();
  walk.carry.load(p.grad_last_state, place, walk.lane);
  for (int s = p.call.segments - 1; s > place.segment(p.call); --s) {
    walk.carry.template pass<kPacked>(p.adjoints, p.step_sums, walk.rates, place, walk.lane, s);
  }
  for (int begin = (place.end - 1) / kChunk * kChunk; begin >= place.begin; begin -= kChunk) walk.chunk_back(begin);
  walk.save_sums();
  if (place.begin == 0) walk.carry.save(p.grad_initial_state, place, walk.lane);
}

// What a segment alone passes on to the segment before it, and the sum of its step sizes.
template <class L, bool kPacked>
BDAM_KERNEL(kThreads, L::forward_blocks(false)) selective_scan_adjoints_kernel(BDAM_PARAMETER Backward p) {
  constexpr int KC = L::KC, KS = L::KS;
  const Place<L> place(p.call, p.window, 0);
  Walk<L, false, kPacked> walk(p, place);
  walk.carry.clear();
  float steps[KC] = {};
  uint32_t all_resets = 0;
  for (int time = (place.end - 1) / kTile * kTile; time >= place.begin; time -= kTile) {
    with_access(p.call.delta, [&](auto access) {
      using Access = decltype(access);
      using Type = typename Access::Type;
      Fetched<L::kChannels> delta, grad, z;
      Fetched<L::kStates> C;
      walk.template fetch<Access>(p.call.delta, time, delta);
      walk.template fetch_grad<Access>(time, grad, z);
      if (walk.C_varies()) walk.template fetch_coefficients<Type>(p.call.C, time, C);
      barrier();
      walk.template store_delta<Access>(delta, time, 0);
      walk.template store_grad<Access>(grad, z);
      if (walk.C_varies()) walk.template store_coefficients<Type>(p.call.C, C, walk.C_tile);
    });
    const uint32_t resets = walk.resets_from(time);
    all_resets |= resets;
    barrier();
#pragma unroll 4
    for (int step = kTile - 1; step >= 0; --step) {
      const int at = step * L::kRow + walk.lane.channel;
      const Vec<KC> d = walk.delta_tile.template load<KC>(at), g = walk.grad_tile.template load<KC>(at);
      float c[KS];
      walk.read_coefficients(walk.C_tile, walk.C_varies(), step, c);
#pragma unroll
      for (int k = 0; k < KC; ++k) {
#pragma unroll
        for (int n = 0; n < KS; ++n) {
          const float decayed = exp2(d.v[k] * walk.rates.v[k][n]) * (walk.carry.v[k][n] + c[n] * g.v[k]);
          walk.carry.v[k][n] = unless(walk.is_reset(resets, step), decayed);
        }
        steps[k] += d.v[k];
      }
    }
  }
  const int segment = place.segment(p.call);
  walk.carry.save(p.adjoints, place, walk.lane, segment);
  if (walk.lane.state == 0) save_step_sums(p.step_sums, place, walk.lane, segment, steps, kPacked && all_resets);
}

template <class L>
int64_t grid(const Backward& p) {
  return p.grad_out.size[0] * p.call.segments * p.call.groups * p.window;
}

int64_t rows_of(const Backward& p) { return p.grad_out.size[0] * p.call.A.size[0]; }

template <bool kVaries, bool kPacked>
void start(Backward& p, int64_t stream) {
  with_layout<kVaries, kPacked>(p.call.A.size[1], rows_of(p), [&](auto layout) {
    using L = decltype(layout);
    static_assert(Arrays<L>::kFloats <= kSharedFloats);
    if (!p.window) p.window = blocks_of<L>(p.call);
    launch(selective_scan_backward_kernel<L, kVaries, kPacked>, grid<L>(p), kThreads, Arrays<L>::kFloats, p, stream);
  });
}

template <bool kPacked>
void start_adjoints(Backward& p, int64_t stream) {
  with_layout<false, kPacked>(p.call.A.size[1], rows_of(p), [&](auto layout) {
    using L = decltype(layout);
    p.window = blocks_of<L>(p.call);
    launch(selective_scan_adjoints_kernel<L, kPacked>, grid<L>(p), kThreads, Arrays<L>::kStarts, p, stream);
  });
}

// Sums of what blocks left of gradients that they share: of (outer, count, inner) numbers to (outer, inner).
struct Sum {
  const float* parts;
  Tensor to;
  int64_t outer, count, inner;
  int blocks;
};
constexpr int kSums = 5, kSumThreads = 256;
struct Sums {
  Sum of[kSums];
};

BDAM_KERNEL(kSumThreads, 4) selective_scan_sums_kernel(BDAM_PARAMETER Sums p) {
  int which = 0, block = block_index();
  while (block >= p.of[which].blocks) block -= p.of[which++].blocks;
  const Sum& sum = p.of[which];
  const int64_t i = static_cast<int64_t>(block) * kSumThreads + thread_index();
  if (i >= sum.outer * sum.inner) return;
  const float* from = sum.parts + i / sum.inner * sum.count * sum.inner + i % sum.inner;
  float total = 0.0f;
#pragma unroll 8
  for (int64_t part = 0; part < sum.count; ++part) total += from[part * sum.inner];
  with_type(sum.to.dtype, [&](auto type) {
    using Type = decltype(type);
    sum.to.as<typename Type::Bits>()[i] = Type::bits(total);
  });
}

int64_t numbers_in(const Tensor& t) {
  int64_t n = 1;
  for (int i = 0; i < t.dims; ++i) n *= t.size[i];
  return n;
}

// of_group: whether parts are of a batch and group; else all are of the same gradient.
Sum sum_of(const Tensor& parts, const Tensor& to, bool of_group) {
  if (!to) return {};
  const int64_t outer = of_group ? to.size[0] * to.size[1] : 1, inner = numbers_in(to) / outer;
  const int blocks = ceil_divide<int>(outer * inner, kSumThreads);
  return {parts.as<float>(), to, outer, numbers_in(parts) / (outer * inner), inner, blocks};
}

}  // namespace
}  // namespace scan

void selective_scan_sums(const Tensor& partial_A, const Tensor& partial_B, const Tensor& partial_C,
                         const Tensor& partial_D, const Tensor& partial_bias, const Tensor& grad_A,
                         const Tensor& grad_B, const Tensor& grad_C, const Tensor& grad_D, const Tensor& grad_bias,
                         int64_t stream) {
  using namespace scan;
  const Sums p{{sum_of(partial_A, grad_A, false), sum_of(partial_B, grad_B, grad_B.dims == 4),
                sum_of(partial_C, grad_C, grad_C.dims == 4), sum_of(partial_D, grad_D, false),
                sum_of(partial_bias, grad_bias, false)}};
  int64_t blocks = 0;
  for (const Sum& sum : p.of) blocks += sum.blocks;
  launch(selective_scan_sums_kernel, blocks, kSumThreads, 0, p, stream);
}

void selective_scan_adjoints(const Tensor& delta, const Tensor& A, const Tensor& C, const Tensor& z,
                             const Tensor& delta_bias, const Tensor& grad_out, const Tensor& adjoints,
                             const Tensor& step_sums, bool delta_softplus, bool reverse, const Tensor& resets,
                             int64_t stream) {
  using namespace scan;
  const Tensor none;
  Backward p{};
  p.call = call_of({none, delta, A, none, C, none, z, delta_bias, none, resets}, delta_softplus, reverse,
                   adjoints.size[1]);
  p.grad_out = reversed(grad_out, reverse);
  p.adjoints = adjoints;
  p.step_sums = step_sums;
  resets ? start_adjoints<true>(p, stream) : start_adjoints<false>(p, stream);
}

void selective_scan_backward(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
                             const Tensor& D, const Tensor& z, const Tensor& delta_bias, const Tensor& initial_state,
                             const Tensor& checkpoints, const Tensor& grad_out, const Tensor& grad_last_state,
                             const Tensor& adjoints, const Tensor& step_sums, const Tensor& grad_u,
                             const Tensor& grad_delta, const Tensor& grad_z, const Tensor& grad_initial_state,
                             const Tensor& partial_A, const Tensor& partial_B, const Tensor& partial_C,
                             const Tensor& partial_D, const Tensor& partial_bias, int64_t first_block,
                             int64_t segments, bool delta_softplus, bool reverse, const Tensor& resets,
                             int64_t stream) {
  using namespace scan;
  Backward p{call_of({u, delta, A, B, C, D, z, delta_bias, initial_state, resets}, delta_softplus, reverse, segments),
             checkpoints, reversed(grad_out, reverse), states_of(grad_last_state), adjoints, step_sums,
             reversed(grad_u, reverse), reversed(grad_delta, reverse), reversed(grad_z, reverse),
             states_of(grad_initial_state), partial_A, reversed(partial_B, reverse && B.dims == 4),
             reversed(partial_C, reverse && C.dims == 4), partial_D, partial_bias, static_cast<int>(first_block), 0};
  // (B, groups * window, N, L) where they vary over time.
  if (C.dims == 4) p.window = static_cast<int>(partial_C.size[1]) / p.call.groups;
  if (B.dims == 4) p.window = static_cast<int>(partial_B.size[1]) / p.call.groups;
  with_form(B.dims == 4 && C.dims == 4, bool(resets), [&](auto varies, auto packed) {
    start<varies, packed>(p, stream);
  });
}

}  // namespace bdam
