// HSIC with Gaussian kernels, less a typical value each: a task has a block of rows and walks all rows by blocks. Tiles of both kernel matrices
// exist in cache only, and every sum has a fixed order.

#include <vector>

#include "gemm.h"
#include "kernels.h"
#include "parallel.h"

namespace bdam {
namespace {

constexpr int64_t kRows = 128, kOthers = 64;  // of a task, and walked at once

// One of the two inputs. The features are taken centred and divided by the kernel's width.
struct Input {
  Tensor features;
  float scale, exponent, level;  // 1 / width, and of the typical value, level in the matrix's own scale
  std::vector<float> means;      // of the differences to the first row, of some rows: distances need no exact ones

  Input(const Tensor& x, const float* kernel)
      : features(x), scale(kernel[0]), exponent(kernel[1]), level(kernel[2]), means(padded()) {
    const int64_t step = std::max<int64_t>(rows() / 256, 1);
    const float* origin = x.as<float>();
    for (int64_t i = 0; i < rows(); i += step) {
      for (int64_t k = 0; k < width(); k += kLanes) {
        const vf difference = load(origin + i * x.stride[0] + k, width() - k) - load(origin + k, width() - k);
        store(means.data() + k, load(means.data() + k) + difference);
      }
    }
    for (float& mean : means) mean /= ceil_divide(rows(), step);
  }

  int64_t rows() const { return features.size[0]; }
  int64_t width() const { return features.size[1]; }
  int64_t padded() const { return pad_to_vectors(width()); }
};

// Rows of an input as the kernel sees them, with half of their squares; vectors are filled up with zeros.
struct Block {
  int64_t first = 0, count = 0;
  std::vector<float> values, half_squares;

  Block(const Input& in, int64_t most) : values(most * in.padded()), half_squares(pad_to_vectors(most)) {}

  void read(const Input& in, int64_t begin, int64_t most) {
    first = begin;
    count = std::min(most, in.rows() - begin);
    const float* origin = in.features.as<float>();
    for (int64_t i = 0; i < count; ++i) {
      const float* from = origin + (first + i) * in.features.stride[0];
      float* to = values.data() + i * in.padded();
      vf squares = {};
      for (int64_t k = 0; k < in.width(); k += kLanes) {
        const int64_t n = in.width() - k;
        const vf x = (load(from + k, n) - load(origin + k, n) - load(in.means.data() + k, n)) * in.scale;
        store(to + k, x);
        squares += x * x;
      }
      half_squares[i] = 0.5f * sum(squares);
    }
  }
  MatrixView<float> view(const Input& in) { return {values.data(), count, in.width(), in.padded()}; }
};

// A tile of an input's kernel matrix less its level, zero on the diagonal: of a task's rows with those of a block that
// it walks.
struct KernelTile {
  const Input& in;
  Block rows, others;
  std::vector<float> transposed, values;

  KernelTile(const Input& input, int64_t first)
      : in(input),
        rows(input, kRows),
        others(input, kOthers),
        transposed(pad_to_vectors(input.width()) * kOthers),
        values(kRows * kOthers) {
    rows.read(in, first, kRows);
  }

  void compute(int64_t first) {
    others.read(in, first, kOthers);
    const Right<float> right = pack_transposed(others.view(in), transposed.data());
    Prefetcher none;
    multiply(Left<float, false>{rows.values.data(), in.padded()}, right, rows.count, in.width(), others.count, none,
             [out = values.data(), left = rows.half_squares.data(), top = others.half_squares.data(),
              exponent = in.exponent, level = in.level](int64_t i, int64_t j, vf product) {
               store(out + i * kOthers + j, level * expm1(product - left[i] - load(top + j) - exponent));
             });
    for (int64_t i = 0; i < rows.count; ++i) {
      float* row = values.data() + i * kOthers;
      std::fill(row + others.count, row + kOthers, 0.0f);
      const int64_t same = rows.first + i - others.first;
      if (same >= 0 && same < others.count) row[same] = 0.0f;
    }
  }
};

struct RowSums {
  vf xx = {}, xy = {}, yy = {}, x = {}, y = {};
};

void forward_rows(const Input& x, const Input& y, int64_t first, float* products, float* row_sums) {
  KernelTile k(x, first), l(y, first);
  std::vector<double> sums(5 * k.rows.count);
  for (int64_t start = 0; start < x.rows(); start += kOthers) {
    k.compute(start);
    l.compute(start);
    for (int64_t i = 0; i < k.rows.count; ++i) {
      RowSums row;
      for (int64_t j = 0; j < kOthers; j += kLanes) {
        const vf a = load(k.values.data() + i * kOthers + j), b = load(l.values.data() + i * kOthers + j);
        row.xx += a * a;
        row.xy += a * b;
        row.yy += b * b;
        row.x += a;
        row.y += b;
      }
      double* of_row = sums.data() + 5 * i;
      of_row[0] += sum(row.xx);
      of_row[1] += sum(row.xy);
      of_row[2] += sum(row.yy);
      of_row[3] += sum(row.x);
      of_row[4] += sum(row.y);
    }
  }
  for (int64_t i = 0; i < k.rows.count; ++i) {
    for (int64_t s = 0; s < 5; ++s) {
      float* to = s < 3 ? products + s * x.rows() : row_sums + (s - 3) * x.rows();
      to[first + i] = static_cast<float>(sums[5 * i + s]);
    }
  }
}

// The gradient of some rows of an input, while the tiles go by.
struct Gradient {
  const float* terms;
  Tensor out;
  std::vector<float> weights = std::vector<float>(kRows * kOthers), sums = std::vector<float>(kRows), products;

  Gradient(const Input& in, const float* row_terms, const Tensor& to)
      : terms(row_terms), out(to), products(kRows * in.padded()) {}

  // W = (other_factor other + own_factor own + terms of rows and columns) * (own + level), and its product with the
  // features.
  void add(const KernelTile& own, const KernelTile& other, float own_factor, float other_factor) {
    float top[kOthers] = {};
    std::copy_n(terms + own.others.first, own.others.count, top);
    for (int64_t i = 0; i < own.rows.count; ++i) {
      const float left = terms[own.rows.first + i];
      float* row = weights.data() + i * kOthers;
      for (int64_t j = 0; j < own.others.count; j += kLanes) {
        const vf others = load(other.values.data() + i * kOthers + j), owns = load(own.values.data() + i * kOthers + j);
        const vf weight = other_factor * others + own_factor * owns + (left + load(top + j));
        store(row + j, weight * (owns + own.in.level));
      }
      // A row's own weight cancels: the better if it is not there.
      const int64_t same = own.rows.first + i - own.others.first;
      if (same >= 0 && same < own.others.count) row[same] = 0.0f;
      vf total = {};
      for (int64_t j = 0; j < own.others.count; j += kLanes) total += load(row + j, own.others.count - j);
      sums[i] += sum(total);
    }
    Prefetcher none;
    const int64_t ld = own.in.padded();
    multiply(Left<float, false>{weights.data(), kOthers}, Right<float>{own.others.values.data(), ld}, own.rows.count,
             own.others.count, own.in.width(), none,
             [to = products.data(), ld](int64_t i, int64_t j, vf x) {
               store(to + i * ld + j, load(to + i * ld + j) + x);
             });
  }
  void write(const KernelTile& own) const {
    const int64_t ld = own.in.padded(), width = own.in.width();
    for (int64_t i = 0; i < own.rows.count; ++i) {
      for (int64_t k = 0; k < width; k += kLanes) {
        const vf x = load(own.rows.values.data() + i * ld + k), product = load(products.data() + i * ld + k);
        store(out.as<float>() + (own.rows.first + i) * width + k, (product - sums[i] * x) * own.in.scale, width - k);
      }
    }
  }
};

}  // namespace

void hsic_gaussian_forward(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& products,
                           const Tensor& sums, int threads) {
  const Input of_x(x, kernels.as<float>()), of_y(y, kernels.as<float>() + 3);
  parallel_for(threads, ceil_divide(x.size[0], kRows),
               [&](int64_t task) { forward_rows(of_x, of_y, task * kRows, products.as<float>(), sums.as<float>()); });
}

void hsic_gaussian_backward(const Tensor& x, const Tensor& y, const Tensor& kernels, const Tensor& factors,
                            const Tensor& terms, const Tensor& x_grad, const Tensor& y_grad, int threads) {
  const Input of_x(x, kernels.as<float>()), of_y(y, kernels.as<float>() + 3);
  const float *factor = factors.as<float>(), *x_terms = terms.as<float>(), *y_terms = x_terms + x.size[0];
  parallel_for(threads, ceil_divide(x.size[0], kRows), [&](int64_t task) {
    KernelTile k(of_x, task * kRows), l(of_y, task * kRows);
    Gradient of_k(of_x, x_terms, x_grad), of_l(of_y, y_terms, y_grad);
    for (int64_t start = 0; start < x.size[0]; start += kOthers) {
      k.compute(start);
      l.compute(start);
      of_k.add(k, l, factor[0], factor[1]);
      of_l.add(l, k, factor[3], factor[2]);
    }
    of_k.write(k);
    of_l.write(l);
  });
}

}  // namespace bdam
