#include "cross_attention.h"

namespace bdam {
namespace attention {

template <class E, class T>
void Head<E, T>::forward(const Head& next) const {
  scratch.restart();
  const Right<E> key = pack_transposed(view(x_.key), scratch.take<E>(width_depth_ * key_ld_));
  const Right<E> value = as_right(view(x_.value), scratch.take<E>((key_depth_ + 1) * width_ld_));
  const float* bias = key_bias();
  E* query_buffer = scratch.take<E>(kBlockRows * width_ld_ / kG);
  E* left_buffer = scratch.take<E>(kBlockRows * key_ld_ / kG);
  float* scores = scratch.take<float>(kBlockRows * key_ld_);
  const auto query = view(x_.query), out = view(x_.out);
  const bool saving = x_.probabilities != nullptr;
  // For float and without dropout, P as it is saved is also the left operand.
  const bool shared = saving && kG == 1 && !drops();

  for (int64_t block = 0; block < blocks(); ++block) {
    Prefetcher prefetcher;
    for (const Tensor* t : {&next.x_.key, &next.x_.value, &next.x_.query}) {
      prefetcher.add(next.view(*t).part(block, blocks()));
    }
    const int64_t following = std::min(block + 1, blocks() - 1);
    if (!streaming_) prefetcher.add(out.part(following, blocks()));
    if (saving) prefetcher.add(saved().part(following, blocks()));

    const int64_t first = block * kBlockRows, rows = std::min(kBlockRows, queries_ - first);
    E* signed_p = saving ? saved().row(first / kG) : nullptr;
    float factors[kBlockRows] = {};
    weights(as_left(query.row_range(first, rows), query_buffer), key, bias, first, rows, prefetcher, scores,
            shared ? nullptr : left_buffer, signed_p, factors);
    if (x_.row_factors) std::copy_n(factors, rows, row_factors() + first);
    for (float& factor : factors) factor *= options_.keep_scale();
    const Left<E, false> p = {shared ? signed_p : left_buffer, key_ld_ / kG};
    multiply(p, value, rows, key_depth_, width_, prefetcher,
             [out = out.row_range(first, rows), f = &factors[0], streaming = streaming_, width = width_](
                 int64_t i, int64_t j, vf x) { put(streaming, out.row(i) + j, x * f[i], width - j); });
  }
}

}  // namespace attention

int lanes() { return kLanes; }
bool pairs_bfloat16() { return attention::kPairsBfloat16; }

void cross_attention_forward(const Tensor& q_a, const Tensor& k_a, const Tensor& v_a, const Tensor& q_b,
                             const Tensor& k_b, const Tensor& v_b, const Tensor& mask_a, const Tensor& mask_b,
                             const Tensor& out_a, const Tensor& out_b, const Tensor& saved, int64_t most_saved_keys, float scale,
                             int dropout_threshold, int64_t seed, int threads) {
  attention::Direction directions[2] = {{q_a, k_b, v_b, mask_b, out_a}, {q_b, k_a, v_a, mask_a, out_b}};
  attention::attach_saved(directions, saved, most_saved_keys, false, static_cast<bool>(saved));
  const attention::Options options = {scale, uint32_t(dropout_threshold), uint64_t(seed)};
  attention::for_heads(directions, options, threads,
                       [](const auto& head, const auto& next) { head.forward(next); });
}

}  // namespace bdam
