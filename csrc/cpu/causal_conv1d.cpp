// Depthwise causal convolution on the CPU: one (batch, channel) row at a time, in float, vectorised over time.

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

namespace bdam {
namespace {

using Row = std::vector<float>;

// Rows carry this many zeros after their end, so that whole vectors may be read and written.
constexpr int64_t kSlack = kLanes;

void read_row(const Tensor& t, int64_t batch, int64_t channel, float* to) {
  with_type(t.dtype, t.data, [&](auto* data) {
    const auto* p = data + batch * t.stride[0] + channel * t.stride[1];
    const int64_t length = t.size[2], stride = t.stride[2];
    if (stride == 1) {
      for (int64_t i = 0; i < length; i += kLanes) store(to + i, load(p + i, length - i), length - i);
    } else {
      for (int64_t i = 0; i < length; ++i) to[i] = load(p + i * stride, 1)[0];
    }
  });
}

void write_row(const float* from, const Tensor& t, int64_t batch, int64_t channel) {
  with_type(t.dtype, t.data, [&](auto* data) {
    auto* p = data + batch * t.stride[0] + channel * t.stride[1];
    const int64_t length = t.size[2], stride = t.stride[2];
    if (stride == 1) {
      for (int64_t i = 0; i < length; i += kLanes) store(p + i, load(from + i, length - i), length - i);
    } else {
      for (int64_t i = 0; i < length; ++i) store(p + i * stride, splat(from[i]), 1);
    }
  });
}

// x with its W - 1 predecessors in front.
void read_padded(const Tensor& x, const Tensor& initial_state, int64_t width, int64_t batch, int64_t channel, Row& row) {
  row.assign(width - 1 + x.size[2] + kSlack, 0.0f);
  if (initial_state) read_row(initial_state, batch, channel, row.data());
  read_row(x, batch, channel, row.data() + width - 1);
}

// How many of the W - 1 inputs before a step belong to its sequence, for every step of every batch element: all, but for
// those before a reset. Rows carry W - 1 zeros on either side, and slack. Empty without resets.
struct Reach {
  int64_t width, row = 0;
  Row steps;

  Reach(const Tensor& resets, int64_t width) : width(width) {
    if (!resets) return;
    const int64_t length = resets.size[1];
    row = 2 * (width - 1) + length + kSlack;
    steps.resize(resets.size[0] * row);
    for (int64_t batch = 0; batch < resets.size[0]; ++batch) {
      const bool* reset = resets.as<bool>() + batch * length;
      float* to = steps.data() + batch * row + width - 1;
      int64_t reach = width - 1;
      for (int64_t t = 0; t < length; ++t) to[t] = reach = reset[t] ? 0 : std::min(reach + 1, width - 1);
    }
  }

  // Of a batch element, from its first step on; null without resets.
  const float* of(int64_t batch) const { return row ? steps.data() + batch * row + width - 1 : nullptr; }
  // x where tap w of the kLanes steps from t reaches their sequences, else zero.
  vf keep(const float* of_batch, int64_t t, int64_t w, vf x) const {
    return of_batch ? (load(of_batch + t) >= splat(width - 1 - w) ? x : vf{}) : x;
  }
};

// bias + sum_w weight[w] row[t + w] for the kLanes steps from t.
inline vf convolve(const float* row, const float* weight, const Reach& reach, const float* steps, float bias,
                   int64_t t) {
  vf sum = splat(bias);
  for (int64_t w = 0; w < reach.width; ++w) sum += weight[w] * reach.keep(steps, t, w, load(row + t + w));
  return sum;
}

float channel_bias(const Tensor& bias, int64_t channel) {
  return bias ? bias.as<float>()[channel * bias.stride[0]] : 0.0f;
}

}  // namespace

void causal_conv1d_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& initial_state,
                           const Tensor& resets, const Tensor& out, const Tensor& final_state, bool silu, int threads) {
  const int64_t channels = x.size[1], length = x.size[2], width = weight.size[1];
  const Reach reach(resets, width);
  parallel_for(threads, channels, [&](int64_t channel) {
    const float* taps = weight.as<float>() + channel * width;
    const float offset = channel_bias(bias, channel);
    Row row, y(length + kSlack);
    for (int64_t batch = 0; batch < x.size[0]; ++batch) {
      const float* steps = reach.of(batch);
      read_padded(x, initial_state, width, batch, channel, row);
      for (int64_t t = 0; t < length; t += kLanes) {
        const vf pre = convolve(row.data(), taps, reach, steps, offset, t);
        store(y.data() + t, silu ? pre * sigmoid(pre) : pre);
      }
      write_row(y.data(), out, batch, channel);
      if (final_state) write_row(row.data() + length, final_state, batch, channel);
    }
  });
}

void causal_conv1d_backward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& initial_state,
                            const Tensor& resets, const Tensor& grad_out, const Tensor& grad_final_state,
                            const Tensor& grad_x, const Tensor& grad_weight, const Tensor& grad_bias,
                            const Tensor& grad_initial_state, bool silu, int threads) {
  const int64_t channels = x.size[1], length = x.size[2], width = weight.size[1];
  const Reach reach(resets, width);
  parallel_for(threads, channels, [&](int64_t channel) {
    const float* taps = weight.as<float>() + channel * width;
    const float offset = channel_bias(bias, channel);
    std::vector<vf> sums(width, vf{});
    vf sum_bias = {};
    // Gradients of the convolution's sums between W - 1 zeros on either side, and of the padded row.
    Row row, grad(2 * (width - 1) + length + kSlack), grad_row(width - 1 + length + kSlack);
    for (int64_t batch = 0; batch < x.size[0]; ++batch) {
      const float* steps = reach.of(batch);
      read_padded(x, initial_state, width, batch, channel, row);
      std::fill(grad.begin(), grad.end(), 0.0f);
      float* grad_pre = grad.data() + width - 1;
      read_row(grad_out, batch, channel, grad_pre);
      for (int64_t t = 0; t < length; t += kLanes) {
        vf g = load(grad_pre + t);
        if (silu) {
          const vf pre = convolve(row.data(), taps, reach, steps, offset, t), s = sigmoid(pre);
          g *= s * (1.0f + pre * (1.0f - s));
        }
        store(grad_pre + t, g);
        sum_bias += g;
        for (int64_t w = 0; w < width; ++w) sums[w] += g * reach.keep(steps, t, w, load(row.data() + t + w));
      }
      // Element i of the padded row met tap w in the sum at i - w.
      for (int64_t i = 0; i < width - 1 + length; i += kLanes) {
        vf g = {};
        for (int64_t w = 0; w < width; ++w) g += taps[w] * reach.keep(steps, i - w, w, load(grad_pre + i - w));
        store(grad_row.data() + i, g);
      }
      if (grad_final_state) {
        Row final_grad(width - 1 + kSlack);
        read_row(grad_final_state, batch, channel, final_grad.data());
        for (int64_t i = 0; i < width - 1; ++i) grad_row[length + i] += final_grad[i];
      }
      if (grad_initial_state) write_row(grad_row.data(), grad_initial_state, batch, channel);
      write_row(grad_row.data() + width - 1, grad_x, batch, channel);
    }
    for (int64_t w = 0; w < width; ++w) grad_weight.as<float>()[channel * width + w] = sum(sums[w]);
    if (grad_bias) grad_bias.as<float>()[channel] = sum(sum_bias);
  });
}

}  // namespace bdam
