// The mean of cross-attention's outputs over queries: with w the mean over queries of the weights after dropout, w V.
#include "cross_attention_walk.cuh"

namespace bdam {
namespace attention {
namespace {

struct Pooled {
  Walk walk;
  Tensor key_weights[2], deltas[2];  // what is wanted: (B, H, keys) or (B, H, queries), by direction
};

// The mean weights of 16 keys.
template <class M>
struct KeyWeights {
  float sum[2] = {};

  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const int g = lane_index() >> 2;
    const bool seen[2] = {block.visible.memory.load(row + g) != 0, block.visible.memory.load(row + g + 8) != 0};
    const LeftRows<M> k(block.k, row);
#pragma unroll 1
    for (int query = 0; query < rows; query += kTileRows) {
      Tile s = product(k, block.q, query);
      uint32_t words[2];
      block.words_of_columns(query, row, words);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2;
        const float weight = weight_of(block.p.call, at(s, i), seen[half], block.logs.load(query + column_of(i)));
        if (KeepBits::keeps(words[i / 4], i, g + 8 * half)) sum[half] += weight;
      }
    }
  }

  BDAM_DEVICE void store(const Block<M>& block, const Pooled& p, int first) const {
    float* to = block.place.row_numbers(p.key_weights[block.of]);
    const float factor = block.p.call.keep_scale / block.queries;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[half]);
      const int key = first + (lane_index() >> 2) + 8 * half;
      if ((lane_index() & 3) == 0 && key < block.keys) to[key] = total * factor;
    }
  }
};

// The sums over keys of the weights of 16 queries after dropout, times the gradients of the keys' weights.
template <class M>
struct Deltas {
  float sum[2] = {};

  BDAM_DEVICE void add(const Block<M>& block, int row, int rows) {
    const int g = lane_index() >> 2;
    const float log[2] = {block.logs.load(row + g), block.logs.load(row + g + 8)};
    const LeftRows<M> q(block.q, row);
#pragma unroll 1
    for (int key = 0; key < rows; key += kTileRows) {
      Tile s = product(q, block.k, key);
      uint32_t words[2];
      block.words_of_rows(row, key, words);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2, at_key = key + column_of(i);
        const bool seen = block.visible.memory.load(at_key) != 0;
        const float weight = weight_of(block.p.call, at(s, i), seen, log[half]);
        if (KeepBits::keeps(words[half], g, column_of(i))) sum[half] += weight * block.key_grads.load(at_key);
      }
    }
  }

  BDAM_DEVICE void store(const Block<M>& block, const Pooled& p, int first) const {
    float* to = block.place.row_numbers(p.deltas[block.of]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = row_sum(sum[half]);
      const int query = first + (lane_index() >> 2) + 8 * half;
      if ((lane_index() & 3) == 0 && query < block.queries) to[query] = total * block.p.call.keep_scale;
    }
  }
};

template <class M>
BDAM_KERNEL(32 * Plan<M>::kWarps, 2)
pooled_cross_attention_kernel(BDAM_PARAMETER Pooled p) {
  const Block<M> block(p.walk);
  load_own(block);
  if (p.key_weights[0]) {
    walk_from_keys<KeyWeights<M>>(block, p);
  } else {
    walk_from_queries<Deltas<M>>(block, p, block.warp);
  }
}

void run(Pooled p, int64_t stream) {
  const Tensor& q = p.walk.call.q[0];
  with_matrix(q.dtype, q.size[3], [&](auto* m) {
    using M = std::remove_pointer_t<decltype(m)>;
    const bool of_keys = static_cast<bool>(p.key_weights[0]);
    const int64_t floats = plan<M>(p.walk, of_keys, !of_keys);
    const Call& call = p.walk.call;
    launch(pooled_cross_attention_kernel<M>, heads_in(call) * (call.blocks[0] + call.blocks[1]), 32 * call.warps,
           static_cast<int>(floats), p, stream);
  });
}

constexpr int kWarps = 8, kLanes = 32, kMostColumns = 6;  // of a lane, of at most 192

// What the values have to do with it, by direction: pooled outputs (B, H, d), or their gradients and what follows.
struct Values {
  Call call;
  Tensor key_weights[2], pooled[2], key_grads[2], grad_v[2];
};

// pooled = w V: a block a head and direction.
BDAM_KERNEL(kWarps* kLanes, 1) pooled_values_forward_kernel(BDAM_PARAMETER Values p) {
  const Place place(p.call);
  const int lane = lane_index(), warp = thread_index() / kLanes;
  const Shared sums(0, kWarps * kLanes * kMostColumns);
  with_type(p.call.v[0].dtype, [&](auto type) {
    using Type = decltype(type);
    const auto v = place.rows<Type>(p.call.v[1 - place.direction]);
    const float* weights = place.row_numbers(p.key_weights[place.direction]);
    float sum[kMostColumns] = {};
    for (int key = warp; key < v.count; key += kWarps) {
      const float weight = weights[key];
#pragma unroll
      for (int i = 0; i < kMostColumns; ++i) {
        const int column = i * kLanes + lane;
        if (column < v.width) sum[i] += weight * Type::value(v.data[key * v.stride + column]);
      }
    }
#pragma unroll
    for (int i = 0; i < kMostColumns; ++i) sums.store((warp * kMostColumns + i) * kLanes + lane, sum[i]);
    barrier();
    for (int column = thread_index(); column < v.width; column += kWarps * kLanes) {
      float total = 0.0f;
      for (int w = 0; w < kWarps; ++w) total += sums.load(w * kMostColumns * kLanes + column);
      p.pooled[place.direction].as<typename Type::Bits>()[place.index * v.width + column] = Type::bits(total);
    }
  });
}

// The gradient of the weights of each key, V grad / queries, and grad_v = w grad; a warp a key.
BDAM_KERNEL(kWarps* kLanes, 1) pooled_values_backward_kernel(BDAM_PARAMETER Values p) {
  const Place place(p.call);
  const int lane = lane_index(), from = 1 - place.direction;
  with_type(p.call.v[0].dtype, [&](auto type) {
    using Type = decltype(type);
    const auto v = place.rows<Type>(p.call.v[from]), grad_v = place.rows<Type>(p.grad_v[from]);
    const auto* grad = p.pooled[place.direction].as<typename Type::Bits>() + place.index * v.width;
    const int key = place.block * kWarps + thread_index() / kLanes;
    if (key >= v.count) return;
    const float weight = place.row_numbers(p.key_weights[place.direction])[key];
    float sum = 0.0f;
    for (int column = lane; column < v.width; column += kLanes) {
      const float g = Type::value(grad[column]);
      sum += g * Type::value(v.data[key * v.stride + column]);
      grad_v.data[key * grad_v.stride + column] = Type::bits(weight * g);
    }
    for (int mask = 1; mask < kLanes; mask *= 2) sum += shuffle_xor(sum, mask);
    const Tensor& q = p.call.q[place.direction];
    if (lane == 0) place.row_numbers(p.key_grads[place.direction])[key] = sum / q.size[2];
  });
}

}  // namespace
}  // namespace attention

void pooled_cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                    const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                    const Tensor& pooled_a, const Tensor& pooled_b, const Tensor& key_weights_a,
                                    const Tensor& key_weights_b, const Tensor& logs_a, const Tensor& logs_b,
                                    double scale, int64_t threshold, int64_t seed, int64_t stream) {
  using namespace attention;
  const Tensor none;
  cross_attention_forward(q_a, k_a, v_a, q_b, k_b, v_b, mask_a, mask_b, none, none, logs_a, logs_b, scale, threshold,
                          seed, stream);
  Call call = call_of({q_a, q_b}, {k_a, k_b}, {v_a, v_b}, {mask_a, mask_b}, scale, threshold, seed);
  run({{call, {logs_a, logs_b}}, {key_weights_a, key_weights_b}}, stream);
  call.blocks[0] = call.blocks[1] = 1;
  launch(pooled_values_forward_kernel, 2 * heads_in(call), kWarps * kLanes, kWarps * kLanes * kMostColumns,
         Values{call, {key_weights_a, key_weights_b}, {pooled_a, pooled_b}}, stream);
}

void pooled_cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                     const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                     const Tensor& key_weights_a, const Tensor& key_weights_b, const Tensor& logs_a,
                                     const Tensor& logs_b, const Tensor& grad_pooled_a, const Tensor& grad_pooled_b,
                                     const Tensor& key_grads_a, const Tensor& key_grads_b, const Tensor& deltas_a,
                                     const Tensor& deltas_b, const Tensor& grad_q_a, const Tensor& grad_k_a,
                                     const Tensor& grad_v_a, const Tensor& grad_q_b, const Tensor& grad_k_b,
                                     const Tensor& grad_v_b, double scale, int64_t threshold, int64_t seed,
                                     int64_t stream) {
  using namespace attention;
  Call call = call_of({q_a, q_b}, {k_a, k_b}, {v_a, v_b}, {mask_a, mask_b}, scale, threshold, seed);
  for (int of = 0; of < 2; ++of) call.blocks[of] = ceil_divide<int>(call.k[1 - of].size[2], kWarps);
  launch(pooled_values_backward_kernel, heads_in(call) * (call.blocks[0] + call.blocks[1]), kWarps * kLanes, 0,
         Values{call,
                {key_weights_a, key_weights_b},
                {grad_pooled_a, grad_pooled_b},
                {key_grads_a, key_grads_b},
                {grad_v_a, grad_v_b}},
         stream);
  Walk walk{call, {logs_a, logs_b}, {}, {}, {key_grads_a, key_grads_b}};
  run({walk, {}, {deltas_a, deltas_b}}, stream);
  walk.deltas[0] = deltas_a, walk.deltas[1] = deltas_b;
  run_backward({walk, {grad_q_a, grad_q_b}, {grad_k_a, grad_k_b}}, stream);
}

}  // namespace bdam
