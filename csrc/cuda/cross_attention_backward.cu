#include "cross_attention_groups.cuh"
#include "cross_attention_walk.cuh"

namespace bdam {
namespace attention {
namespace {

// Whether the gradients of keys and values fit in the registers together.
template <class M>
constexpr bool kTogether = M::D * M::kBytes <= 192;

// Makes of scores and dP the weights after dropout, in s, and dS, in grad. log and delta are of the query.
BDAM_DEVICE void differentiate(const Call& call, float& s, float& grad, bool seen, bool kept, float log, float delta) {
  const float weight = weight_of(call, s, seen, log);
  s = kept ? weight : 0.0f;
  grad = weight * ((kept ? grad * call.keep_scale : 0.0f) - delta);
}

// The gradients of 16 keys (kOfK) and values (kOfV), summed over queries.
template <class M, bool kOfK, bool kOfV>
struct OfKeys {
  Accumulator of_k[kOfK ? M::D / 8 : 1], of_v[kOfV ? M::D / 8 : 1];

  // Adds what `rows` queries in shared memory give. row: of the keys, there.
  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const int g = lane_index() >> 2;
    const bool seen[2] = {block.visible.memory.load(row + g) != 0, block.visible.memory.load(row + g + 8) != 0};
    const LeftRows<M> k(block.k, row), v(block.v, row);
#pragma unroll 1
    for (int query = 0; query < rows; query += kTileRows) {
      // Before the products: after them a register would be spilled.
      uint32_t words[2];
      block.words_of_columns(query, row, words);
      Tile s = product(k, block.q, query), grad;
      if constexpr (kOfK) grad = product(v, block.grad, query);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2, at_query = query + column_of(i);
        const bool kept = KeepBits::keeps(words[i / 4], i, g + 8 * half);
        differentiate(block.p.call, at(s, i), at(grad, i), seen[half], kept, block.logs.load(at_query),
                      block.deltas.load(at_query));
      }
      if constexpr (kOfV) add_product(of_v, s, block.grad, query);
      if constexpr (kOfK) add_product(of_k, grad, block.q, query);
    }
  }

  // first: the first of the keys.
  BDAM_DEVICE void store(const Block<M>& block, const Backward& p, int first) const {
    using Type = typename M::Type;
    const Place place = block.place.forgotten();
    const int from = 1 - place.direction;
    const float of_score = block.p.call.scale * kLn2, of_weight = block.p.call.keep_scale;
    if constexpr (kOfK) store_rows(of_k, {of_score, of_score}, place.rows<Type>(p.grad_k[from]), first);
    if constexpr (kOfV) store_rows(of_v, {of_weight, of_weight}, place.rows<Type>(p.grad_v[from]), first);
  }
};

// The gradients of 16 queries, summed over keys.
template <class M>
struct OfQueries {
  Accumulator of_q[M::D / 8];

  // Adds what `rows` keys in shared memory give. row: of the queries, there.
  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const int g = lane_index() >> 2;
    const float log[2] = {block.logs.load(row + g), block.logs.load(row + g + 8)};
    const float delta[2] = {block.deltas.load(row + g), block.deltas.load(row + g + 8)};
    const LeftRows<M> q(block.q, row), grad_out(block.grad, row);
#pragma unroll 1
    for (int key = 0; key < rows; key += kTileRows) {
      Tile s = product(q, block.k, key), grad = product(grad_out, block.v, key);
      uint32_t words[2];
      block.words_of_rows(row, key, words);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2, at_key = key + column_of(i);
        const bool kept = KeepBits::keeps(words[half], g, column_of(i));
        differentiate(block.p.call, at(s, i), at(grad, i), block.visible.memory.load(at_key) != 0, kept, log[half],
                      delta[half]);
      }
      add_product(of_q, grad, block.k, key);
    }
  }

  // first: the first of the queries.
  BDAM_DEVICE void store(const Block<M>& block, const Backward& p, int first) const {
    const Place place = block.place.forgotten();
    const float of_score = block.p.call.scale * kLn2;
    store_rows(of_q, {of_score, of_score}, place.rows<typename M::Type>(p.grad_q[place.direction]), first);
  }
};

template <class M>
BDAM_KERNEL(32 * Plan<M>::kWarps, 2)
cross_attention_backward_kernel(BDAM_PARAMETER Backward p) {
  const Block<M> block(p.walk);
  load_own(block);
  if (block.has_keys) {
    if constexpr (kTogether<M>) {
      walk_from_keys<OfKeys<M, true, true>>(block, p);
    } else {
      walk_from_keys<OfKeys<M, true, false>>(block, p);
      walk_from_keys<OfKeys<M, false, true>>(block, p);
    }
  }
  if (block.has_queries) {
    // Where the warps go on that have fewer tiles of keys.
    const int warps = p.walk.call.warps, key_tiles = block.key_rows / kTileRows;
    walk_from_queries<OfQueries<M>>(block, p,
                                    p.walk.streamed ? block.warp : (block.warp + warps - key_tiles % warps) % warps);
  }
}

template <class M>
void start(Backward p, int64_t stream) {
  const int64_t floats = plan<M>(p.walk);
  const Call& call = p.walk.call;
  launch(cross_attention_backward_kernel<M>, heads_in(call) * (call.blocks[0] + call.blocks[1]), 32 * call.warps,
         static_cast<int>(floats), p, stream);
}

}  // namespace
}  // namespace attention

void cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                              const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                              const Tensor& out_a, const Tensor& out_b, const Tensor& logs_a, const Tensor& logs_b,
                              const Tensor& grad_out_a, const Tensor& grad_out_b, const Tensor& deltas_a,
                              const Tensor& deltas_b, const Tensor& grad_q_a, const Tensor& grad_k_a,
                              const Tensor& grad_v_a, const Tensor& grad_q_b, const Tensor& grad_k_b,
                              const Tensor& grad_v_b, double scale, int64_t threshold, int64_t seed, int64_t stream) {
  using namespace attention;
  const Call call = call_of({q_a, q_b}, {k_a, k_b}, {v_a, v_b}, {mask_a, mask_b}, scale, threshold, seed);
  const Walk walk{call, {logs_a, logs_b}, {out_a, out_b}, {grad_out_a, grad_out_b}, {deltas_a, deltas_b}};
  const Backward p{walk, {grad_q_a, grad_q_b}, {grad_k_a, grad_k_b}, {grad_v_a, grad_v_b}};
  if (groups::take(call)) return groups::backward(p, stream);
  with_matrix(q_a.dtype, q_a.size[3], [&](auto* m) { start<std::remove_pointer_t<decltype(m)>>(p, stream); });
}

}  // namespace bdam
