#include <algorithm>

#include "cross_attention_groups.cuh"
#include "cross_attention_softmax.cuh"

namespace bdam {
namespace attention {
namespace groups {
namespace {

struct Forward {
  Call call;
  Tensor out[2], logs[2];  // the latter may be absent
  Course course;
};

// Scores of a warp's queries as exponents of two, where keys are seen; `largest` becomes the largest of this lane too.
template <int kTiles>
BDAM_DEVICE void scale(const Call& call, Tile (&s)[kTiles], bool all_seen, const Shared& visible, float (&largest)[2]) {
  const auto each = [&](auto value) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      each_element(s[j], [&](float& x, int half, int key) {
        x = value(x, kTileRows * j + key);
        largest[half] = fmaxf(largest[half], x);
      });
    }
  };
  if (all_seen) {
    each([&](float x, int) { return x * call.scale; });
  } else {
    each([&](float x, int key) { return visible.load(key) != 0 ? x * call.scale : -INFINITY; });
  }
}

template <class Type, bool kStreamed>
BDAM_KERNEL(kGroups<kStreamed>* kGroupThreads, kStreamed ? 1 : 3)
cross_attention_group_forward_kernel(BDAM_PARAMETER Forward p) {
  const Call& call = p.call;
  const Place place(call);
  const Member me;
  const int of = place.direction, from = 1 - of, threads = kGroups<kStreamed> * kGroupThreads;
  const GlobalRows<Type> q_rows = place.rows<Type>(call.q[of]);
  const GlobalRows<Type> k_rows = place.rows<Type>(call.k[from]), v_rows = place.rows<Type>(call.v[from]);
  const int queries = q_rows.count, keys = k_rows.count;
  const Others<Type, kStreamed> others{p.course.rows};
  const auto visible_at = [&](int start) { return others.numbers(0, kGroups<kStreamed>, start); };
  const auto fetch_keys = [&](int start, int most) {
    const int rows = min(most, whole_tiles(keys - start));
    others.matrix(0, start).fetch(k_rows, start, rows, thread_index(), threads);
    others.matrix(1, start).fetch(v_rows, start, rows, thread_index(), threads);
    Visible{visible_at(start)}.fill(call, place, start, rows, keys, threads);
  };
  const auto q = others.own(me.group);

#pragma unroll 1
  for (int round = 0; round < p.course.rounds; ++round) {
    const int tile = me.tile<kStreamed>(place.block, p.course, round), first = tile + me.row;
    if (round > 0) barrier();  // the last tile has been read
    q.fetch(q_rows, tile, kGroupRows, me.thread, kGroupThreads);
    if (round == 0) fetch_keys(0, kStreamed ? kChunk : p.course.rows);
    Softmax softmax;
    Accumulator out[8];
    each_chunk(keys, [&](auto tiles, int start) {
      if (kStreamed || start == 0) receive();
      if (kStreamed && start + kChunk < keys) fetch_keys(start + kChunk, kChunk);
      if (tile >= queries) return;

      constexpr int kTiles = decltype(tiles)::value;
      Tile s[kTiles];
      begin_products();
      multiply_rows(s, q, others.matrix(0, start));
      end_products();
      wait_for_products(s, out);
      if (first < queries) {
        float largest[2] = {softmax.largest[0], softmax.largest[1]}, shrink[2];
        scale(call, s, !call.mask[from] && start + kTileRows * kTiles <= keys, visible_at(start), largest);
        softmax.add(s, kTiles, largest, shrink);
        scale_rows(out, shrink);
      }
      const Weights<Rows<Type>, kTiles> weights(s);
      begin_products();
      weights.add_product(out, others.matrix(1, start));
      end_products();
    });
    wait_for_products(out);
    if (first < queries) store_softmax<Type>(p, place, softmax, out, first);
  }
}

}  // namespace

void forward(const Call& call, const Tensor (&out)[2], const Tensor (&logs)[2], int64_t stream) {
  Forward p{call, {out[0], out[1]}, {logs[0], logs[1]}, course_of(call)};
  with_kernel(call, [&](auto type, auto is_streamed) {
    using Type = decltype(type);
    constexpr bool kStreamed = is_streamed;
    for (int of = 0; of < 2; ++of) p.call.blocks[of] = blocks_of<kStreamed>(p.course, call.q[of].size[2]);
    launch(cross_attention_group_forward_kernel<Type, kStreamed>,
           heads_in(call) * (p.call.blocks[0] + p.call.blocks[1]), kGroups<kStreamed> * kGroupThreads,
           static_cast<int>(Others<Type, kStreamed>::floats(p.course.rows, kGroups<kStreamed>, 1)), p, stream);
  });
}

}  // namespace groups
}  // namespace attention
}  // namespace bdam
