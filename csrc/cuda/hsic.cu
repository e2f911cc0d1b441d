// Linear HSIC of few samples in one launch: value and both gradients. The blocks go together through four phases, with
// a barrier of the whole grid between two: centre the features; multiply tiles of both Gram matrices, of which half is
// computed, over parts of their columns; add the parts up; multiply the gradients. Every sum has a fixed order.
#include "hsic.cuh"
#include "kernels.h"

namespace bdam {
namespace hsic {
namespace {

// Features minus their means, in float32, with zeros for the rows and columns that fill tiles.
BDAM_DEVICE void centre(const Plan& plan, const Input& in, int unit) {
  const int column = unit * kMeanColumns + thread_index() % kMeanColumns, lane = thread_index() / kMeanColumns;
  const Shared sums(0, kThreads);
  const bool exists = column < in.width;
  with_type(in.features.dtype, [&](auto type) {
    using Type = decltype(type);
    const auto* from = in.features.as<typename Type::Bits>() + (exists ? column : 0) * in.features.stride[1];
    // Means of differences to the first row: equal rows give exactly zero, and a common offset costs no accuracy.
    const float origin = Type::value(from[0]);
    float sum = 0.0f;
    for (int i = lane; i < plan.rows; i += kMeanLanes) sum += Type::value(from[i * in.features.stride[0]]) - origin;
    barrier();  // the unit before is done with the sums
    sums.store(thread_index(), sum);
    barrier();
    float total = 0.0f;
    for (int i = 0; i < kMeanLanes; ++i) total += sums.load(i * kMeanColumns + thread_index() % kMeanColumns);
    const float mean = total / plan.rows;
    for (int i = lane; i < plan.padded; i += kMeanLanes) {
      const bool is_feature = exists && i < plan.rows;
      const float x = is_feature ? Type::value(from[i * in.features.stride[0]]) - origin - mean : 0.0f;
      in.centred[static_cast<int64_t>(i) * in.padded_width + column] = x;
    }
  });
}

// A part of a tile of a Gram matrix, and of the tile that mirrors it.
BDAM_DEVICE void gram(const Plan& plan, const Input& in, int unit) {
  const int part = unit / plan.gram_tiles;
  int row_tile = 0, column_tile = unit % plan.gram_tiles;
  for (; column_tile > row_tile; ++row_tile) column_tile -= row_tile + 1;
  const int begin = part * plan.part_width, left = in.padded_width - begin;
  const int width = left < plan.part_width ? left : plan.part_width;
  const Rows a{in.centred, in.padded_width, row_tile * kTile, begin};
  const Rows b{in.centred, in.padded_width, column_tile * kTile, begin};
  Product product;
  product.multiply(a, b, width);

  float* to = in.gram + static_cast<int64_t>(part) * plan.padded * plan.padded;
  const int i = row_tile * kTile + product.row, j = column_tile * kTile + product.column;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    Vec<4> straight, mirrored;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      straight.v[c] = product.sums[r][c];
      mirrored.v[c] = product.sums[c][r];
    }
    *reinterpret_cast<Vec<4>*>(to + static_cast<int64_t>(i + r) * plan.padded + j) = straight;
    if (row_tile != column_tile) {
      *reinterpret_cast<Vec<4>*>(to + static_cast<int64_t>(j + r) * plan.padded + i) = mirrored;
    }
  }
}

BDAM_DEVICE float add_parts(const Plan& plan, const Input& in, int64_t at) {
  const int64_t area = static_cast<int64_t>(plan.padded) * plan.padded;
  float total = 0.0f;
  for (int part = 0; part < in.parts; ++part) total += in.gram[part * area + at];
  in.gram[at] = total;
  return total;
}

// A warp adds up the parts of a row of both Gram matrices, and the products of the two; without the diagonal if
// unbiased.
BDAM_DEVICE void add_row(const Plan& plan, int row) {
  float product = 0.0f;
  for (int j = thread_index() % 32; j < plan.padded; j += 32) {
    const int64_t at = static_cast<int64_t>(row) * plan.padded + j;
    const float k = add_parts(plan, plan.inputs[0], at), l = add_parts(plan, plan.inputs[1], at);
    product += plan.unbiased && j == row ? 0.0f : k * l;
  }
  product = warp_sum(product);
  if (thread_index() % 32 == 0) plan.products[row] = product;
}

// Sums over the rows, by one warp.
struct Totals {
  float products = 0.0f, squares[2] = {}, of_squares = 0.0f;

  BDAM_DEVICE explicit Totals(const Plan& plan) {
    for (int i = thread_index() % 32; i < plan.rows; i += 32) {
      const int64_t diagonal = static_cast<int64_t>(i) * (plan.padded + 1);
      const float k = plan.inputs[0].gram[diagonal], l = plan.inputs[1].gram[diagonal];
      products += plan.products[i];
      squares[0] += k;
      squares[1] += l;
      of_squares += k * l;
    }
    products = warp_sum(products);
    of_squares = warp_sum(of_squares);
    for (float& total : squares) total = warp_sum(total);
  }
  // Rows of a Gram matrix of centred features add up to zero, so without the diagonal to minus the diagonal.
  BDAM_DEVICE float value(const Plan& plan) const {
    float sum = products;
    if (plan.unbiased) sum += squares[0] * squares[1] / plan.q - 2.0f / plan.p * of_squares;
    return 0.5f * plan.factor * sum;
  }
};

// A tile of the gradient of an input: the other's Gram matrix times the features.
BDAM_DEVICE void gradient(const Plan& plan, int which, int unit, const Shared& totals) {
  const Input &in = plan.inputs[which], &other = plan.inputs[1 - which];
  const int row_tile = unit % plan.tiles, column_tile = unit / plan.tiles;
  const Columns weights{other.gram, plan.padded, row_tile * kTile, plan.unbiased ? 1.0f / plan.p : 0.0f, plan.unbiased};
  const Columns features{in.centred, in.padded_width, column_tile * kTile, 0.0f, false};
  Product product;
  product.multiply(weights, features, plan.padded);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int i = row_tile * kTile + product.row + r;
    if (i >= plan.rows) continue;
    // What M(L) has besides, constant along a row but for the diagonal: centred features add up to zero.
    const float square = other.gram[static_cast<int64_t>(i) * (plan.padded + 1)];
    const float rest = plan.unbiased ? totals.load(1 - which) / plan.q - square / plan.p : 0.0f;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int column = column_tile * kTile + product.column + c;
      if (column >= in.width) continue;
      const float x = in.centred[static_cast<int64_t>(i) * in.padded_width + column];
      in.gradient[static_cast<int64_t>(i) * in.width + column] = plan.factor * (product.sums[r][c] + rest * x);
    }
  }
}

// visit(which input, unit of it) for this block's share of two inputs' units.
template <class Visit>
BDAM_DEVICE void share(int of_x, int of_y, Visit visit) {
  for (int unit = block_index(); unit < of_x + of_y; unit += grid_size()) {
    unit < of_x ? visit(0, unit) : visit(1, unit - of_x);
  }
}

BDAM_KERNEL(kThreads, 2) hsic_linear_kernel(BDAM_PARAMETER Plan plan) {
  const Input &x = plan.inputs[0], &y = plan.inputs[1];
  share(x.mean_units(), y.mean_units(), [&](int which, int unit) { centre(plan, plan.inputs[which], unit); });
  grid_barrier();
  share(x.parts * plan.gram_tiles, y.parts * plan.gram_tiles,
        [&](int which, int unit) { gram(plan, plan.inputs[which], unit); });
  grid_barrier();
  for (int row = block_index() + thread_index() / 32 * grid_size(); row < plan.rows; row += kWarps * grid_size()) {
    add_row(plan, row);
  }
  grid_barrier();
  const Shared totals(kProductFloats, 2);
  if (thread_index() < 32) {
    const Totals sums(plan);
    if (thread_index() == 0) {
      for (int i = 0; i < 2; ++i) totals.store(i, sums.squares[i]);
      if (block_index() == 0) *plan.value = sums.value(plan);
    }
  }
  barrier();
  share(plan.tiles * x.column_tiles(), plan.tiles * y.column_tiles(),
        [&](int which, int unit) { gradient(plan, which, unit, totals); });
}

}  // namespace
}  // namespace hsic

int64_t hsic_linear_workspace(int64_t rows, int64_t x_width, int64_t y_width) {
  hsic::Plan plan(rows, x_width, y_width);
  return plan.place(nullptr);
}

void hsic_linear(const Tensor& x, const Tensor& y, const Tensor& value, const Tensor& gradients,
                 const Tensor& workspace, double factor, double p, double q, bool unbiased, int64_t stream) {
  using namespace hsic;
  Plan plan(x.size[0], x.size[1], y.size[1]);
  plan.place(workspace.as<float>());
  plan.inputs[0].features = x;
  plan.inputs[1].features = y;
  plan.inputs[0].gradient = gradients.as<float>();
  plan.inputs[1].gradient = gradients.as<float>() + x.size[0] * x.size[1];
  plan.value = value.as<float>();
  plan.factor = static_cast<float>(factor);
  plan.p = static_cast<float>(p);
  plan.q = static_cast<float>(q);
  plan.unbiased = unbiased;
  launch_together(hsic_linear_kernel, plan.units(), kThreads, kProductFloats + 4, plan, stream);
}

}  // namespace bdam
