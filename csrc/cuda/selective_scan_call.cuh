// What the selective scan's launches share: the layout for a number of states, and a call as the kernels see it.
#pragma once

#include <type_traits>

#include "selective_scan.cuh"

namespace bdam::scan {

// Twice the blocks of two channels a lane that there must be for every multiprocessor, for a lane to have two.
constexpr int kTwiceWideBlocks = 5;

// Runs launch(Layout) with the smallest layout that has room for the states. With one channel a lane unless B and C
// vary over time, as its states then differ from channel to channel; and of up to 16 states, unless blocks of twice as
// many channels are enough for all multiprocessors. rows: channels of all batches. Packed sequences have fewer layouts,
// each of which takes seconds to compile.
template <bool kVaries, bool kPacked, class Launch>
void with_layout(int64_t states, int64_t rows, Launch launch) {
  constexpr int KC = kVaries ? 2 : 1;
  if constexpr (!kPacked) {
    if (states <= 8) return launch(Layout<2, 4, 1>());
    if (states > 16 && states <= 32) return launch(Layout<8, 4, KC>());
  }
  if (states <= 16) {
    using Wide = Layout<4, 4, KC>;
    if (2 * rows < kTwiceWideBlocks * multiprocessors() * Wide::kChannels) return launch(Layout<4, 4, 1>());
    return launch(Wide());
  }
  if (states <= 64) return launch(Layout<16, 4, KC>());
  launch(Layout<32, 8, 1>());
}

// Runs start(varies, packed) with both as constants. Kernels for packed sequences are for any B and C, which is half as
// much to compile.
template <class Start>
void with_form(bool varies, bool packed, Start start) {
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if (packed) return start(no, yes);
  varies ? start(yes, no) : start(no, no);
}

// A tensor with time as its last axis, seen from the end.
inline Tensor reversed(const Tensor& t, bool reverse) {
  Tensor r = t;
  if (!t || !reverse) return r;
  const int last = t.dims - 1, bytes = t.dtype == DType::f32 ? 4 : t.dtype == DType::u8 ? 1 : 2;
  r.data = static_cast<char*>(t.data) + (t.size[last] - 1) * t.stride[last] * bytes;
  r.stride[last] = -t.stride[last];
  return r;
}

// With axes of size 1 and stride 0 in front of axis `at`, up to four axes.
inline Tensor with_four_axes(Tensor t, int at) {
  for (; t && t.dims < Tensor::kMaxDims; ++t.dims) {
    for (int i = t.dims; i > at; --i) {
      t.size[i] = t.size[i - 1];
      t.stride[i] = t.stride[i - 1];
    }
    t.size[at] = 1;
    t.stride[at] = 0;
  }
  return t;
}

// (B, D, N) as (B, 1, D, N).
inline Tensor states_of(const Tensor& t) { return with_four_axes(t, 1); }

inline Call call_of(Call call, bool delta_softplus, bool reverse, int64_t segments) {
  call.B_varies = call.B.dims != 2;
  call.C_varies = call.C.dims != 2;
  for (const Tensor* m : {&call.B, &call.C}) {
    if (m->dims == 4) call.groups = static_cast<int>(m->size[1]);
  }
  const int64_t chunks = ceil_divide(call.delta.size[2], kChunk);
  call.segments = static_cast<int>(segments);
  call.segment_steps = ceil_divide<int>(chunks, segments) * kChunk;
  call.delta_softplus = delta_softplus;
  for (Tensor* t : {&call.u, &call.delta, &call.z, &call.resets}) *t = reversed(*t, reverse);
  call.B = with_four_axes(reversed(call.B, reverse && call.B_varies), 0);
  call.C = with_four_axes(reversed(call.C, reverse && call.C_varies), 0);
  call.initial_state = states_of(call.initial_state);
  return call;
}

// Blocks of channels in each group.
template <class L>
int blocks_of(const Call& call) {
  return ceil_divide<int>(call.A.size[0] / call.groups, L::kChannels);
}

}  // namespace bdam::scan
