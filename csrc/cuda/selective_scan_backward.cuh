// A block of the selective scan's way back: the states of a chunk of time again, group by group, then the adjoint walk.
#pragma once

#include "selective_scan.cuh"

namespace bdam::scan {

struct Backward {
  Call call;
  Tensor checkpoints, grad_out, grad_last_state;
  Tensor adjoints, step_sums;  // of the pass before, or of this one if it is the first of two
  Tensor grad_u, grad_delta, grad_z, grad_initial_state;
  Tensor partial_A, partial_B, partial_C, partial_D, partial_bias;
  int first_block, window;  // blocks of each group in this launch
};

// Where the arrays of a block begin in shared memory.
template <class L>
struct Arrays {
  static constexpr int kSteps = kChunk;  // of u and delta
  // u and delta of a chunk and the gradient of a tile, which become grad_u, grad_delta and y.
  static constexpr int kDelta = 0, kU = kChunk / kTile * L::kTileFloats, kGrad = 2 * kU, kB = kGrad + L::kTileFloats;
  static constexpr int kC = kB + L::kMatrixFloats, kD = kC + L::kMatrixFloats, kBias = kD + L::kChannels;
  // Every lane's states before each group of steps of a chunk.
  static constexpr int kStarts = kBias + L::kChannels, kStartFloats = L::KC * L::KS * kThreads;
  // Every warp's sums over its channels of the gradients of B and C, step by step.
  static constexpr int kSums = kStarts + kChunk / kGroup * kStartFloats;
  static constexpr int kSumSteps = L::kStates > 64 ? kGroup : kTile;
  static constexpr int kSumRow = 2 * L::kStates + (L::kStates > 64 ? 1 : 2);
  static constexpr int kSumFloats = kWarps * kSumSteps * kSumRow;
  // Every lane's sums for the gradients of D and of the bias, for which a third block would lack registers.
  static constexpr int kOwnSums = kSums + kSumFloats, kOwnFloats = 2 * L::KC * kThreads;
  static constexpr int kFloats = kOwnSums + kOwnFloats;
};

// A block that walks back; the parts of the walk are its functions.
template <class L, bool kVaries, bool kPacked>
struct Walk : Block<L, Arrays<L>, kVaries, kPacked> {
  using A = Arrays<L>;
  using Base = Block<L, A, kVaries, kPacked>;
  using Base::call, Base::place, Base::lane, Base::rates, Base::D, Base::B_varies, Base::C_varies, Base::exists;
  using Base::u_tile, Base::delta_tile, Base::B_tile, Base::C_tile, Base::read_coefficients, Base::is_reset;
  static constexpr int KC = L::KC, KS = L::KS;

  const Backward& p;
  static constexpr bool kCoefficientsAhead = L::kStates <= 64;  // more would take too many registers
  const Shared grad_tile{A::kGrad, L::kTileFloats}, sums{A::kSums, A::kSumFloats};
  const Shared starts{A::kStarts, kChunk / kGroup * A::kStartFloats};
  States<L> carry, sum_A, sum_B, sum_C;
  uint32_t resets = 0;  // of the steps of the tile
  // Of the sums over states that fall to this lane: how many of a group, and those of the gradients of D and the bias.
  static constexpr int kOwn = kGroup * KC > L::kStateLanes ? kGroup * KC / L::kStateLanes : 1;
  static constexpr int kOwnChannels = kOwn < KC ? kOwn : KC;
  const Shared own_sums{A::kOwnSums, A::kOwnFloats};

  BDAM_DEVICE Walk(const Backward& parameters, const Place<L>& at) : Base(parameters.call, at), p(parameters) {}

  BDAM_DEVICE void clear_sums() {
    for (States<L>* sum : {&sum_A, &sum_B, &sum_C}) sum->clear();
    for (int i = 0; i < 2 * KC; ++i) own_sums.store(own_sum(0, i), 0.0f);
  }

  // Where this lane's sum i of up to KC is, for the gradient of D (which = 0) or of the bias (1).
  BDAM_DEVICE static int own_sum(int which, int i) { return (which * KC + i) * kThreads + opaque(thread_index()); }
  BDAM_DEVICE void add_own(int which, int i, float x) {
    own_sums.store(own_sum(which, i), own_sums.load(own_sum(which, i)) + x);
  }

  // The gradient behind the gate: grad_out silu(z).
  template <class Access>
  BDAM_DEVICE void store_grad(const Fetched<L::kChannels>& grad, const Fetched<L::kChannels>& z) const {
    ChannelElements<L, Access>().each([&](int i, int c, int s) {
      float g = grad.template value<Access>(i);
      if (call.z) {
        const float x = z.template value<Access>(i);
        g *= x * sigmoid(x);
      }
      grad_tile.store(s * L::kRow + c, g);
    });
  }

  template <class Access>
  BDAM_DEVICE void fetch_grad(int time, Fetched<L::kChannels>& grad, Fetched<L::kChannels>& z) const {
    this->template fetch<Access>(p.grad_out, time, grad);
    if (call.z) this->template fetch<Access>(call.z, time, z);
  }

  // What a tile needs: u and delta if it is the chunk's first time there, and with `back` what the way back takes.
  BDAM_DEVICE void load_tiles(int time, bool is_new, bool back) {
    const bool with_B = B_varies(), with_C = back && C_varies();
    with_access(call.delta, [&](auto access) {
      using Access = decltype(access);
      using Type = typename Access::Type;
      Fetched<L::kChannels> u, delta, grad, z;
      Fetched<L::kStates> B, C;
      const auto fetch_coefficients = [&] {
        if (with_B) this->template fetch_coefficients<Type>(call.B, time, B);
        if (with_C) this->template fetch_coefficients<Type>(call.C, time, C);
      };
      // All on their way before anything waits for the first.
      if (is_new) {
        this->template fetch<Access>(call.delta, time, delta);
        this->template fetch<Access>(call.u, time, u);
      }
      if (back) fetch_grad<Access>(time, grad, z);
      if (kCoefficientsAhead) fetch_coefficients();
      barrier();
      if (!kCoefficientsAhead) fetch_coefficients();
      if (is_new) {
        this->template store_delta<Access>(delta, time, time % kChunk);
        this->template store_u<Access>(u, time % kChunk);
      }
      if (back) store_grad<Access>(grad, z);
      if (with_B) this->template store_coefficients<Type>(call.B, B, B_tile);
      if (with_C) this->template store_coefficients<Type>(call.C, C, C_tile);
    });
    resets = this->resets_from(time);
    barrier();
  }

  // From the states before a group: its decays, and the states after each of its steps, which are from `first` on in
  // their tile, which is from `shift` on in its chunk.
  BDAM_DEVICE void walk_group(int shift, int first, const States<L>& start, States<L> (&h)[kGroup],
                              States<L> (&decay)[kGroup]) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const States<L>& before = i ? h[i - 1] : start;
      const int at = (shift + first + i) * L::kRow + lane.channel;
      const Vec<KC> d = delta_tile.template load<KC>(at), x = u_tile.template load<KC>(at);
      float b[KS];
      read_coefficients(B_tile, B_varies(), first + i, b);
#pragma unroll
      for (int k = 0; k < KC; ++k) {
#pragma unroll
        for (int n = 0; n < KS; ++n) {
          decay[i].v[k][n] = exp2(d.v[k] * rates.v[k][n]);
          const float decayed = decay[i].v[k][n] * before.v[k][n];
          h[i].v[k][n] = unless(is_reset(resets, first + i), decayed) + d.v[k] * x.v[k] * b[n];
        }
      }
    }
  }

  BDAM_DEVICE void save_start(int group, const States<L>& h) {
#pragma unroll
    for (int i = 0; i < KC * KS; i += 4) {
      Vec<4> part;
#pragma unroll
      for (int k = 0; k < 4; ++k) part.v[k] = h.v[(i + k) / KS][(i + k) % KS];
      starts.store<4>(group * A::kStartFloats + (i / 4 * kThreads + thread_index()) * 4, part);
    }
  }

  BDAM_DEVICE void load_start(int group, States<L>& h) {
#pragma unroll
    for (int i = 0; i < KC * KS; i += 4) {
      const Vec<4> part = starts.load<4>(group * A::kStartFloats + (i / 4 * kThreads + thread_index()) * 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) h.v[(i + k) / KS][(i + k) % KS] = part.v[k];
    }
  }

  // Walks forward through the groups of a tile, from the states before the first, saving those before each next one.
  // Nothing follows the last group of a chunk or of the segment.
  BDAM_DEVICE void walk_tile(int time) {
    States<L> h;
    load_start(time % kChunk / kGroup, h);
#pragma unroll 1
    for (int first = 0; first < kTile; first += kGroup) {
      const int next = (time % kChunk + first) / kGroup + 1;
      if (next == kChunk / kGroup || time + first + kGroup >= place.end) break;
      States<L> walked[kGroup], decay[kGroup];
      walk_group(time % kChunk, first, h, walked, decay);
      h = walked[kGroup - 1];
      save_start(next, h);
    }
  }

  // One step back. Leaves its sums over the lane's states in from_B, from_A and y, and over its channels in `shared`.
  BDAM_DEVICE void step_back(int shift, int step, const States<L>& before, const States<L>& after,
                             const States<L>& decay, float* from_B, float* from_A, float* y,
                             float (&shared)[2 * KS]) {
    const int at = (shift + step) * L::kRow + lane.channel;
    const Vec<KC> d = delta_tile.template load<KC>(at), x = u_tile.template load<KC>(at);
    const Vec<KC> g = grad_tile.template load<KC>(step * L::kRow + lane.channel);
    float b[KS], c[KS];
    read_coefficients(B_tile, B_varies(), step, b);
    read_coefficients(C_tile, C_varies(), step, c);
#pragma unroll
    for (int k = 0; k < KC; ++k) {
      from_B[k] = from_A[k] = y[k] = 0.0f;
#pragma unroll
      for (int n = 0; n < KS; ++n) {
        const float dh = carry.v[k][n] + c[n] * g.v[k];
        const float grad_b = d.v[k] * x.v[k] * dh, grad_c = g.v[k] * after.v[k][n];
        if (!kVaries) {
          sum_B.v[k][n] += grad_b;
          sum_C.v[k][n] += grad_c;
        }
        shared[n] = k ? shared[n] + grad_b : grad_b;
        shared[KS + n] = k ? shared[KS + n] + grad_c : grad_c;
        from_B[k] += dh * b[n];
        y[k] += c[n] * after.v[k][n];
        carry.v[k][n] = unless(is_reset(resets, step), dh * decay.v[k][n]);
        const float w = unless(is_reset(resets, step), carry.v[k][n] * before.v[k][n]);
        from_A[k] += w * rates.v[k][n];
        sum_A.v[k][n] += w * d.v[k];
      }
    }
  }

  // Puts this warp's gradients of B and C of a step where the block will add them up.
  BDAM_DEVICE void save_shared(int step, float (&shared)[2 * KS]) {
    const int row = (thread_index() / 32 * A::kSumSteps + step % A::kSumSteps) * A::kSumRow;
    sum_over_lanes<L::kChannelLanes, L::kStateLanes>(shared, [&](int i, float total) {
      sums.store(row + i / KS * L::kStates + lane.state + i % KS, total);
    });
  }

  // Sums over the states of a channel; the tiles of u, delta and the gradient become grad_u, grad_delta and y.
  BDAM_DEVICE void save_channels(int shift, int first, float (&from_B)[kGroup * KC], float (&from_A)[kGroup * KC],
                                 float (&y)[kGroup * KC]) {
    const int own = reduce_scatter<L::kStateLanes / 2, 1>(from_B);
    reduce_scatter<L::kStateLanes / 2, 1>(from_A);
    reduce_scatter<L::kStateLanes / 2, 1>(y);
    warp_barrier();  // all lanes have read what is overwritten
    if (!owns()) return;
    const int channel = opaque(lane.channel);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int c = channel + (own + i) % KC, grad_at = (first + (own + i) / KC) * L::kRow + c;
      const int at = shift * L::kRow + grad_at;
      const float x = u_tile.load(at), d = delta_tile.load(at), g = grad_tile.load(grad_at);
      const float slope = call.delta_softplus ? -expm1(-d) : 1.0f;
      const float grad_d = (x * from_B[i] + kLn2 * from_A[i]) * slope;
      add_own(0, i % kOwnChannels, g * x);
      add_own(1, i % kOwnChannels, grad_d);
      u_tile.store(at, D.load(c) * g + d * from_B[i]);
      delta_tile.store(at, grad_d);
      grad_tile.store(grad_at, y[i] + D.load(c) * x);
    }
  }

  // Whether sums over states fall to this lane: where lanes outnumber them, one in so many.
  BDAM_DEVICE static bool owns() {
    constexpr int kSharers = L::kStateLanes > kGroup * KC ? L::kStateLanes / (kGroup * KC) : 1;
    return thread_index() % kSharers == 0;
  }

  // Adds up the warps' gradients of B and C of the steps from `time` on.
  BDAM_DEVICE void add_shared(int time) {
    if (B_varies()) add_shared(p.partial_B, 0, time);
    if (C_varies()) add_shared(p.partial_C, 1, time);
  }
  BDAM_DEVICE void add_shared(const Tensor& partial, int which, int time) {
    constexpr int kAtOnce = kThreads / A::kSumSteps;  // states
    const int thread = opaque(thread_index()), step = thread % A::kSumSteps, first = thread / A::kSumSteps;
    if (time + step >= place.end) return;
    const int slot = opaque(block_index()) % (call.groups * p.window);  // of this group's, among all groups'
    float* to = partial.as<float>() + opaque(place.batch) * partial.stride[0] + slot * partial.stride[1] +
                first * partial.stride[2] + (time + step) * partial.stride[3];
    const int states = static_cast<int>(call.A.size[1]);
#pragma unroll
    for (int n = 0; n < L::kStates; n += kAtOnce) {
      float total = 0.0f;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) {
        total += sums.load((warp * A::kSumSteps + step) * A::kSumRow + which * L::kStates + first + n);
      }
      if (first + n < states) *to = p.first_block ? *to + total : total;
      to += kAtOnce * partial.stride[2];
    }
  }

  BDAM_DEVICE void group_back(int shift, int first) {
    const int group = (shift + first) / kGroup;
    States<L> start, h[kGroup], decay[kGroup];
    load_start(group, start);
    walk_group(shift, first, start, h, decay);
    float from_B[kGroup * KC], from_A[kGroup * KC], y[kGroup * KC];
#pragma unroll
    for (int i = kGroup - 1; i >= 0; --i) {
      if (i == 0) load_start(group, start);  // again, rather than have it occupy registers
      float shared[2 * KS];
      step_back(shift, first + i, i ? h[i - 1] : start, h[i], decay[i], from_B + i * KC, from_A + i * KC, y + i * KC,
                shared);
      if (B_varies() || C_varies()) save_shared(first + i, shared);
    }
    save_channels(shift, first, from_B, from_A, y);
  }

  BDAM_DEVICE void tile_back(int time) {
#pragma unroll 1
    for (int first = kTile - kGroup; first >= 0; first -= kGroup) {
      if (time + first >= place.end) continue;
      group_back(time % kChunk, first);
      if (A::kSumSteps == kTile) continue;
      barrier();
      add_shared(time + first);
      barrier();
    }
    store_gradients(time);
  }

  BDAM_DEVICE void store_gradients(int time) {
    with_access(call.delta, [&](auto access) {
      using Access = decltype(access);
      Fetched<L::kChannels> grad, z;
      if (call.z) fetch_grad<Access>(time, grad, z);  // again, rather than have them occupy registers
      barrier();
      if (A::kSumSteps == kTile) add_shared(time);
      const int first = time % kChunk;
      this->template write<Access>(p.grad_u, time,
                                   [&](int, int c, int s) { return u_tile.load((first + s) * L::kRow + c); });
      this->template write<Access>(p.grad_delta, time,
                                   [&](int, int c, int s) { return delta_tile.load((first + s) * L::kRow + c); });
      if (!call.z) return;
      // Of y, which is where the gradient was: grad_out y silu'(z).
      this->template write<Access>(p.grad_z, time, [&](int i, int c, int s) {
        const float x = z.template value<Access>(i), sx = sigmoid(x), slope = sx * (1.0f + x * (1.0f - sx));
        return grad.template value<Access>(i) * grad_tile.load(s * L::kRow + c) * slope;
      });
    });
  }

  // A chunk's states before each of its groups, tile by tile, then the way back.
  BDAM_DEVICE void chunk_back(int begin) {
    States<L> h;
    if (begin == 0) {
      h.load(call.initial_state, place, lane);
    } else {
      h.load(p.checkpoints, place, lane, begin / kChunk - 1);
    }
    save_start(0, h);
    const int end = begin + kChunk < place.end ? begin + kChunk : place.end;
    const int tiles = (end - begin + kTile - 1) / kTile;
#pragma unroll 1
    for (int i = 0; i < 2 * tiles - 1; ++i) {  // there and back; the last tile is loaded once for both
      const int time = begin + (i < tiles ? i : 2 * tiles - 2 - i) * kTile;
      load_tiles(time, i < tiles, i >= tiles - 1);
      if (i < tiles) walk_tile(time);
      if (i >= tiles - 1) tile_back(time);
    }
  }

  // A gradient that every channel has once, from the sums of the lanes that share the channel.
  BDAM_DEVICE void save_channel_sums(const Tensor& partial, int which) {
    if (!partial) return;
    const int lane_of_states = opaque(thread_index()) % L::kStateLanes;
    const int first = kOwn < KC ? lane_of_states * kGroup * KC / L::kStateLanes % KC : 0;
#pragma unroll
    for (int k = 0; k < KC; ++k) {
      const bool has = owns() && k >= first && k < first + kOwnChannels;
      float total = has ? own_sums.load(own_sum(which, (k - first) % kOwnChannels)) : 0.0f;
#pragma unroll
      for (int mask = L::kStateLanes / 2; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
      const int64_t at = (place.batch * call.segments + place.segment(call)) * partial.size[2] + place.channel;
      const bool exists = lane.channel + k < place.channels;
      if (lane_of_states == 0 && exists) partial.as<float>()[at + lane.channel + k] = total;
    }
  }

  BDAM_DEVICE void save_sums() {
    const int segment = place.segment(call);
    sum_A.save(p.partial_A, place, lane, segment);
    if (!B_varies()) sum_B.save(p.partial_B, place, lane, segment);
    if (!C_varies()) sum_C.save(p.partial_C, place, lane, segment);
    save_channel_sums(p.partial_D, 0);
    save_channel_sums(p.partial_bias, 1);
  }
};

}  // namespace bdam::scan
