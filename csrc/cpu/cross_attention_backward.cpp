#include "cross_attention.h"

namespace bdam {
namespace attention {

// dS of a block of queries as a left and as a right operand's rows (left may be null), and with dropout P without the
// dropped weights. kept_p may be signed_p.
template <class E>
template <bool kDropout>
void Weights<E>::grad_scores(int64_t rows, const float* grad_p, const float* factors, const E* signed_p, E* kept_p,
                             E* left, E* right) const {
  const int64_t n = key_ld_;
  for (int64_t i = 0; i < rows; i += 2) {
    const E* p = signed_p + i / kG * n;
    const float *g0 = grad_p + i * n, *g1 = i + 1 < rows ? g0 + n : g0;
    vf p0, p1, sum0{}, sum1{};
    for (int64_t j = 0; j < n; j += kLanes) {
      load_along_rows(p + j, n, p0, p1);
      // A dropped weight has no gradient of its own.
      sum0 += (kDropout ? max(p0, vf{}) : p0) * load(g0 + j);
      sum1 += (kDropout ? max(p1, vf{}) : p1) * load(g1 + j);
    }
    const float mean0 = lane_sum(sum0) * factors[i], mean1 = lane_sum(sum1) * factors[i + 1];
    for (int64_t j = 0; j < n; j += kLanes) {
      load_along_rows(p + j, n, p0, p1);
      vf x0 = load(g0 + j), x1 = load(g1 + j);
      if constexpr (kDropout) {
        x0 = bitcast<vi>(p0) < 0 ? vf{} : x0;
        x1 = bitcast<vi>(p1) < 0 ? vf{} : x1;
        store_along_rows(kept_p + i / kG * n + j, n, max(p0, vf{}), max(p1, vf{}));
        p0 = abs(p0);
        p1 = abs(p1);
      }
      x0 = p0 * (x0 - mean0);
      x1 = p1 * (x1 - mean1);
      if (left) store_along_columns(left + (i * n + j) / kG, n / kG, x0, x1);
      store_along_rows(right + i / kG * n + j, n, x0, x1);
    }
  }
}

template <class E, class T>
void Head<E, T>::backward(const Head& next) const {
  const bool recompute = !x_.probabilities;
  const float scale = options_.scale;
  const int64_t chunk = chunk_queries(), chunk_elements = chunk / kG * key_ld_;

  scratch.restart();
  const Right<E> value = pack_transposed(view(x_.value), scratch.take<E>(width_depth_ * key_ld_));
  const Right<E> key = as_right(view(x_.key), scratch.take<E>((key_depth_ + 1) * width_ld_));
  E* query_buffer = scratch.take<E>(chunk / kG * width_ld_);
  E* grad_right = scratch.take<E>(chunk / kG * width_ld_);
  E* grad_left = kG == 1 ? grad_right : scratch.take<E>(chunk * width_ld_ / kG);
  E* ds_right = scratch.take<E>(chunk_elements);
  E* ds_left = kG == 1 ? nullptr : scratch.take<E>(kBlockRows * key_ld_ / kG);
  float* block_scores = scratch.take<float>(kBlockRows * key_ld_);
  float* factors = scratch.take<float>(chunk);
  // Sums over the chunks so far.
  const int64_t total_size = chunk < queries_ ? keys_ * width_ld_ : 0;
  float *total_value = scratch.take<float>(total_size), *total_key = scratch.take<float>(total_size);
  // P where it was not saved, and in any case P without the dropped weights.
  E* p_chunk = recompute || drops() ? scratch.take<E>(chunk_elements) : nullptr;
  E* query_left_buffer = recompute ? scratch.take<E>(kBlockRows * width_ld_ / kG) : nullptr;
  const Right<E> scores_key =
      recompute ? pack_transposed(view(x_.key), scratch.take<E>(width_depth_ * key_ld_)) : Right<E>{};
  const float* bias = recompute ? key_bias() : nullptr;
  const auto grad_query = view(x_.grad_query), grad_key = view(x_.grad_key), grad_value = view(x_.grad_value);

  Prefetcher while_contracting;
  for (int64_t begin = 0; begin < queries_; begin += chunk) {
    const int64_t count = std::min(chunk, queries_ - begin);
    const auto query = view(x_.query).row_range(begin, count), grad_out = view(x_.grad_out).row_range(begin, count);
    const float* inverse = row_factors() + begin;
    for (int64_t i = 0; i < count; ++i) factors[i] = inverse[i] * options_.keep_scale();
    pack(grad_out, factors, kG == 1 ? nullptr : grad_left, grad_right);
    std::copy_n(inverse, count, factors);
    if (count % 2) factors[count] = 0.0f;
    const Right<E> query_right = as_right(query, query_buffer);
    E* const signed_p = recompute ? p_chunk : saved().row(begin / kG);

    for (int64_t first = 0; first < count; first += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, count - first), block = (begin + first) / kBlockRows;
      Prefetcher prefetcher;
      if (!streaming_) prefetcher.add(grad_query.part(block, blocks()));
      if (!recompute) prefetcher.add(saved().part(std::min(block + 1, blocks() - 1), blocks()));
      E* const p = signed_p + first / kG * key_ld_;
      if (recompute) {
        float unused[kBlockRows];
        weights(as_left(query.row_range(first, rows), query_left_buffer), scores_key, bias, begin + first, rows,
                prefetcher, block_scores, nullptr, p, unused);
      }
      const Left<E, false> grad = {grad_left + first * width_ld_ / kG, width_ld_ / kG};
      multiply(grad, value, rows, width_depth_, keys_, prefetcher, ToScores{block_scores, key_ld_, 1.0f});
      E* const ds = ds_right + first / kG * key_ld_;
      const auto run = drops() ? &Base::template grad_scores<true> : &Base::template grad_scores<false>;
      (this->*run)(rows, block_scores, factors + first, p, drops() ? p_chunk + first / kG * key_ld_ : nullptr,
                   ds_left, ds);
      multiply(Left<E, false>{kG == 1 ? ds : ds_left, key_ld_ / kG}, key, rows, key_depth_, width_, prefetcher,
               [out = grad_query.row_range(begin + first, rows), scale, streaming = streaming_, width = width_](
                   int64_t i, int64_t j, vf x) { put(streaming, out.row(i) + j, x * scale, width - j); });
    }

    if (begin == prefetch_from()) {
      if (!streaming_) {
        while_contracting.add(grad_value);
        while_contracting.add(grad_key);
      }
      for (const Tensor* t : {&next.x_.value, &next.x_.grad_out, &next.x_.key, &next.x_.query}) {
        while_contracting.add(next.view(*t));
      }
      if (!recompute) while_contracting.add(next.saved().part(0, blocks()));
    }
    contract_chunk({drops() ? p_chunk : signed_p, key_ld_}, {grad_right, width_ld_}, begin, total_value, grad_value,
                   1.0f, while_contracting);
    contract_chunk({ds_right, key_ld_}, query_right, begin, total_key, grad_key, scale, while_contracting);
  }
}

}  // namespace attention

void cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                              const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                              const Tensor& saved, int64_t most_saved_keys, const Tensor& grad_out_a, const Tensor& grad_out_b,
                              const Tensor& grad_q_a, const Tensor& grad_k_a, const Tensor& grad_v_a,
                              const Tensor& grad_q_b, const Tensor& grad_k_b, const Tensor& grad_v_b, float scale,
                              int dropout_threshold, int64_t seed, int threads) {
  attention::Direction directions[2] = {
      {q_a, k_b, v_b, mask_b, {}, grad_out_a, grad_q_a, grad_k_b, grad_v_b},
      {q_b, k_a, v_a, mask_a, {}, grad_out_b, grad_q_b, grad_k_a, grad_v_a},
  };
  attention::attach_saved(directions, saved, most_saved_keys, false, true);
  const attention::Options options = {scale, uint32_t(dropout_threshold), uint64_t(seed)};
  attention::for_heads(directions, options, threads,
                       [](const auto& head, const auto& next) { head.backward(next); });
}

}  // namespace bdam
