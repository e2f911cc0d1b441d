#include <algorithm>

#include "cross_attention.cuh"

namespace bdam {
namespace attention {
namespace {

// With P~ the weights after dropout and dP = dO V^T: dV = P~^T dO, dS = P (keep dP - delta), dQ = dS K, dK = dS^T Q.
// A block works on tiles of 16 keys, then on tiles of 16 queries, a warp on each, and walks the other side. Where all
// of a head fits in shared memory it is loaded once and one block does everything; else ("streamed") a block has some
// keys, or some queries, and the other side passes through shared memory in chunks.
struct Backward {
  Call call;
  Tensor out[2], logs[2], grad_out[2], grad_q[2], grad_k[2], grad_v[2];
  bool streamed;
  int key_blocks[2];  // if streamed, by direction: the first blocks of a head
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
  // Whether the gradients of keys and values fit in the registers together.
  static constexpr bool kTogether = M::D * M::kBytes <= 192;
};

// A block's arrays in shared memory, and what fills them.
template <class M>
struct Block {
  using Type = typename M::Type;
  const Backward& p;
  Place place;
  int of, from, warp, threads, queries, keys;
  bool has_keys, has_queries;  // of its own
  int own;                     // its first own row
  int query_rows, key_rows;    // in shared memory
  M k, v, q, grad;
  Shared logs, deltas;
  Visible visible;
  KeepBits bits;

  BDAM_DEVICE explicit Block(const Backward& p)
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
        bits{Shared(Plan<M>::floats(query_rows, key_rows), Plan<M>::bits(query_rows, key_rows)), key_rows / kTileRows} {}

  BDAM_DEVICE int rows_in_memory(int count, bool are_own) const {
    return !p.streamed ? whole_tiles(count) : are_own ? p.call.warps * kTileRows : Plan<M>::kChunk;
  }

  BDAM_DEVICE void load_keys(int first) const {
    const Place here = place.forgotten();
    const int rows = min(key_rows, whole_tiles(keys - first));
    k.fetch(here.rows<Type>(p.call.k[1 - here.direction]), first, rows, thread_index(), threads);
    v.fetch(here.rows<Type>(p.call.v[1 - here.direction]), first, rows, thread_index(), threads);
    visible.fill(p.call, here, first, rows, keys, threads);
  }

  BDAM_DEVICE void load_queries(int first) const {
    const Place here = place.forgotten();
    const int rows = min(query_rows, whole_tiles(queries - first));
    const auto grad_rows = here.rows<Type>(p.grad_out[here.direction]);
    q.fetch(here.rows<Type>(p.call.q[here.direction]), first, rows, thread_index(), threads);
    grad.fetch(grad_rows, first, rows, thread_index(), threads);
    const auto out_rows = here.rows<Type>(p.out[here.direction]);
    const float* log_rows = here.row_numbers(p.logs[here.direction]);
    // Four lanes a row.
    const int t = lane_index() & 3;
    for (int row = thread_index() / 4; row < rows; row += threads / 4) {
      float sum = 0.0f;
      for (int piece = t; piece < M::kPieces; piece += 4) {
        const Words a = out_rows.load(first + row, piece), b = grad_rows.load(first + row, piece);
#pragma unroll
        for (int i = 0; i < 16 / M::kBytes; ++i) sum += element<Type>(a, i) * element<Type>(b, i);
      }
      sum = row_sum(sum);
      if (t == 0) {
        deltas.store(row, sum);
        logs.store(row, first + row < queries ? log_rows[first + row] : INFINITY);
      }
    }
  }

  BDAM_DEVICE void draw(int first_query, int first_key) const {
    if (p.call.threshold) bits.fill(p.call, place, first_query, query_rows, first_key, warp, p.call.warps);
  }
};

// Element i of a tile that this lane has; in row lane / 4 + 8 (i % 4 / 2) and column column_of(i).
BDAM_DEVICE float& at(Tile& tile, int i) { return tile.half[i / 4].v[i % 4]; }
BDAM_DEVICE int column_of(int i) { return i / 4 * 8 + 2 * (lane_index() & 3) + i % 2; }

// Makes of scores and dP the weights after dropout, in s, and dS, in grad. log and delta are of the query.
BDAM_DEVICE void differentiate(const Call& call, float& s, float& grad, bool seen, bool kept, float log, float delta) {
  const float weight = seen ? exp2(s * call.scale - log) : 0.0f;
  s = kept ? weight : 0.0f;
  grad = weight * ((kept ? grad * call.keep_scale : 0.0f) - delta);
}

// The gradients of 16 keys (kOfK) and values (kOfV), summed over queries.
template <class M, bool kOfK, bool kOfV>
struct OfKeys {
  Accumulator of_k[kOfK ? M::D / 8 : 1], of_v[kOfV ? M::D / 8 : 1];

  // Adds what `rows` queries in shared memory give. row: of the keys, there.
  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const Call& call = block.p.call;
    const int g = lane_index() >> 2;
    const bool seen[2] = {block.visible.memory.load(row + g) != 0, block.visible.memory.load(row + g + 8) != 0};
    const LeftRows<M> k(block.k, row), v(block.v, row);
#pragma unroll 1
    for (int query = 0; query < rows; query += kTileRows) {
      Tile s = product(k, block.q, query), grad;
      if (kOfK) grad = product(v, block.grad, query);
      uint32_t words[2] = {~0u, ~0u};
      if (call.threshold) {
        words[0] = block.bits.word(query + 2 * (lane_index() & 3), row / kTileRows);
        words[1] = block.bits.word(query + 2 * (lane_index() & 3) + 8, row / kTileRows);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2, at_query = query + column_of(i);
        const bool kept = KeepBits::keeps(words[i / 4], i, g + 8 * half);
        differentiate(call, at(s, i), at(grad, i), seen[half], kept, block.logs.load(at_query),
                      block.deltas.load(at_query));
      }
      if constexpr (kOfV) add_product(of_v, s, block.grad, query);
      if constexpr (kOfK) add_product(of_k, grad, block.q, query);
    }
  }

  // first: the first of the keys.
  BDAM_DEVICE void store(const Block<M>& block, int first) const {
    using Type = typename M::Type;
    const Backward& p = block.p;
    const float of_score = p.call.scale * kLn2, of_weight = p.call.keep_scale;
    if constexpr (kOfK) {
      store_rows(of_k, {of_score, of_score}, block.place.forgotten().template rows<Type>(p.grad_k[block.from]), first);
    }
    if constexpr (kOfV) {
      store_rows(of_v, {of_weight, of_weight}, block.place.forgotten().template rows<Type>(p.grad_v[block.from]), first);
    }
  }
};

// The gradients of 16 queries, summed over keys.
template <class M>
struct OfQueries {
  Accumulator of_q[M::D / 8];

  // Adds what `rows` keys in shared memory give. row: of the queries, there.
  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const Call& call = block.p.call;
    const int g = lane_index() >> 2;
    const float log[2] = {block.logs.load(row + g), block.logs.load(row + g + 8)};
    const float delta[2] = {block.deltas.load(row + g), block.deltas.load(row + g + 8)};
    const LeftRows<M> q(block.q, row), grad_out(block.grad, row);
#pragma unroll 1
    for (int key = 0; key < rows; key += kTileRows) {
      Tile s = product(q, block.k, key), grad = product(grad_out, block.v, key);
      uint32_t words[2] = {~0u, ~0u};
      if (call.threshold) {
        words[0] = block.bits.word(row + g, key / kTileRows);
        words[1] = block.bits.word(row + g + 8, key / kTileRows);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2;
        const bool seen = block.visible.memory.load(key + column_of(i)) != 0;
        const bool kept = KeepBits::keeps(words[half], g, column_of(i));
        differentiate(call, at(s, i), at(grad, i), seen, kept, log[half], delta[half]);
      }
      add_product(of_q, grad, block.k, key);
    }
  }

  // first: the first of the queries.
  BDAM_DEVICE void store(const Block<M>& block, int first) const {
    const float of_score = block.p.call.scale * kLn2;
    const auto to = block.place.forgotten().template rows<typename M::Type>(block.p.grad_q[block.of]);
    store_rows(of_q, {of_score, of_score}, to, first);
  }
};

// A warp's tiles of its block's own rows of one side, of which `count` exist. load(start) brings the next of the `others`
// rows of the other side, `chunk` at a time.
template <class Gradients, class M, class Load>
BDAM_DEVICE void walk(const Block<M>& block, int first_tile, int tiles, int count, int others, int chunk, Load load) {
  for (int tile = first_tile; tile < tiles; tile += block.p.call.warps) {
    const int row = tile * kTileRows, first = block.own + row;
    Gradients gradients;
    for (int start = 0; start < others; start += chunk) {
      if (block.p.streamed) {
        barrier();
        load(start);
        wait_for_copies();
        barrier();
      }
      if (first < count) gradients.add(block, row, min(chunk, whole_tiles(others - start)));
    }
    if (first < count) gradients.store(block, first);
  }
}

template <class M>
BDAM_KERNEL(32 * Plan<M>::kWarps, 2) cross_attention_backward_kernel(BDAM_PARAMETER Backward p) {
  const Block<M> block(p);
  const int warps = p.call.warps;
  const int key_tiles = block.key_rows / kTileRows, query_tiles = block.query_rows / kTileRows;

  if (block.has_keys) block.load_keys(block.own);
  if (block.has_queries) block.load_queries(block.own);
  if (!p.streamed) {
    block.draw(0, 0);
    wait_for_copies();
    barrier();
  }
  if (block.has_keys) {
    const auto load = [&](int start) {
      block.load_queries(start);
      block.draw(start, block.own);
    };
    const auto walk_queries = [&](auto* gradients) {
      using Gradients = std::remove_pointer_t<decltype(gradients)>;
      walk<Gradients>(block, block.warp, key_tiles, block.keys, block.queries, block.query_rows, load);
    };
    if constexpr (Plan<M>::kTogether) {
      walk_queries(static_cast<OfKeys<M, true, true>*>(nullptr));
    } else {
      walk_queries(static_cast<OfKeys<M, true, false>*>(nullptr));
      walk_queries(static_cast<OfKeys<M, false, true>*>(nullptr));
    }
  }
  if (block.has_queries) {
    const auto load = [&](int start) {
      block.load_keys(start);
      block.draw(block.own, start);
    };
    // Where the warps go on that have fewer tiles of keys.
    const int first = p.streamed ? block.warp : (block.warp + warps - key_tiles % warps) % warps;
    walk<OfQueries<M>>(block, first, query_tiles, block.queries, block.keys, block.key_rows, load);
  }
}

template <class M>
void start(Backward& p, int64_t stream) {
  using P = Plan<M>;
  Call& call = p.call;
  call.warps = P::kWarps;
  const int64_t rows[2] = {tiles_of(call.q[0]) * kTileRows, tiles_of(call.q[1]) * kTileRows};
  int64_t floats = P::floats(std::max(rows[0], rows[1]), std::max(rows[0], rows[1]));
  if (call.threshold) floats += P::bits(std::max(rows[0], rows[1]), std::max(rows[0], rows[1]));
  // Few heads are cut up, so that they fill the GPU.
  const int64_t own = P::kWarps * kTileRows;
  const bool are_many = 2 * heads_in(call) >= kManyBlocks / 8 || std::max(rows[0], rows[1]) <= own;
  p.streamed = floats > shared_floats_of_device() || !are_many;
  if (p.streamed) floats = P::streamed(P::kWarps);
  for (int of = 0; of < 2; ++of) {
    p.key_blocks[of] = divided_up(rows[1 - of], own);
    call.blocks[of] = p.streamed ? p.key_blocks[of] + divided_up(rows[of], own) : 1;
  }
  launch(cross_attention_backward_kernel<M>, heads_in(call) * (call.blocks[0] + call.blocks[1]), 32 * call.warps,
         static_cast<int>(floats), p, stream);
}

}  // namespace
}  // namespace attention

void cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                              const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                              const Tensor& out_a, const Tensor& out_b, const Tensor& logs_a, const Tensor& logs_b,
                              const Tensor& grad_out_a, const Tensor& grad_out_b, const Tensor& grad_q_a,
                              const Tensor& grad_k_a, const Tensor& grad_v_a, const Tensor& grad_q_b,
                              const Tensor& grad_k_b, const Tensor& grad_v_b, double scale, int64_t threshold,
                              int64_t seed, int64_t stream) {
  using namespace attention;
  Backward p{call_of({q_a, q_b}, {k_a, k_b}, {v_a, v_b}, {mask_a, mask_b}, scale, threshold, seed),
             {out_a, out_b},
             {logs_a, logs_b},
             {grad_out_a, grad_out_b},
             {grad_q_a, grad_q_b},
             {grad_k_a, grad_k_b},
             {grad_v_a, grad_v_b}};
  with_matrix(q_a.dtype, q_a.size[3], [&](auto* m) { start<std::remove_pointer_t<decltype(m)>>(p, stream); });
}

}  // namespace bdam
