// Linear HSIC of few samples on the CPU: the centred Gram matrices of two feature matrices, of which half is computed,
// and their products with two symmetric matrices, which are the gradients. Larger problems are torch's GEMMs.

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "simd.h"

namespace bdam {
namespace {

// As parallel_for, but from call to call a thread keeps its share of the tasks, and so finds its data in its caches.
template <class Task>
void static_for(int threads, int64_t count, const Task& task) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; ++i) task(i);
}

// Columns [begin, end) of a feature matrix, and where their share of its Gram matrix goes.
struct Slice {
  Tensor x;
  Tensor centred;
  int64_t begin, end;
  float* gram;
};

// centred = x - mean over rows, for the kLanes columns from `column`. What is averaged are differences to the first
// row, so that equal rows give exactly zero and a common offset costs no accuracy.
void centre_columns(const Slice& s, int64_t column) {
  const int64_t rows = s.x.size[0], n = s.end - column;
  const float* in = s.x.as<float>() + column;
  float* out = s.centred.as<float>() + column;
  const vf first = load(in, n);
  vf sum = {};
  for (int64_t i = 0; i < rows; ++i) {
    const vf difference = load(in + i * s.x.stride[0], n) - first;
    sum += difference;
    store(out + i * s.centred.stride[0], difference, n);
  }
  const vf mean = sum / static_cast<float>(rows);
  for (int64_t i = 0; i < rows; ++i) {
    float* p = out + i * s.centred.stride[0];
    store(p, load(p, n) - mean, n);
  }
}

// The scalar products of kTileRows rows with kTileColumns others fill one vector: one reduction finishes them all.
constexpr int kTileRows = kLanes >= 16 ? 4 : kLanes / 2;
constexpr int kTileColumns = kLanes / kTileRows;

template <int... I>
inline vf mirror(vf tile, std::integer_sequence<int, I...>) {
  return shuffle(tile, tile, std::integer_sequence<int, (I % kTileRows * kTileColumns + I / kTileRows)...>{});
}

// gram[i + a][j + b] = <row i + a, row j + b> and its mirror image; rows beyond the last stand for the last.
void gram_tile(const Slice& s, int64_t i, int64_t j) {
  const int64_t rows = s.x.size[0], stride = s.centred.stride[0], width = s.end - s.begin;
  const float *x = s.centred.as<float>() + s.begin, *left[kTileRows], *right[kTileColumns];
  for (int a = 0; a < kTileRows; ++a) left[a] = x + std::min(i + a, rows - 1) * stride;
  for (int b = 0; b < kTileColumns; ++b) right[b] = x + std::min(j + b, rows - 1) * stride;
  vf sums[kLanes] = {};
  const auto accumulate = [&](int64_t k, int64_t n) {
    vf r[kTileColumns];
#pragma GCC unroll 16
    for (int b = 0; b < kTileColumns; ++b) r[b] = load(right[b] + k, n);
#pragma GCC unroll 16
    for (int a = 0; a < kTileRows; ++a) {
      const vf l = load(left[a] + k, n);
#pragma GCC unroll 16
      for (int b = 0; b < kTileColumns; ++b) sums[a * kTileColumns + b] += l * r[b];
    }
  };
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes) accumulate(k, kLanes);
  if (k < width) accumulate(k, width - k);
  const vf tile = row_sums(sums);
  float products[kLanes], mirrored[kLanes];
  store(products, tile);
  store(mirrored, mirror(tile, LaneIndices{}));
  const int64_t height = std::min<int64_t>(kTileRows, rows - i), breadth = std::min<int64_t>(kTileColumns, rows - j);
  for (int64_t a = 0; a < height; ++a) {
    std::copy_n(products + a * kTileColumns, breadth, s.gram + (i + a) * rows + j);
  }
  for (int64_t b = 0; b < breadth; ++b) std::copy_n(mirrored + b * kTileRows, height, s.gram + (j + b) * rows + i);
}

// Rows that stay in the second-level cache while others are multiplied with them.
constexpr int64_t kBlock = 24;

void centred_gram(const Slice& s) {
  const int64_t rows = s.x.size[0];
  for (int64_t column = s.begin; column < s.end; column += kLanes) centre_columns(s, column);
  for (int64_t block = 0; block < rows; block += kBlock) {
    for (int64_t i = block; i < rows; i += kTileRows) {
      const int64_t end = std::min({block + kBlock, i + kTileRows, rows});
      for (int64_t j = block; j < end; j += kTileColumns) gram_tile(s, i, j);
    }
  }
}

// Both inputs cut into slices, one a thread where they are equally wide; the first slice of each has the Gram matrix
// itself as its share, the others have a part of `shares`.
std::vector<Slice> cut(const Tensor (&x)[2], const Tensor (&centred)[2], const Tensor (&gram)[2], int threads,
                       std::vector<float>& shares) {
  constexpr int64_t kLeastWidth = 128;
  const int64_t even = ceil_divide(x[0].size[1] + x[1].size[1], threads), area = x[0].size[0] * x[0].size[0];
  const int64_t width = ceil_divide(std::max(even, kLeastWidth), kLanes) * kLanes;
  shares.resize((ceil_divide(x[0].size[1], width) + ceil_divide(x[1].size[1], width) - 2) * area);
  std::vector<Slice> slices;
  float* share = shares.data();
  for (int which = 0; which < 2; ++which) {
    for (int64_t begin = 0; begin < x[which].size[1]; begin += width) {
      const int64_t end = std::min(begin + width, x[which].size[1]);
      slices.push_back({x[which], centred[which], begin, end, begin ? share : gram[which].as<float>()});
      if (begin) share += area;
    }
  }
  return slices;
}

// Adds to a row of both Gram matrices what the slices after the first have of it.
void add_shares(const std::vector<Slice>& slices, int64_t row, int64_t rows) {
  float* total = nullptr;
  for (const Slice& s : slices) {
    float* share = s.gram + row * rows;
    if (s.begin == 0) {
      total = share;
    } else {
      for (int64_t j = 0; j < rows; ++j) total[j] += share[j];
    }
  }
}

float dot(const float* a, const float* b, int64_t n) {
  vf total = {};
  for (int64_t i = 0; i < n; i += kLanes) total += load(a + i, n - i) * load(b + i, n - i);
  return sum(total);
}

constexpr int kProductRows = kLanes >= 16 ? 8 : 4;
constexpr int kProductVectors = kLanes >= 16 ? 3 : 2;
constexpr int64_t kStrip = kProductVectors * kLanes;

// kProductRows rows from i of out = scale * weights * x, in the columns of a strip of x.
void product_tile(const Tensor& weights, const float* strip, float scale, const Tensor& out, int64_t i, int64_t column) {
  const int64_t rows = out.size[0], n = out.size[1] - column;
  const float* w[kProductRows];
  for (int a = 0; a < kProductRows; ++a) w[a] = weights.as<float>() + std::min(i + a, rows - 1) * rows;
  vf sums[kProductRows][kProductVectors] = {};
  for (int64_t k = 0; k < rows; ++k) {
    vf x[kProductVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kProductVectors; ++v) x[v] = load(strip + k * kStrip + v * kLanes);
#pragma GCC unroll 16
    for (int a = 0; a < kProductRows; ++a) {
      const vf weight = splat(w[a][k]);
#pragma GCC unroll 16
      for (int v = 0; v < kProductVectors; ++v) sums[a][v] += weight * x[v];
    }
  }
  for (int a = 0; a < kProductRows && i + a < rows; ++a) {
    float* to = out.as<float>() + (i + a) * out.stride[0] + column;
    for (int v = 0; v < kProductVectors && v * kLanes < n; ++v) {
      store(to + v * kLanes, scale * sums[a][v], n - v * kLanes);
    }
  }
}

// out = scale * weights * x for kStrip columns, copied row after row first: rows that are a power of two apart would
// evict each other from the first-level cache.
void product_strip(const Tensor& weights, const Tensor& x, float scale, const Tensor& out, int64_t column) {
  const int64_t rows = x.size[0], n = std::min(kStrip, x.size[1] - column);
  std::vector<float> strip(rows * kStrip);
  for (int64_t k = 0; k < rows; ++k) {
    std::copy_n(x.as<float>() + k * x.stride[0] + column, n, strip.data() + k * kStrip);
  }
  for (int64_t i = 0; i < rows; i += kProductRows) product_tile(weights, strip.data(), scale, out, i, column);
}

}  // namespace

void hsic_forward(const Tensor& x, const Tensor& y, const Tensor& product, const Tensor& x_centred,
                  const Tensor& y_centred, const Tensor& x_gram, const Tensor& y_gram, int threads) {
  std::vector<float> shares;
  const auto slices = cut({x, y}, {x_centred, y_centred}, {x_gram, y_gram}, threads, shares);
  static_for(threads, slices.size(), [&](int64_t i) { centred_gram(slices[i]); });
  const int64_t rows = x.size[0];
  std::vector<double> products(rows);
  static_for(threads, rows, [&](int64_t row) {
    if (!shares.empty()) add_shares(slices, row, rows);
    products[row] = dot(x_gram.as<float>() + row * rows, y_gram.as<float>() + row * rows, rows);
  });
  *product.as<float>() = static_cast<float>(std::accumulate(products.begin(), products.end(), 0.0));
}

void hsic_backward(const Tensor& grad, const Tensor& x_weights, const Tensor& y_weights, const Tensor& x_centred,
                   const Tensor& y_centred, const Tensor& grad_x, const Tensor& grad_y, double factor, int threads) {
  const float scale = *grad.as<float>() * static_cast<float>(factor);
  const int64_t x_strips = ceil_divide(grad_x.size[1], kStrip), y_strips = ceil_divide(grad_y.size[1], kStrip);
  static_for(threads, x_strips + y_strips, [&](int64_t i) {
    if (i < x_strips) return product_strip(x_weights, x_centred, scale, grad_x, i * kStrip);
    product_strip(y_weights, y_centred, scale, grad_y, (i - x_strips) * kStrip);
  });
}

}  // namespace bdam
