// What the kernels of the selective scan share: which lane holds what, how tiles come and go, and the walk's
// arithmetic.
//
// A warp walks through time for a few channels with all their states in registers: lanes divide channels and states,
// and a lane has up to two channels and four states of each. So a sum over states, or over channels for the gradients
// of B and C, is a few registers and a few shuffles. The four warps of a block have neighbouring channels of one group
// and share tiles of kTile steps in shared memory, which all of their threads fill and empty together.
#pragma once

#include "primitives.cuh"
#include "reduce.cuh"
#include "selective_scan_tiles.cuh"

namespace bdam::scan {

constexpr int kGroup = 4;   // steps whose sums over states are reduced together
constexpr int kChunk = 32;  // steps between saved states: CHUNK of bdam_kernels/ops/selective_scan/plan.py

// How a warp is divided: lanes over states, and states and channels of each lane.
template <int kStateLanes_, int kLaneStates, int kLaneChannels>
struct Layout {
  static constexpr int kStateLanes = kStateLanes_, KS = kLaneStates, KC = kLaneChannels;
  static constexpr int kStates = kStateLanes * KS;                         // room for states, N or more
  static constexpr int kChannelLanes = 32 / kStateLanes;
  static constexpr int kChannels = kWarps * kChannelLanes * KC;            // of a block
  static constexpr int kRow = kChannels + 2;                               // floats from step to step of a tile
  static constexpr int kTileFloats = kTile * kRow;
  // Blocks that a multiprocessor is to have at once, for which the compiler limits registers: as many as cost no spill
  // for up to 16 states, of which most models have 16. varies: as kVaries of Block.
  static constexpr bool kIsCommon = kStates == 16;
  static constexpr int forward_blocks(bool varies) { return !kIsCommon ? 4 : KC == 1 && varies ? 7 : 6; }
  static constexpr int backward_blocks(bool varies) { return !kIsCommon ? 2 : KC == 2 ? 3 : varies ? 5 : 4; }
  // B or C: of every step, or, constant over time, of every channel.
  static constexpr int kMatrixFloats = (kTile > kChannels ? kTile : kChannels) * kStates;
};

// What all kernels know of a call. Tensors with a time axis are already reversed where the scan is; B and C have four
// axes, (batch, group, state, time), or (1, 1, channel, state) where they are constant over time; states have four,
// (batch, segment or chunk or 1, channel, state). resets, (batch, time): whether a step is the first of a packed
// sequence, but for each row's first.
struct Call {
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state, resets;
  bool delta_softplus = false, B_varies = true, C_varies = true;
  int groups = 1, blocks = 0, segments = 1;  // groups of channels; blocks of a group; segments of time
  int segment_steps = 0;
};

// Where a block works.
template <class L>
struct Place {
  int batch, group;
  int channel, channels;  // first channel, and how many the block has
  int begin, end;         // steps of the segment

  // slots: blocks of each group in this launch, from first_block on.
  BDAM_DEVICE Place(const Call& call, int slots, int first_block) {
    const int row = block_index() / (slots * call.groups), segment = row % call.segments;
    batch = row / call.segments;
    group = block_index() / slots % call.groups;
    const int per_group = static_cast<int>(call.A.size[0]) / call.groups;
    const int first = (first_block + block_index() % slots) * L::kChannels;
    channel = group * per_group + first;
    channels = per_group - first < L::kChannels ? per_group - first : L::kChannels;
    begin = segment * call.segment_steps;
    end = begin + call.segment_steps;
    if (end > call.delta.size[2]) end = static_cast<int>(call.delta.size[2]);
  }

  BDAM_DEVICE int segment(const Call& call) const { return opaque(begin) / call.segment_steps; }
  // (B, D, L)
  BDAM_DEVICE Matrix over_time(const Tensor& t) const {
    return Matrix(t, opaque(batch) * t.stride[0] + opaque(channel) * t.stride[1], t.stride[1], t.stride[2]);
  }
  // B or C
  BDAM_DEVICE Matrix coefficients(const Tensor& t, bool varies) const {
    const int64_t first =
        varies ? opaque(batch) * t.stride[0] + opaque(group) * t.stride[1] : opaque(channel) * t.stride[2];
    return Matrix(t, first, t.stride[2], t.stride[3]);
  }
};

// Which states and channels a lane has, counted from the block's first.
template <class L>
struct Lane {
  int state, channel;
  BDAM_DEVICE Lane() {
    const int lane = thread_index() % 32, warp = thread_index() / 32;
    state = lane % L::kStateLanes * L::KS;
    channel = (warp * L::kChannelLanes + lane / L::kStateLanes) * L::KC;
  }
};

// A thread's elements of a block's tile of channels by time.
template <class L, class Access>
using ChannelElements = Elements<L::kChannels, Access::kOrder>;

// use(Access) for a tensor (B, D, L): once for a whole tile, which then has no branch on dtype or strides.
template <class Use>
BDAM_DEVICE void with_access(const Tensor& t, Use use) {
  with_type(t.dtype, [&](auto type) {
    using Type = decltype(type);
    if (t.stride[1] == 1) {
      use(Access<Type, Order::kRows>());
    } else {
      use(Access<Type, Order::kSteps>());
    }
  });
}

// log(1 + e^x), relative error about 1e-7: max(x, 0) + log(1 + e), e = e^-|x|, by log(1 + e) = 2 atanh(e / (2 + e)).
BDAM_DEVICE float softplus(float x) {
  const float e = exp2((x < 0.0f ? x : -x) * kLog2e), s = divide(e, 2.0f + e), s2 = s * s;
  float series = 1.0f / 17.0f;
#pragma unroll
  for (int k = 15; k > 0; k -= 2) series = series * s2 + 1.0f / k;
  return (x < 0.0f ? 0.0f : x) + 2.0f * s * series;
}
BDAM_DEVICE float sigmoid(float x) { return divide(1.0f, 1.0f + exp2(-x * kLog2e)); }

// What comes over from one step to the next: nothing where a sequence begins, even of what is not finite.
BDAM_DEVICE float unless(bool resets, float x) { return resets ? 0.0f : x; }

// visit(c, n, offset) for those of a lane's channels and states that exist, with their place in (B, index, D, N).
template <class L, class Visit>
BDAM_DEVICE void each_state(const Tensor& t, const Place<L>& place, const Lane<L>& lane, int64_t index, Visit visit) {
  const int channel = opaque(lane.channel), state = opaque(lane.state);
  const int64_t first = opaque(place.batch) * t.stride[0] + index * t.stride[1] +
                        (opaque(place.channel) + channel) * t.stride[2] + state * t.stride[3];
#pragma unroll
  for (int c = 0; c < L::KC; ++c) {
#pragma unroll
    for (int n = 0; n < L::KS; ++n) {
      const bool exists = channel + c < place.channels && state + n < static_cast<int>(t.size[3]);
      if (exists) visit(c, n, first + c * t.stride[2] + n * t.stride[3]);
    }
  }
}

// A lane's part of something that every channel has for every state.
template <class L>
struct States {
  float v[L::KC][L::KS];

  BDAM_DEVICE void clear() {
#pragma unroll
    for (int c = 0; c < L::KC; ++c) {
#pragma unroll
      for (int n = 0; n < L::KS; ++n) v[c][n] = 0.0f;
    }
  }
  // From float32; zero where the tensor is absent or has no such state.
  BDAM_DEVICE void load(const Tensor& t, const Place<L>& place, const Lane<L>& lane, int64_t index = 0) {
    clear();
    if (!t) return;
    each_state(t, place, lane, index, [&](int c, int n, int64_t at) { v[c][n] = t.as<float>()[at]; });
  }
  BDAM_DEVICE void save(const Tensor& t, const Place<L>& place, const Lane<L>& lane, int64_t index = 0) const {
    if (!t) return;
    each_state(t, place, lane, index, [&](int c, int n, int64_t at) { t.as<float>()[at] = v[c][n]; });
  }
  // A log2(e), so that a step's decay is exp2(step size * rate).
  BDAM_DEVICE void load_rates(const Tensor& A, const Place<L>& place, const Lane<L>& lane) {
    clear();
    const int64_t first = (place.channel + lane.channel) * A.stride[0] + lane.state * A.stride[1];
#pragma unroll
    for (int c = 0; c < L::KC; ++c) {
#pragma unroll
      for (int n = 0; n < L::KS; ++n) {
        const bool exists = lane.channel + c < place.channels && lane.state + n < A.size[1];
        if (exists) v[c][n] = A.as<float>()[first + c * A.stride[0] + n * A.stride[1]] * kLog2e;
      }
    }
  }
  // Passes over a whole segment: the state becomes exp(A * the segment's steps) times itself, plus the segment's own.
  template <bool kPacked>
  BDAM_DEVICE void pass(const Tensor& own, const Tensor& step_sums, const States& rates, const Place<L>& place,
                        const Lane<L>& lane, int segment) {
    const int64_t row = place.batch * step_sums.size[1] + segment;
    const int64_t first = row * step_sums.size[2] + place.channel + lane.channel;
    each_state(own, place, lane, segment, [&](int c, int n, int64_t at) {
      const float steps = step_sums.as<float>()[first + c];
      const bool resets = kPacked && steps == INFINITY;
      v[c][n] = unless(resets, exp2(steps * rates.v[c][n]) * v[c][n]) + own.as<float>()[at];
    });
  }
};

// A lane's channels of a (B, S, D) sum of step sizes; infinity instead in a segment with resets, through which nothing
// comes.
template <class L>
BDAM_DEVICE void save_step_sums(const Tensor& sums, const Place<L>& place, const Lane<L>& lane, int segment,
                                const float (&steps)[L::KC], bool has_resets) {
  const int64_t first = (place.batch * sums.size[1] + segment) * sums.size[2] + place.channel + lane.channel;
  for (int k = 0; k < L::KC; ++k) {
    if (lane.channel + k < place.channels) sums.as<float>()[first + k] = has_resets ? INFINITY : steps[k];
  }
}

// What the kernels do alike in a block: how it fills its tiles. Where an array begins in shared memory is for `Arrays`
// to say. kVaries: B and C vary over time for certain. kPacked: several sequences may be in a row.
template <class L, class Arrays, bool kVaries, bool kPacked>
struct Block {
  static constexpr int KC = L::KC, KS = L::KS;

  const Call& call;
  const Place<L> place;
  const Lane<L> lane;
  const Shared u_tile{Arrays::kU, Arrays::kSteps * L::kRow}, delta_tile{Arrays::kDelta, Arrays::kSteps * L::kRow};
  const Shared B_tile{Arrays::kB, L::kMatrixFloats}, C_tile{Arrays::kC, L::kMatrixFloats};
  const Shared D{Arrays::kD, L::kChannels}, bias{Arrays::kBias, L::kChannels};
  States<L> rates;

  BDAM_DEVICE Block(const Call& c, const Place<L>& p) : call(c), place(p) {
    for (int i = thread_index(); i < L::kChannels; i += kThreads) {
      const bool exists = i < place.channels;
      D.store(i, call.D && exists ? call.D.as<float>()[place.channel + i] : 0.0f);
      bias.store(i, call.delta_bias && exists ? call.delta_bias.as<float>()[place.channel + i] : 0.0f);
    }
    if (!B_varies()) load_constant(call.B, B_tile);
    if (!C_varies()) load_constant(call.C, C_tile);
    rates.load_rates(call.A, place, lane);
  }

  BDAM_DEVICE bool B_varies() const { return kVaries || call.B_varies; }
  BDAM_DEVICE bool C_varies() const { return kVaries || call.C_varies; }
  BDAM_DEVICE bool exists(int c, int time) const { return c < place.channels && time < place.end; }

  // Bit i is whether a sequence begins at step `time` + i, of as many steps as a warp has lanes.
  BDAM_DEVICE uint32_t resets_from(int time) const {
    if constexpr (kPacked) {
      const int step = time + thread_index() % 32;
      const int64_t at = opaque(place.batch) * call.resets.stride[0] + step * call.resets.stride[1];
      return ballot(step < place.end && call.resets.as<uint8_t>()[at]);
    } else {
      return 0;
    }
  }
  BDAM_DEVICE static bool is_reset(uint32_t resets, int step) { return kPacked && resets >> step & 1; }

  // Zero beyond the last channel and step.
  template <class Access>
  BDAM_DEVICE void fetch(const Tensor& t, int time, Fetched<L::kChannels>& to) const {
    ChannelElements<L, Access>().template each_in<typename Access::Type>(
        place.over_time(t), time,
        [&](int i, int c, int s, auto* from) { to.bits[i] = exists(c, time + s) ? *from : 0; });
  }
  // Writes value(i, channel, step) for this thread's elements of the tile.
  template <class Access, class Value>
  BDAM_DEVICE void write(const Tensor& t, int time, Value value) const {
    using Type = typename Access::Type;
    ChannelElements<L, Access>().template each_in<Type>(place.over_time(t), time, [&](int i, int c, int s, auto* to) {
      const auto bits = Type::bits(value(i, c, s));
      if (exists(c, time + s)) *to = bits;
    });
  }
  // first: where the tile's first step is in the array.
  template <class Access>
  BDAM_DEVICE void store_u(const Fetched<L::kChannels>& from, int first) const {
    ChannelElements<L, Access>().each([&](int i, int c, int s) {
      u_tile.store((first + s) * L::kRow + c, from.template value<Access>(i));
    });
  }
  // The step sizes: with bias and softplus, and zero where there is no such step or channel, which leaves states as
  // they are.
  template <class Access>
  BDAM_DEVICE void store_delta(const Fetched<L::kChannels>& from, int time, int first) const {
    ChannelElements<L, Access>().each([&](int i, int c, int s) {
      const float x = from.template value<Access>(i) + bias.load(c), soft = softplus(x);
      delta_tile.store((first + s) * L::kRow + c, exists(c, time + s) ? (call.delta_softplus ? soft : x) : 0.0f);
    });
  }

  // use(elements) with a thread's elements of a tile of B or C.
  template <class Use>
  BDAM_DEVICE static void with_elements(const Tensor& t, Use use) {
    if constexpr (L::kStates <= kThreads) {
      if (t.stride[2] == 1) return use(Elements<L::kStates, Order::kRows>());
    }
    use(Elements<L::kStates, Order::kSteps>());
  }
  // A tile of B or C, zero beyond the last state and step.
  template <class Type>
  BDAM_DEVICE void fetch_coefficients(const Tensor& t, int time, Fetched<L::kStates>& bits) const {
    with_elements(t, [&](auto elements) {
      elements.template each_in<Type>(place.coefficients(t, true), time, [&](int i, int n, int s, auto* from) {
        bits.bits[i] = n < static_cast<int>(t.size[2]) && time + s < place.end ? *from : 0;
      });
    });
  }
  // Transposed: kStates floats a step.
  template <class Type>
  BDAM_DEVICE void store_coefficients(const Tensor& t, const Fetched<L::kStates>& bits, const Shared& to) const {
    with_elements(t, [&](auto elements) {
      elements.each([&](int i, int n, int s) { to.store(s * L::kStates + n, Type::value(bits.bits[i])); });
    });
  }
  template <class Type>
  BDAM_DEVICE void load_coefficients(const Tensor& t, int time, const Shared& to) const {
    Fetched<L::kStates> bits;
    fetch_coefficients<Type>(t, time, bits);
    store_coefficients<Type>(t, bits, to);
  }
  // B or C constant over time: kStates floats a channel.
  BDAM_DEVICE void load_constant(const Tensor& t, const Shared& to) const {
    const Matrix m = place.coefficients(t, false);
    for (int i = thread_index(); i < L::kChannels * L::kStates; i += kThreads) {
      const int c = i / L::kStates, n = i % L::kStates;
      to.store(i, c < place.channels && n < t.size[3] ? F32::value(*m.template at<F32>(c, n)) : 0.0f);
    }
  }
  // A lane's states of B or C, at a step of the tile or, constant over time, of the lane's only channel.
  BDAM_DEVICE void read_coefficients(const Shared& tile, bool varies, int step, float (&to)[KS]) const {
    static_assert(kVaries || KC == 1);
    const int at = (varies ? step : lane.channel) * L::kStates + lane.state;
#pragma unroll
    for (int i = 0; i < KS; i += 4) {
      const Vec<4> part = tile.load<4>(at + i);
#pragma unroll
      for (int n = 0; n < 4; ++n) to[i + n] = part.v[n];
    }
  }
};

}  // namespace bdam::scan
