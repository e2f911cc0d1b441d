// Cross-attention of two streams in both directions. A task is one head of one direction: its operands are packed once
// and its scores stay in L2. With S = scale Q K^T, P = exp(S - rowmax S), r = 1 / rowsum P and the dropout mask D (0 or
// 1 / (1 - p)):
//   O = r (D P) V,  dV = (D P)^T (r dO),  dP = D (r dO) V^T,  dS = P (dP - r rowsum(P dP)),
//   dQ = scale dS K,  dK = scale dS^T Q.
// P carries the mask in its signs: a dropped weight is negative.
#pragma once

#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "gemm.h"
#include "kernels.h"
#include "parallel.h"
#include "philox.h"

namespace bdam {
namespace attention {

constexpr int64_t kBlockRows = 24;              // queries whose scores are in L1 together: whole tiles, even for pairs
constexpr int64_t kChunkRows = 4 * kBlockRows;  // queries contracted at once: their operand on the right is in L1
constexpr int64_t kStreamBytes = 2 << 20;       // an output of this size or more is written past the caches
#if defined(__AVX512BF16__)
constexpr bool kPairsBfloat16 = true;  // the dot product of bfloat16 pairs takes weights in bfloat16
#else
constexpr bool kPairsBfloat16 = false;
#endif

struct Direction {
  Tensor query, key, value, key_padding_mask, out;
  Tensor grad_out, grad_query, grad_key, grad_value;
  // What forward saves for backward; null where it does not.
  void* probabilities = nullptr;
  float *row_factors = nullptr, *key_weights = nullptr;  // the latter of the pooled form
};

struct Options {
  float scale;
  uint32_t dropout_threshold;  // a weight is dropped if its 16 random bits are below
  uint64_t seed;

  float keep_scale() const { return 65536.0f / static_cast<float>(65536 - dropout_threshold); }
};

// The buffers of a thread, kept between calls because fresh pages are slow.
class Scratch {
 public:
  void restart() { next_ = 0; }
  template <class T>
  T* take(int64_t count) {
    if (next_ == slots_.size()) slots_.emplace_back();
    Slot& slot = slots_[next_++];
    const int64_t bytes = ceil_divide(count * sizeof(T), 64) * 64;
    if (bytes > slot.bytes) {
      slot.data.reset(static_cast<char*>(std::aligned_alloc(64, bytes)));
      if (!slot.data) throw std::bad_alloc();
      slot.bytes = bytes;
    }
    return reinterpret_cast<T*>(slot.data.get());
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  struct Slot {
    std::unique_ptr<char, Free> data;
    int64_t bytes = 0;
  };
  std::vector<Slot> slots_;
  size_t next_ = 0;
};
inline thread_local Scratch scratch;

template <int Half = kLanes / 2, class Combine>
inline float reduce(vf x, const Combine& combine) {
  x = combine(first_halves<Half>(x, x, LaneIndices{}), second_halves<Half>(x, x, LaneIndices{}));
  if constexpr (Half > 1) return reduce<Half / 2>(x, combine);
  return x[0];
}
inline float lane_sum(vf x) {
  return reduce(x, [](vf a, vf b) { return a + b; });
}
inline float lane_max(vf x) {
  return reduce(x, [](vf a, vf b) { return max(a, b); });
}

// x[k] = 2^x[k] for x[k] <= 0, as exactly as E holds it; NaN passes through.
template <class E, int K>
inline void exp2_weights(vf (&x)[K]) {
  if constexpr (std::is_same_v<E, float>) return exp2<K>(x);
#pragma GCC unroll 8
  for (vf& power : x) {
    const vf bounded = power < -200.0f ? splat(-200.0f) : power;
    const vf n = round(bounded), f = bounded - n;
    // Relative error below 2e-4, a tenth of bfloat16's rounding.
    power = scale(((0.0555041f * f + 0.2402265f) * f + 0.6931472f) * f + 1.0f, n);
  }
}

// 16 random bits for every key of a query, as reference.dropout_keep defines them: half j / 16 % 2 of word j / 32 % 4
// of Philox's output for the counter (16 (j / 128) + j % 16, query, batch * heads + head, direction).
inline void random_bits(uint64_t seed, uint32_t query, uint32_t head, uint32_t direction, int64_t keys,
                        uint32_t* bits) {
  vu lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int64_t group = 0; group < keys; group += 128) {
    for (int part = 0; part < 16; part += kLanes) {
      vu word[4] = {lane + static_cast<uint32_t>(group / 8 + part), vu{} + query, vu{} + head, vu{} + direction};
      philox(word, seed);
      for (int w = 0; w < 4; ++w) {
        const vu low = word[w] & 0xffffu, high = word[w] >> 16;
        std::memcpy(bits + group + 32 * w + part, &low, sizeof(vu));
        std::memcpy(bits + group + 32 * w + 16 + part, &high, sizeof(vu));
      }
    }
  }
}

// Where the scores of a block of queries go, times a factor.
struct ToScores {
  float* scores;
  int64_t ld;
  float factor;

  void operator()(int64_t i, int64_t j, vf x) const { store(scores + i * ld + j, x * factor); }
};

// What a head does between its products, on operands of elements E whatever the type of its inputs: compiled once for
// all of them.
template <class E>
class Weights {
 protected:
  static constexpr int kG = kGroup<E>;

  Weights(const Direction& x, const Options& options, int64_t direction, int64_t index)
      : x_(x), options_(options), direction_(direction), index_(index) {}

  int64_t drops() const { return options_.dropout_threshold; }
  const float* key_bias() const;
  void weights(Left<E, false> query, Right<E> key, const float* bias, int64_t first_query, int64_t rows,
               Prefetcher& prefetcher, float* scores, E* left, E* signed_p, float* factors) const;
  template <bool kDropout>
  void exponentials(int64_t first_query, int64_t rows, const float* scores, const float* maxima, E* left, E* signed_p,
                    float* factors) const;
  template <bool kDropout>
  void grad_scores(int64_t rows, const float* grad_p, const float* factors, const E* signed_p, E* kept_p, E* left,
                   E* right) const;
  template <bool kDropout>
  void pooled_grad_scores(int64_t rows, const float* grad_weights, const float* factors, const E* signed_p, E* left,
                          E* right) const;

  const Direction& x_;
  const Options& options_;
  const int64_t direction_, index_;
  const int64_t queries_ = x_.query.size[2], keys_ = x_.key.size[2], width_ = x_.query.size[3];
  const int64_t key_ld_ = pad_to_vectors(keys_), width_ld_ = pad_to_vectors(width_);
  const int64_t key_depth_ = ceil_divide(keys_, kG), width_depth_ = ceil_divide(width_, kG);
};

// One head of one direction; inputs of type T, operands of elements E.
template <class E, class T>
class Head : Weights<E> {
 public:
  Head(const Direction& x, const Options& options, int64_t direction, int64_t index)
      : Weights<E>(x, options, direction, index) {}

  void forward(const Head& next) const;
  void backward(const Head& next) const;
  void pooled_forward(const Head& next) const;
  void pooled_backward(const Head& next) const;

 private:
  using Base = Weights<E>;
  using Base::kG, Base::x_, Base::options_, Base::index_, Base::queries_, Base::keys_, Base::width_;
  using Base::key_ld_, Base::width_ld_, Base::key_depth_, Base::width_depth_;
  using Base::drops, Base::key_bias, Base::weights;

  MatrixView<T> view(const Tensor& t) const {
    const int64_t batch = index_ / t.size[1], head = index_ % t.size[1];
    return {t.as<T>() + batch * t.stride[0] + head * t.stride[1], t.size[2], t.size[3], t.stride[2]};
  }
  // The saved P: contracted along its rows, with an even number of them.
  MatrixView<E> saved() const {
    const int64_t rows = ceil_divide(queries_, 2) * 2 / kG;
    return {static_cast<E*>(x_.probabilities) + index_ * rows * key_ld_, rows, key_ld_, key_ld_};
  }
  float* row_factors() const { return x_.row_factors + index_ * queries_; }
  float* key_weights() const { return x_.key_weights + index_ * keys_; }
  int64_t blocks() const { return ceil_divide(queries_, kBlockRows); }
  // Queries that are contracted at once, as equal chunks as can be; even.
  int64_t chunk_queries() const {
    const int64_t chunks = ceil_divide(queries_, kChunkRows);
    return std::min(ceil_divide(queries_, chunks * kBlockRows) * kBlockRows, ceil_divide(queries_, 2) * 2);
  }
  // Where the last two chunks begin: what the next head reads comes into L2 while they are contracted, which takes two.
  int64_t prefetch_from() const {
    const int64_t chunk = chunk_queries();
    return std::max<int64_t>(0, ceil_divide(queries_, chunk) - 2) * chunk;
  }
  static void put(bool streaming, T* p, vf x, int64_t columns) {
    streaming ? stream(p, x, columns) : store(p, x, columns);
  }

  void contract_chunk(Left<E, true> left, Right<E> right, int64_t begin, float* total, const MatrixView<T>& grad,
                      float factor, Prefetcher& prefetcher) const;
  void grad_mean_weights(float* grad_weights, float* grad_out) const;

  const int64_t output_size_ = x_.query.size[0] * x_.query.size[1] * queries_ * width_;
  const bool streaming_ = output_size_ * static_cast<int64_t>(sizeof(T)) >= kStreamBytes;
};

// 0 for the keys that take part, -inf for padding.
template <class E>
const float* Weights<E>::key_bias() const {
  float* bias = scratch.take<float>(key_ld_);
  const Tensor& mask = x_.key_padding_mask;
  const uint8_t* padding = mask ? mask.as<uint8_t>() + index_ / x_.query.size[1] * mask.stride[0] : nullptr;
  for (int64_t j = 0; j < key_ld_; ++j) {
    const bool hidden = j >= keys_ || (padding && padding[j * mask.stride[1]]);
    bias[j] = hidden ? -std::numeric_limits<float>::infinity() : 0.0f;
  }
  return bias;
}

// P and r of a block of queries: P without dropped weights as a left operand, signed P as it is saved (either may be
// null), r in factors.
template <class E>
void Weights<E>::weights(Left<E, false> query, Right<E> key, const float* bias, int64_t first_query, int64_t rows,
                         Prefetcher& prefetcher, float* scores, E* left, E* signed_p, float* factors) const {
  const int64_t n = key_ld_;
  const float log2_scale = options_.scale * kLog2e;
  multiply(query, key, rows, width_depth_, keys_, prefetcher, ToScores{scores, n, log2_scale});

  const int64_t first_biased = x_.key_padding_mask ? 0 : n - kLanes;
  float maxima[kBlockRows] = {};
  for (int64_t i = 0; i < rows; ++i) {
    float* s = scores + i * n;
    for (int64_t j = first_biased; j < n; j += kLanes) store(s + j, load(s + j) + load(bias + j));
    vf m = splat(std::numeric_limits<float>::lowest());
    for (int64_t j = 0; j < n; j += kLanes) m = max(load(s + j), m);
    maxima[i] = lane_max(m);
  }
  // Exponentials come in pairs of rows: one without a partner is its own.
  if (rows % 2) maxima[rows] = maxima[rows - 1];
  const auto run = drops() ? &Weights::exponentials<true> : &Weights::exponentials<false>;
  (this->*run)(first_query, rows, scores, maxima, left, signed_p, factors);
}

template <class E>
template <bool kDropout>
void Weights<E>::exponentials(int64_t first_query, int64_t rows, const float* scores, const float* maxima, E* left,
                              E* signed_p, float* factors) const {
  const int64_t n = key_ld_, bits_ld = ceil_divide(n, 128) * 128;
  std::vector<uint32_t> bits(kDropout ? 2 * bits_ld : 0);
  for (int64_t i = 0; i < rows; i += 2) {
    const bool whole = i + 1 < rows;
    const float *s0 = scores + i * n, *s1 = whole ? s0 + n : s0;
    if constexpr (kDropout) {
      for (int64_t r = 0; r < 2; ++r) {
        random_bits(options_.seed, first_query + i + r, index_, direction_, n, bits.data() + r * bits_ld);
      }
    }
    vf sum0{}, sum1{};
    for (int64_t j = 0; j < n; j += kLanes) {
      vf e[2] = {load(s0 + j) - maxima[i], load(s1 + j) - maxima[i + 1]};
      exp2_weights<E>(e);
      auto& [e0, e1] = e;
      sum0 += e0;
      sum1 += e1;
      if constexpr (kDropout) {
        vu b0, b1;
        std::memcpy(&b0, &bits[j], sizeof(vu));
        std::memcpy(&b1, &bits[bits_ld + j], sizeof(vu));
        e0 = b0 < options_.dropout_threshold ? -e0 : e0;
        e1 = b1 < options_.dropout_threshold ? -e1 : e1;
      }
      if (signed_p) store_along_rows(signed_p + i / kG * n + j, n, e0, e1);
      if (left) {
        const vf kept0 = kDropout ? max(e0, vf{}) : e0, kept1 = kDropout ? max(e1, vf{}) : e1;
        store_along_columns(left + (i * n + j) / kG, n / kG, kept0, kept1);
      }
    }
    const float total0 = lane_sum(sum0), total1 = lane_sum(sum1);
    factors[i] = total0 == 0.0f ? 0.0f : 1.0f / total0;
    factors[i + 1] = total1 == 0.0f ? 0.0f : 1.0f / total1;
  }
}

// Adds left^T right, contracted over the chunk of queries from `begin`, to the sums of the chunks before it in total;
// after the last chunk, factor times the sum is the gradient.
template <class E, class T>
void Head<E, T>::contract_chunk(Left<E, true> left, Right<E> right, int64_t begin, float* total,
                                const MatrixView<T>& grad, float factor, Prefetcher& prefetcher) const {
  const int64_t count = std::min(chunk_queries(), queries_ - begin);
  const bool first = begin == 0, last = begin + count == queries_;
  multiply(left, right, keys_, ceil_divide(count, kG), width_, prefetcher,
           [=, streaming = streaming_, total_ld = width_ld_, width = width_](int64_t i, int64_t j, vf x) {
             if (!first) x += load(total + i * total_ld + j);
             if (last) {
               put(streaming, grad.row(i) + j, x * factor, width - j);
             } else {
               store(total + i * total_ld + j, x);
             }
           });
}

// Gives both directions their parts of what is saved, one float tensor with one array after the other: P of a and of b,
// unless there are more than most_keys, r of both, and the pooled form's weights of keys. Without `backward` only the
// latter are there.
inline void attach_saved(Direction (&directions)[2], const Tensor& saved, int64_t most_keys, bool pooled,
                         bool backward) {
  float* next = saved.as<float>();
  const auto take = [&next](int64_t count) { return std::exchange(next, next + count); };
  const Tensor& q = directions[0].query;
  const int64_t heads = q.size[0] * q.size[1];
  const bool half = kPairsBfloat16 && q.dtype == DType::bf16;
  for (Direction& x : directions) {
    const int64_t queries = x.query.size[2], keys = x.key.size[2];
    if (!backward || keys > most_keys) continue;
    x.probabilities = take(heads * (ceil_divide(queries, 2) * (half ? 1 : 2)) * pad_to_vectors(keys));
  }
  for (Direction& x : directions)
    if (backward) x.row_factors = take(heads * x.query.size[2]);
  for (Direction& x : directions)
    if (pooled) x.key_weights = take(heads * x.key.size[2]);
  const int64_t size = saved ? saved.size[0] : 0;
  if (next - saved.as<float>() != size) throw std::logic_error("what cross-attention saves has another size");
}

// Calls body(head, the head that this thread does next) for every head of both directions.
template <class Body>
void for_heads(const Direction (&directions)[2], const Options& options, int threads, const Body& body) {
  const int64_t heads = directions[0].query.size[0] * directions[0].query.size[1];
  with_type(directions[0].query.dtype, nullptr, [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    using E = std::conditional_t<kPairsBfloat16 && std::is_same_v<T, bf16>, Pair, float>;
    parallel_for_with_next(threads, 2 * heads, [&](int64_t task, int64_t next) {
      const auto head = [&](int64_t i) { return Head<E, T>(directions[i / heads], options, i / heads, i % heads); };
      body(head(task), head(next));
      finish_streams();
    });
  });
}

}  // namespace attention
}  // namespace bdam
