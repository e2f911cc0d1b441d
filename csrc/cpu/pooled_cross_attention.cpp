// The means over N queries of cross-attention's outputs, in the notation of cross_attention.h:
//   w_j = 1/N sum_i r_i D_ij P_ij,  O = w V,
//   dV_j = w_j dO,  t_j = 1/N <V_j, dO>,  dS_ij = r_i P_ij (D_ij t_j - r_i sum_k P_ik D_ik t_k),
//   dQ = scale dS K,  dK = scale dS^T Q.
#include "cross_attention.h"

namespace bdam {
namespace attention {

// (B, H, d) as (B, H, 1, d).
inline Tensor with_one_row(Tensor t) {
  t.dims = 4;
  t.size[3] = t.size[2];
  t.stride[3] = t.stride[2];
  t.size[2] = 1;
  return t;
}

// Adds the rows of P without the dropped weights, each times its factor, to total; an even number of rows.
template <class E>
inline void add_rows(const E* signed_p, const float* factors, int64_t rows, int64_t ld, float* total) {
  for (int64_t j = 0; j < ld; j += kLanes) {
    vf sum = load(total + j);
    for (int64_t i = 0; i < rows; i += 2) {
      vf p0, p1;
      load_along_rows(signed_p + i / kGroup<E> * ld + j, ld, p0, p1);
      sum += factors[i] * max(p0, vf{}) + factors[i + 1] * max(p1, vf{});
    }
    store(total + j, sum);
  }
}

template <class E, class T>
void Head<E, T>::pooled_forward(const Head& next) const {
  scratch.restart();
  const Right<E> key = pack_transposed(view(x_.key), scratch.take<E>(width_depth_ * key_ld_));
  const float* bias = key_bias();
  E* query_buffer = scratch.take<E>(kBlockRows * width_ld_ / kG);
  float* scores = scratch.take<float>(kBlockRows * key_ld_);
  const bool saving = x_.probabilities != nullptr;
  E* p_buffer = saving ? nullptr : scratch.take<E>(kBlockRows / kG * key_ld_);
  float* totals = scratch.take<float>(key_ld_);
  std::fill_n(totals, key_ld_, 0.0f);
  const auto query = view(x_.query), value = view(x_.value), out = view(x_.out);

  for (int64_t block = 0; block < blocks(); ++block) {
    Prefetcher prefetcher;
    for (const Tensor* t : {&next.x_.key, &next.x_.query}) prefetcher.add(next.view(*t).part(block, blocks()));
    prefetcher.add(value.part(block, blocks()));
    if (saving) prefetcher.add(saved().part(std::min(block + 1, blocks() - 1), blocks()));

    const int64_t first = block * kBlockRows, rows = std::min(kBlockRows, queries_ - first);
    E* signed_p = saving ? saved().row(first / kG) : p_buffer;
    float factors[kBlockRows];
    weights(as_left(query.row_range(first, rows), query_buffer), key, bias, first, rows, prefetcher, scores, nullptr,
            signed_p, factors);
    if (x_.row_factors) std::copy_n(factors, rows, row_factors() + first);
    if (rows % 2) factors[rows] = 0.0f;
    add_rows(signed_p, factors, rows, key_ld_, totals);
  }

  float* const means = key_weights();
  for (int64_t j = 0; j < keys_; ++j) means[j] = totals[j] * (options_.keep_scale() / queries_);
  for (int64_t j = 0; j < width_; j += kLanes) {
    vf sum{};
    for (int64_t k = 0; k < keys_; ++k) sum += means[k] * load(value.row(k) + j, width_ - j);
    store(out.row(0) + j, sum, width_ - j);
  }
}

// keep_scale t, one for each key and zero beyond, and dV; grad_out is a buffer for dO.
template <class E, class T>
void Head<E, T>::grad_mean_weights(float* grad_weights, float* grad_out) const {
  const auto value = view(x_.value), grad_value = view(x_.grad_value), grad = view(x_.grad_out);
  const float* const means = key_weights();
  for (int64_t j = 0; j < width_; j += kLanes) store(grad_out + j, load(grad.row(0) + j, width_ - j));
  for (int64_t first = 0; first < keys_; first += kLanes) {
    const int64_t count = std::min<int64_t>(kLanes, keys_ - first);
    vf dots[kLanes] = {};
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t j = 0; j < width_; j += kLanes) {
        const vf g = load(grad_out + j);
        dots[k] += g * load(value.row(first + k) + j, width_ - j);
        put(streaming_, grad_value.row(first + k) + j, g * means[first + k], width_ - j);
      }
    }
    store(grad_weights + first, row_sums(dots) * (options_.keep_scale() / queries_));
  }
}

// dS of a block of queries as a left and as a right operand's rows (left may be null).
template <class E>
template <bool kDropout>
void Weights<E>::pooled_grad_scores(int64_t rows, const float* grad_weights, const float* factors, const E* signed_p,
                                    E* left, E* right) const {
  const int64_t n = key_ld_;
  for (int64_t i = 0; i < rows; i += 2) {
    const E* p = signed_p + i / kG * n;
    vf p0, p1, sum0{}, sum1{};
    for (int64_t j = 0; j < n; j += kLanes) {
      load_along_rows(p + j, n, p0, p1);
      const vf x = load(grad_weights + j);
      sum0 += (kDropout ? max(p0, vf{}) : p0) * x;
      sum1 += (kDropout ? max(p1, vf{}) : p1) * x;
    }
    const float mean0 = lane_sum(sum0) * factors[i], mean1 = lane_sum(sum1) * factors[i + 1];
    for (int64_t j = 0; j < n; j += kLanes) {
      load_along_rows(p + j, n, p0, p1);
      vf x0 = load(grad_weights + j), x1 = x0;
      if constexpr (kDropout) {
        x0 = bitcast<vi>(p0) < 0 ? vf{} : x0;
        x1 = bitcast<vi>(p1) < 0 ? vf{} : x1;
        p0 = abs(p0);
        p1 = abs(p1);
      }
      x0 = factors[i] * p0 * (x0 - mean0);
      x1 = factors[i + 1] * p1 * (x1 - mean1);
      if (left) store_along_columns(left + (i * n + j) / kG, n / kG, x0, x1);
      store_along_rows(right + i / kG * n + j, n, x0, x1);
    }
  }
}

template <class E, class T>
void Head<E, T>::pooled_backward(const Head& next) const {
  const bool recompute = !x_.probabilities;
  const float scale = options_.scale;
  const int64_t chunk = chunk_queries();

  scratch.restart();
  const Right<E> key = as_right(view(x_.key), scratch.take<E>((key_depth_ + 1) * width_ld_));
  E* query_buffer = scratch.take<E>(chunk / kG * width_ld_);
  E* ds_right = scratch.take<E>(chunk / kG * key_ld_);
  E* ds_left = kG == 1 ? nullptr : scratch.take<E>(kBlockRows * key_ld_ / kG);
  float* grad_weights = scratch.take<float>(key_ld_);
  // Sums over the chunks so far.
  float* total_key = scratch.take<float>(chunk < queries_ ? keys_ * width_ld_ : 0);
  grad_mean_weights(grad_weights, scratch.take<float>(width_ld_));
  E* p_buffer = recompute ? scratch.take<E>(kBlockRows / kG * key_ld_) : nullptr;
  E* query_left_buffer = recompute ? scratch.take<E>(kBlockRows * width_ld_ / kG) : nullptr;
  float* scores = recompute ? scratch.take<float>(kBlockRows * key_ld_) : nullptr;
  const Right<E> scores_key =
      recompute ? pack_transposed(view(x_.key), scratch.take<E>(width_depth_ * key_ld_)) : Right<E>{};
  const float* bias = recompute ? key_bias() : nullptr;
  const auto grad_query = view(x_.grad_query), grad_key = view(x_.grad_key);

  Prefetcher while_contracting;
  for (int64_t begin = 0; begin < queries_; begin += chunk) {
    const int64_t count = std::min(chunk, queries_ - begin);
    const auto query = view(x_.query).row_range(begin, count);
    const Right<E> query_right = as_right(query, query_buffer);

    for (int64_t first = 0; first < count; first += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, count - first), block = (begin + first) / kBlockRows;
      Prefetcher prefetcher;
      if (!streaming_) prefetcher.add(grad_query.part(block, blocks()));
      if (!recompute) prefetcher.add(saved().part(std::min(block + 1, blocks() - 1), blocks()));
      float factors[kBlockRows];
      const E* p = recompute ? p_buffer : saved().row((begin + first) / kG);
      if (recompute) {
        weights(as_left(query.row_range(first, rows), query_left_buffer), scores_key, bias, begin + first, rows,
                prefetcher, scores, nullptr, p_buffer, factors);
      } else {
        std::copy_n(row_factors() + begin + first, rows, factors);
      }
      if (rows % 2) factors[rows] = 0.0f;
      E* const ds = ds_right + first / kG * key_ld_;
      const auto run =
          drops() ? &Base::template pooled_grad_scores<true> : &Base::template pooled_grad_scores<false>;
      (this->*run)(rows, grad_weights, factors, p, ds_left, ds);
      multiply(Left<E, false>{kG == 1 ? ds : ds_left, key_ld_ / kG}, key, rows, key_depth_, width_, prefetcher,
               [out = grad_query.row_range(begin + first, rows), scale, streaming = streaming_, width = width_](
                   int64_t i, int64_t j, vf x) { put(streaming, out.row(i) + j, x * scale, width - j); });
    }

    if (begin == prefetch_from()) {
      if (!streaming_) {
        while_contracting.add(grad_key);
        while_contracting.add(next.view(next.x_.grad_value));
      }
      for (const Tensor* t : {&next.x_.value, &next.x_.key, &next.x_.query}) while_contracting.add(next.view(*t));
      if (!recompute) while_contracting.add(next.saved().part(0, blocks()));
    }
    contract_chunk({ds_right, key_ld_}, query_right, begin, total_key, grad_key, scale, while_contracting);
  }
}

}  // namespace attention

void pooled_cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                    const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                    const Tensor& out_a, const Tensor& out_b, const Tensor& saved, int64_t most_saved_keys, bool backward,
                                    float scale, int dropout_threshold, int64_t seed, int threads) {
  attention::Direction directions[2] = {
      {q_a, k_b, v_b, mask_b, attention::with_one_row(out_a)},
      {q_b, k_a, v_a, mask_a, attention::with_one_row(out_b)},
  };
  attention::attach_saved(directions, saved, most_saved_keys, true, backward);
  const attention::Options options = {scale, uint32_t(dropout_threshold), uint64_t(seed)};
  attention::for_heads(directions, options, threads,
                       [](const auto& head, const auto& next) { head.pooled_forward(next); });
}

void pooled_cross_attention_backward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                                     const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                                     const Tensor& saved, int64_t most_saved_keys, const Tensor& grad_out_a, const Tensor& grad_out_b,
                                     const Tensor& grad_q_a, const Tensor& grad_k_a, const Tensor& grad_v_a,
                                     const Tensor& grad_q_b, const Tensor& grad_k_b, const Tensor& grad_v_b,
                                     float scale, int dropout_threshold, int64_t seed, int threads) {
  attention::Direction directions[2] = {
      {q_a, k_b, v_b, mask_b, {}, attention::with_one_row(grad_out_a), grad_q_a, grad_k_b, grad_v_b},
      {q_b, k_a, v_a, mask_a, {}, attention::with_one_row(grad_out_b), grad_q_b, grad_k_a, grad_v_a},
  };
  attention::attach_saved(directions, saved, most_saved_keys, true, true);
  const attention::Options options = {scale, uint32_t(dropout_threshold), uint64_t(seed)};
  attention::for_heads(directions, options, threads,
                       [](const auto& head, const auto& next) { head.pooled_backward(next); });
}

}  // namespace bdam
