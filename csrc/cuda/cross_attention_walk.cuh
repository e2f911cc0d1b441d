// How blocks walk over a head's weights, which are computed again from the logarithms that forward saved. A block has
// tiles of 16 keys or of 16 queries, a warp on each, and walks the other side. Where all of a head fits in shared
// memory it is loaded once and a block may have everything; else ("streamed") it has some keys, or some queries, and
// the other side passes through shared memory in chunks.
#pragma once

#include <algorithm>

#include "cross_attention.cuh"

namespace bdam {
namespace attention {

// Of (B, H, L, d) outputs and their gradients. deltas: (B, H, L), which queries leave to keys where they have a launch of
// their own.
struct Walk {
  Call call;
  Tensor logs[2], out[2], grad_out[2], deltas[2];
  bool streamed;
  int key_blocks[2];  // if streamed, by direction: the first blocks of a head
};

// With P~ the weights after dropout and dP = dO V^T: dV = P~^T dO, dS = P (keep dP - delta), dQ = dS K, dK = dS^T Q.
struct Backward {
  Walk walk;
  Tensor grad_q[2], grad_k[2], grad_v[2];
};

template <class M>
struct Plan {
  static constexpr int kChunk = M::kBytes == 2 ? 64 : 16;  // rows of the other side
  // Floats of shared memory without dropout's bits, which come last.
  BDAM_EVERYWHERE static constexpr int64_t floats(int64_t query_rows, int64_t key_rows) {
    return 2 * M::kFloats * (query_rows + key_rows) + 2 * query_rows + key_rows;
  }
  BDAM_EVERYWHERE static constexpr int64_t bits(int64_t query_rows, int64_t key_rows) {
    return query_rows / 2 * (key_rows / kTileRows);
  }
  static constexpr int64_t streamed(int64_t warps) {
    const int64_t own = warps * kTileRows;
    return std::max(floats(own, kChunk), floats(kChunk, own)) + bits(own, kChunk);
  }
  static constexpr int kWanted = M::kBytes == 2 && M::D <= 64 ? 6 : 4;
  static constexpr int kWarps = streamed(kWanted) <= kSharedFloats ? kWanted : 3;
  static_assert(streamed(kWarps) <= kSharedFloats);
};

// The part of one of the four lanes that share a row in the product of an output with its gradient.
template <class M>
BDAM_DEVICE float part_of_delta(const GlobalRows<typename M::Type>& outs, const GlobalRows<typename M::Type>& grads,
                                int row) {
  float sum = 0.0f;
#pragma unroll 2
  for (int piece = 0; piece < M::kPieces; piece += 4) {
    const int mine = piece + (lane_index() & 3);
    if (mine >= M::kPieces) break;
    const Words a = outs.load(row, mine), b = grads.load(row, mine);
#pragma unroll
    for (int i = 0; i < 16 / M::kBytes; ++i) {
      sum += element<typename M::Type>(a, i) * element<typename M::Type>(b, i);
    }
  }
  return sum;
}

// Those of `rows` rows from `first` on, into shared memory; kAtOnce of a thread, whose loads then wait together.
template <class M, int kAtOnce>
BDAM_DEVICE void store_deltas(const GlobalRows<typename M::Type>& outs, const GlobalRows<typename M::Type>& grads,
                              int first, int rows, const Shared& to, int threads) {
  const int step = threads / 4;
  for (int row = thread_index() / 4; row < rows; row += kAtOnce * step) {
    float parts[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) parts[i] = part_of_delta<M>(outs, grads, first + row + i * step);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float delta = row_sum(parts[i]);
      if ((lane_index() & 3) == 0 && row + i * step < rows) to.store(row + i * step, delta);
    }
  }
}

// A block's arrays in shared memory, and what fills them.
template <class M>
struct Block {
  using Type = typename M::Type;
  const Walk& p;
  Place place;
  int of, from, warp, threads, queries, keys;
  bool has_keys, has_queries;  // of its own
  int own;                     // its first own row
  int query_rows, key_rows;    // in shared memory
  M k, v, q, grad;
  Shared logs, deltas;
  Visible visible;
  KeepBits bits;

  BDAM_DEVICE explicit Block(const Walk& p)
      : p(p),
        place(p.call),
        of(place.direction),
        from(1 - of),
        warp(thread_index() / 32),
        threads(32 * p.call.warps),
        queries(static_cast<int>(p.call.q[of].size[2])),
        keys(static_cast<int>(p.call.k[from].size[2])),
        has_keys(!p.streamed || place.block < p.key_blocks[of]),
        has_queries(!p.streamed || !has_keys),
        own(p.streamed ? (has_keys ? place.block : place.block - p.key_blocks[of]) * p.call.warps * kTileRows : 0),
        query_rows(rows_in_memory(queries, has_queries)),
        key_rows(rows_in_memory(keys, has_keys)),
        k{Shared(0, key_rows * M::kFloats)},
        v{Shared(key_rows * M::kFloats, key_rows * M::kFloats)},
        q{Shared(2 * key_rows * M::kFloats, query_rows * M::kFloats)},
        grad{Shared((2 * key_rows + query_rows) * M::kFloats, query_rows * M::kFloats)},
        logs(2 * (key_rows + query_rows) * M::kFloats, query_rows),
        deltas(2 * (key_rows + query_rows) * M::kFloats + query_rows, query_rows),
        visible{Shared(2 * (key_rows + query_rows) * M::kFloats + 2 * query_rows, key_rows)},
        bits{Shared(Plan<M>::floats(query_rows, key_rows), Plan<M>::bits(query_rows, key_rows)), key_rows / kTileRows} {
  }

  BDAM_DEVICE int rows_in_memory(int count, bool are_own) const {
    return !p.streamed ? whole_tiles(count) : are_own ? p.call.warps * kTileRows : Plan<M>::kChunk;
  }

  BDAM_DEVICE void load_keys(int first) const {
    const Place here = place.forgotten();
    const int rows = min(key_rows, whole_tiles(keys - first));
    k.fetch(here.rows<Type>(p.call.k[1 - here.direction]), first, rows, thread_index(), threads);
    visible.fill(p.call, here, first, rows, keys, threads);
    v.fetch(here.rows<Type>(p.call.v[1 - here.direction]), first, rows, thread_index(), threads);
  }

  BDAM_DEVICE void load_queries(int first) const {
    const Place here = place.forgotten();
    const int rows = min(query_rows, whole_tiles(queries - first));
    q.fetch(here.rows<Type>(p.call.q[here.direction]), first, rows, thread_index(), threads);
    here.load_numbers(p.logs[here.direction], first, rows, INFINITY, logs, threads);
    const auto grad_rows = here.rows<Type>(p.grad_out[here.direction]);
    grad.fetch(grad_rows, first, rows, thread_index(), threads);
    // One at a time: registers are full.
    store_deltas<M, 1>(here.rows<Type>(p.out[here.direction]), grad_rows, first, rows, deltas, threads);
  }

  // Which weights of a tile dropout keeps: the words of columns 0 to 7 and 8 to 15, where rows are keys ...
  BDAM_DEVICE void words_of_columns(int query, int key, uint32_t (&words)[2]) const {
    const int first = query + 2 * (lane_index() & 3);
    words[0] = p.call.threshold ? bits.word(first, key / kTileRows) : ~0u;
    words[1] = p.call.threshold ? bits.word(first + 8, key / kTileRows) : ~0u;
  }
  // ... and those of the upper and the lower row, where rows are queries.
  BDAM_DEVICE void words_of_rows(int query, int key, uint32_t (&words)[2]) const {
    const int first = query + (lane_index() >> 2);
    words[0] = p.call.threshold ? bits.word(first, key / kTileRows) : ~0u;
    words[1] = p.call.threshold ? bits.word(first + 8, key / kTileRows) : ~0u;
  }

  BDAM_DEVICE void draw(int first_query, int first_key) const {
    if (p.call.threshold) bits.fill(p.call, place, first_query, query_rows, first_key, warp, p.call.warps);
  }
};

// Element i of a tile that this lane has; in row lane / 4 + 8 (i % 4 / 2) and column column_of(i).
BDAM_DEVICE float& at(Tile& tile, int i) { return tile.half[i / 4].v[i % 4]; }
BDAM_DEVICE int column_of(int i) { return i / 4 * 8 + 2 * (lane_index() & 3) + i % 2; }

// The weight of a key, before dropout, from its score and the query's logarithm. A fused multiplication would differ from
// the forward pass's rounding, by up to 2^-12 for a score of 4096, which gradients that cancel show.
BDAM_DEVICE float weight_of(const Call& call, float score, bool seen, float log) {
  return seen ? exp2(multiply_rounded(score, call.scale) - log) : 0.0f;
}

// A warp's tiles of its block's own rows of one side, of which `count` exist: a Visitor each, which adds up over what
// load(start) brings, the next of the `others` rows of the other side, `chunk` at a time.
template <class Visitor, class M, class Load>
BDAM_DEVICE void walk(const Block<M>& block, const Backward& p, int first_tile, int tiles, int count, int others,
                      int chunk, Load load) {
  for (int tile = first_tile; tile < tiles; tile += block.p.call.warps) {
    const int row = tile * kTileRows, first = block.own + row;
    Visitor visitor;
    for (int start = 0; start < others; start += chunk) {
      if (block.p.streamed) {
        barrier();
        load(start);
        wait_for_copies();
        barrier();
      }
      if (first < count) visitor.add(block, row, min(chunk, whole_tiles(others - start)));
    }
    if (first < count) visitor.store(block, p, first);
  }
}

// Before any walk.
template <class M>
BDAM_DEVICE void load_own(const Block<M>& block) {
  if (block.has_keys) block.load_keys(block.own);
  if (block.has_queries) block.load_queries(block.own);
  if (!block.p.streamed) {
    block.draw(0, 0);
    wait_for_copies();
    barrier();
  }
}

// Of the block's own keys, over all queries.
template <class Visitor, class M>
BDAM_DEVICE void walk_from_keys(const Block<M>& block, const Backward& p) {
  walk<Visitor>(block, p, block.warp, block.key_rows / kTileRows, block.keys, block.queries, block.query_rows,
                [&](int start) {
                  block.load_queries(start);
                  block.draw(start, block.own);
                });
}

// Of the block's own queries, over all keys; a warp's first tile is `first_tile`.
template <class Visitor, class M>
BDAM_DEVICE void walk_from_queries(const Block<M>& block, const Backward& p, int first_tile) {
  walk<Visitor>(block, p, first_tile, block.query_rows / kTileRows, block.queries, block.keys, block.key_rows,
                [&](int start) {
                  block.load_keys(start);
                  block.draw(block.own, start);
                });
}

// Chooses how to walk. Returns the floats of shared memory.
template <class M>
int64_t plan(Walk& p) {
  using P = Plan<M>;
  Call& call = p.call;
  call.warps = P::kWarps;
  const int64_t own = P::kWarps * kTileRows;
  const int64_t rows[2] = {tiles_of(call.q[0]) * kTileRows, tiles_of(call.q[1]) * kTileRows};
  const int64_t most = std::max(rows[0], rows[1]);
  const int64_t whole = P::floats(most, most) + (call.threshold ? P::bits(most, most) : 0);
  // Few heads are cut up, so that they fill the GPU.
  const bool are_many = 2 * heads_in(call) >= kManyBlocks / 8 || most <= own;
  p.streamed = whole > shared_floats_of_device() || !are_many;
  for (int of = 0; of < 2; ++of) {
    p.key_blocks[of] = ceil_divide<int>(rows[1 - of], own);
    call.blocks[of] = p.streamed ? p.key_blocks[of] + ceil_divide<int>(rows[of], own) : 1;
  }
  return p.streamed ? P::streamed(P::kWarps) : whole;
}

}  // namespace attention
}  // namespace bdam
