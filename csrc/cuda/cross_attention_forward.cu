#include <algorithm>

#include "cross_attention_groups.cuh"
#include "cross_attention_softmax.cuh"

namespace bdam {
namespace attention {
namespace {

struct Forward {
  Call call;
  Tensor out[2], logs[2];  // the latter may be absent
  int rounds;              // of a block, in each of which every warp has 16 queries
};

// Narrow heads whose keys are few have a kernel that takes all of them at once.
template <class M>
constexpr bool kHasWhole = M::kBytes == 2 && M::D <= 64;
constexpr int kWholeKeys = 208;

// How many keys a block takes at a time, a warp their scores in registers, and where its arrays begin in shared memory;
// the last two grow with its warps. With two buffers of keys and values, one is filled while the other is computed with.
template <class M, bool kWhole>
struct Arrays {
  static constexpr int kKeys = kWhole ? kWholeKeys : M::kBytes == 2 && M::D <= 64 ? 64 : 32;
  static constexpr int kTiles = kKeys / kTileRows;
  static constexpr int kBuffers = !kWhole && M::kBytes == 2 ? 2 : 1, kBuffer = kKeys * M::kFloats;
  static constexpr int kK = 0, kV = kBuffers * kBuffer, kVisible = 2 * kV, kQ = kVisible + kBuffers * kKeys;
  static constexpr int kWarpQ = kTileRows * M::kFloats, kWarpBits = kTileRows / 2 * kTiles;
  // Blocks that load all keys but once are small, so that some load while others compute; the others are large, so that
  // each chunk of keys serves many queries.
  static constexpr int kRoomFor = (kSharedFloats - kQ) / (kWarpQ + kWarpBits), kWanted = kWhole       ? 4
                                                                                         : M::D > 128 ? 8
                                                                                                      : kMaxWarps;
  static constexpr int kWarps = kRoomFor < kWanted ? kRoomFor : kWanted, kBlocks = kWhole ? (M::D > 32 ? 3 : 2) : 1;
  static_assert(kWarps >= 4);
};

// Scores of a warp's queries; returns in `largest` the largest of this lane and of what it was.
template <class M, int kTiles>
BDAM_DEVICE void score(const Call& call, const LeftRows<M>& q, const M& k, const Visible& visible, int tiles,
                       Tile (&s)[kTiles], float (&largest)[2]) {
  each_tile<kTiles>(tiles, [&](int j) {
    s[j] = product(q, k, kTileRows * j);
    each_element(s[j], [&](float& x, int half, int key) {
      x = visible.memory.load(kTileRows * j + key) != 0 ? x * call.scale : -INFINITY;
      largest[half] = fmaxf(largest[half], x);
    });
  });
}

// Zeroes the weights that dropout takes.
template <int kTiles>
BDAM_DEVICE void drop(const Call& call, const Place& place, const KeepBits& bits, int first_query, int first_key,
                      int tiles, Tile (&s)[kTiles]) {
  const int g = lane_index() >> 2;
  bits.fill(call, place, first_query, kTileRows, first_key, 0, 1);
  warp_barrier();
  each_tile<kTiles>(tiles, [&](int j) {
    const uint32_t words[2] = {bits.word(g, j), bits.word(g + 8, j)};
    each_element(s[j], [&](float& x, int half, int key) {
      if (!KeepBits::keeps(words[half], g, key)) x = 0.0f;
    });
  });
  warp_barrier();
}

template <class M, bool kWhole>
BDAM_KERNEL((32 * Arrays<M, kWhole>::kWarps), (Arrays<M, kWhole>::kBlocks))
cross_attention_forward_kernel(BDAM_PARAMETER Forward p) {
  using Type = typename M::Type;
  using A = Arrays<M, kWhole>;
  constexpr int kTiles = A::kTiles;
  const Call& call = p.call;
  const Place place(call);
  const int of = place.direction, from = 1 - of, warp = thread_index() / 32, threads = 32 * call.warps;
  const GlobalRows<Type> q_rows = place.rows<Type>(call.q[of]);
  const GlobalRows<Type> k_rows = place.rows<Type>(call.k[from]), v_rows = place.rows<Type>(call.v[from]);
  const int queries = q_rows.count, keys = k_rows.count;

  const M q{Shared(A::kQ + warp * A::kWarpQ, A::kWarpQ)};
  const auto buffer_of = [&](int start) { return start / A::kKeys % A::kBuffers; };
  const auto k_at = [&](int start) { return M{Shared(A::kK + buffer_of(start) * A::kBuffer, A::kBuffer)}; };
  const auto v_at = [&](int start) { return M{Shared(A::kV + buffer_of(start) * A::kBuffer, A::kBuffer)}; };
  const auto visible_at = [&](int start) {
    return Visible{Shared(A::kVisible + buffer_of(start) * A::kKeys, A::kKeys)};
  };
  const auto tiles_at = [&](int start) { return min(kTiles, (keys - start + kTileRows - 1) / kTileRows); };
  const auto fetch_keys = [&](int start) {
    const int rows = tiles_at(start) * kTileRows;
    k_at(start).fetch(k_rows, start, rows, thread_index(), threads);
    v_at(start).fetch(v_rows, start, rows, thread_index(), threads);
    visible_at(start).fill(call, place, start, rows, keys, threads);
  };
  const KeepBits bits{Shared(A::kQ + call.warps * A::kWarpQ + warp * A::kWarpBits, A::kWarpBits), kTiles};

  for (int round = 0; round < p.rounds; ++round) {
    const int first = ((place.block * p.rounds + round) * call.warps + warp) * kTileRows;
    warp_barrier();
    q.fetch(q_rows, first, kTileRows, lane_index(), 32);
    Softmax softmax;
    Accumulator out[M::D / 8];
    for (int start = 0; start == 0 || (!kWhole && start < keys); start += A::kKeys) {
      const int tiles = tiles_at(start), next = start + A::kKeys;
      if (!kWhole || round == 0) {
        if (start == 0 || A::kBuffers == 1) {
          barrier();
          fetch_keys(start);
        }
        wait_for_copies();
        barrier();  // everyone is done with the other buffer too
        if (A::kBuffers == 2 && next < keys) fetch_keys(next);
      } else {
        wait_for_copies();
        warp_barrier();
      }
      if (first >= queries) continue;

      Tile s[kTiles];
      float largest[2] = {softmax.largest[0], softmax.largest[1]}, shrink[2];
      score(call, LeftRows<M>(q, 0), k_at(start), visible_at(start), tiles, s, largest);
      softmax.add(s, tiles, largest, shrink);
      if (!kWhole) scale_rows(out, shrink);
      if (call.threshold) drop(call, place, bits, first, start, tiles, s);
      each_tile<kTiles>(tiles, [&](int j) { add_product(out, s[j], v_at(start), kTileRows * j); });
    }
    if (first >= queries) continue;

    store_softmax<Type>(p, place, softmax, out, first);
  }
}

template <class M, bool kWhole>
void start(Forward& p, int64_t stream) {
  using A = Arrays<M, kWhole>;
  Call& call = p.call;
  const int tiles[2] = {tiles_of(call.q[0]), tiles_of(call.q[1])};
  const int most_tiles = std::max(tiles[0], tiles[1]);
  const int rounds_of_warps = ceil_divide<int>(most_tiles, A::kWarps);
  call.warps = kWhole ? std::min(A::kWarps, most_tiles) : ceil_divide<int>(most_tiles, rounds_of_warps);
  const int64_t all_rounds =
      heads_in(call) * (ceil_divide<int>(tiles[0], call.warps) + ceil_divide<int>(tiles[1], call.warps));
  const int most_rounds = kWhole ? ceil_divide<int>(most_tiles, call.warps) : 1;
  p.rounds = static_cast<int>(std::clamp<int64_t>(all_rounds / kManyBlocks, 1, most_rounds));
  for (int of = 0; of < 2; ++of) call.blocks[of] = ceil_divide<int>(tiles[of], call.warps * p.rounds);
  launch(cross_attention_forward_kernel<M, kWhole>, heads_in(call) * (call.blocks[0] + call.blocks[1]), 32 * call.warps,
         A::kQ + call.warps * (A::kWarpQ + A::kWarpBits), p, stream);
}

}  // namespace
}  // namespace attention

void cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                             const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                             const Tensor& out_a, const Tensor& out_b, const Tensor& logs_a, const Tensor& logs_b,
                             double scale, int64_t threshold, int64_t seed, int64_t stream) {
  using namespace attention;
  Forward p{call_of({q_a, q_b}, {k_a, k_b}, {v_a, v_b}, {mask_a, mask_b}, scale, threshold, seed),
            {out_a, out_b},
            {logs_a, logs_b},
            0};
  if (groups::take(p.call)) return groups::forward(p.call, p.out, p.logs, stream);
  with_matrix(q_a.dtype, q_a.size[3], [&](auto* m) {
    using M = std::remove_pointer_t<decltype(m)>;
    if constexpr (kHasWhole<M>) {
      if (std::max(k_a.size[2], k_b.size[2]) <= kWholeKeys) return start<M, true>(p, stream);
    }
    start<M, false>(p, stream);
  });
}

}  // namespace bdam
