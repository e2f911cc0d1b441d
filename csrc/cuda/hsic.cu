// Linear HSIC of few samples: the value in one launch, both gradients in another. The blocks of the first go together
// through three phases, with a barrier of the whole grid between two: centre the features; multiply tiles of both Gram
// matrices, of which half is computed, over parts of their columns; add the parts up. The second multiplies the Gram
// matrices by the features. Every sum has a fixed order. What costs time with few rows is waiting: for memory, so that
// a thread asks for all that it needs before it uses any of it, and for the grid, so that few rows have no phase of
// their own to be centred.
#include <stdexcept>
#include <string>

#include "hsic.cuh"
#include "kernels.h"

namespace bdam {
namespace hsic {
namespace {

// use(r, row, column, feature minus the mean of its column, in float32) for kColumns columns, and zeros for the rows
// and columns that fill tiles. A thread has kRows rows of a column, which r counts. sums: kThreads floats of shared
// memory.
template <int kColumns, int kRows, class Use>
BDAM_DEVICE void for_each_centred(const Plan& plan, const Input& in, int first_column, const Shared& sums, Use use) {
  constexpr int kLanes = kThreads / kColumns, kSums = kLanes < kWarps ? kLanes : kWarps;
  const int column = thread_index() % kColumns, lane = thread_index() / kColumns;
  const bool exists = first_column + column < in.width;
  float x[kRows];
  // Means of differences to the first row: equal rows give exactly zero, and a common offset costs no accuracy.
  float origin;
  with_type(in.features.dtype, [&](auto type) {
    using Type = decltype(type);
    const auto* from = in.features.as<typename Type::Bits>();
    if (exists) from += (first_column + column) * in.features.stride[1];
    origin = Type::value(*from);
    from += lane * in.features.stride[0];
#pragma unroll
    for (int r = 0; r < kRows; ++r, from += kLanes * in.features.stride[0]) {
      x[r] = lane + r * kLanes < plan.rows ? Type::value(*from) : origin;
    }
  });
  float sum = 0.0f;
#pragma unroll
  for (int r = 0; r < kRows; ++r) sum += x[r] -= origin;
  for (int mask = kColumns; mask < 32; mask *= 2) sum += shuffle_xor(sum, mask);
  barrier();  // everyone is done with what is there
  if (thread_index() % 32 < kColumns) sums.store(thread_index() * kSums / kThreads * kColumns + column, sum);
  barrier();
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kSums; ++i) total += sums.load(i * kColumns + column);
  const float mean = total * plan.per_row;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int i = lane + r * kLanes;
    use(r, i, first_column + column, exists && i < plan.rows ? x[r] - mean : 0.0f);
  }
}

BDAM_DEVICE void centre(const Plan& plan, const Input& in, int unit) {
  const auto store = [&](int, int i, int column, float x) {
    if (i < plan.padded) in.centred[static_cast<int64_t>(i) * in.padded_width + column] = x;
  };
  for_each_centred<kMeanColumns, kMeanRows>(plan, in, unit * kMeanColumns, Shared(0, kThreads), store);
}

// A part of a tile of a Gram matrix, and of the tile that mirrors it.
BDAM_DEVICE void gram(const Plan& plan, const Input& in, int unit) {
  const int part = unit / plan.gram_tiles;
  int row_tile = 0, column_tile = unit % plan.gram_tiles;
  for (; column_tile > row_tile; ++row_tile) column_tile -= row_tile + 1;
  const int begin = part * plan.part_width, left = in.padded_width - begin;
  const int width = left < plan.part_width ? left : plan.part_width;
  const bool equal = row_tile == column_tile;
  Product<kTile> product;
  if (plan.centred_first()) {
    const Rows a{in.centred, in.padded_width, row_tile * kTile, begin};
    const Rows b{in.centred, in.padded_width, column_tile * kTile, begin};
    product.multiply(a, b, width, equal);
  } else {
    const Shared a(0, kOperandFloats), b(equal ? 0 : kOperandFloats, kOperandFloats);
    for (int step = begin; step < begin + width; step += kStep) {
      // Every unit needs the means of its columns over all rows; those on the diagonal tell the rest of them.
      constexpr int kRows = kTile * kStep / kThreads;  // of a thread, in a tile
      const auto store = [&](int r, int i, int column, float x) {
        const int tile = r / kRows, at = Rows::at(column - step, i - tile * kTile);
        if (tile == row_tile) a.store(at, x);
        if (tile == column_tile && !equal) b.store(at, x);
        if (tile == row_tile && equal) in.centred[static_cast<int64_t>(i) * in.padded_width + column] = x;
      };
      const Shared sums(kStageFloats, kThreads);
      for_each_centred<kStep, kTogetherTiles * kRows>(plan, in, step, sums, store);
      barrier();
      product.multiply_step<Rows, Rows>(a, b);
    }
  }

  const int64_t stride = plan.padded;
  float* to = in.gram + part * stride * stride;
  product.for_each_pair([&](int row, int column, float first, float second) {
    const int i = row_tile * kTile + row, j = column_tile * kTile + column;
    *reinterpret_cast<Vec<2>*>(to + i * stride + j) = {first, second};
    if (equal) return;
    to[j * stride + i] = first;
    to[(j + 1) * stride + i] = second;
  });
}

// A warp adds up the parts of kSumColumns columns of a row of both Gram matrices, and the products of the two. What it
// writes for the gradient is the row of M(L) transposed, but for what is constant along a row of M(L): without the
// diagonal, and with what it adds to its row, if unbiased.
BDAM_DEVICE void add_row(const Plan& plan, int unit) {
  constexpr int kBatch = 6;  // parts that are asked for at once
  const int row = unit / plan.sums, lane = thread_index() % 32, j = unit % plan.sums * kSumColumns + lane * 4;
  const int64_t area = static_cast<int64_t>(plan.padded) * plan.padded, begin = static_cast<int64_t>(row) * plan.padded;
  const bool exists = j < plan.padded;
  const int parts = plan.inputs[0].parts > plan.inputs[1].parts ? plan.inputs[0].parts : plan.inputs[1].parts;
  Vec<4> sums[2] = {};
  float squares[2] = {};
  for (int part = 0; part < parts; part += kBatch) {
    Vec<4> of_part[2][kBatch];
    float square[2][kBatch];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float* from = plan.inputs[i].gram + part * area + begin;
#pragma unroll
      for (int b = 0; b < kBatch; ++b, from += area) {
        const bool is_part = part + b < plan.inputs[i].parts;
        of_part[i][b] = is_part && exists ? *reinterpret_cast<const Vec<4>*>(from + j) : Vec<4>{};
        square[i][b] = is_part && plan.unbiased ? from[row] : 0.0f;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i].v[c] += of_part[i][b].v[c];
        squares[i] += square[i][b];
      }
    }
  }
  float product = 0.0f;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const bool off = plan.unbiased && j + c == row;
    product += off ? 0.0f : sums[0].v[c] * sums[1].v[c];
    if (!plan.unbiased) continue;
    for (int i = 0; i < 2; ++i) sums[i].v[c] = off ? 0.0f : sums[i].v[c] + squares[i] * plan.per_p;
  }
  for (int i = 0; i < 2; ++i) {
    if (exists) *reinterpret_cast<Vec<4>*>(plan.inputs[i].weights + begin + j) = sums[i];
    if (unit % plan.sums == 0 && lane == 0) plan.inputs[i].squares[row] = squares[i];
  }
  product = warp_sum(product);
  if (lane == 0) plan.products[unit] = product;
}

// Sums over the rows, by all threads of a block.
struct Totals {
  float products = 0.0f, squares[2] = {}, of_squares = 0.0f;

  BDAM_DEVICE explicit Totals(const Plan& plan) {
    float sums[4] = {};
#pragma unroll 4
    for (int i = thread_index(); i < plan.padded * plan.sums; i += kThreads) sums[0] += plan.products[i];
#pragma unroll 2
    for (int i = thread_index(); i < plan.padded; i += kThreads) {
      const float k = plan.inputs[0].squares[i], l = plan.inputs[1].squares[i];
      sums[1] += k;
      sums[2] += l;
      sums[3] += k * l;
    }
    const Shared of_warps(kProductFloats, 4 * kWarps);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const float sum = warp_sum(sums[s]);
      if (thread_index() % 32 == 0) of_warps.store(s * kWarps + thread_index() / 32, sum);
      sums[s] = 0.0f;
    }
    barrier();
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) sums[s] += of_warps.load(s * kWarps + warp);
    }
    products = sums[0];
    squares[0] = sums[1];
    squares[1] = sums[2];
    of_squares = sums[3];
  }
  // Rows of a Gram matrix of centred features add up to zero, so without the diagonal to minus the diagonal.
  BDAM_DEVICE float value(const Plan& plan) const {
    float sum = products;
    if (plan.unbiased) sum += squares[0] * squares[1] * plan.per_q - 2.0f * plan.per_p * of_squares;
    return plan.factor * sum;
  }
};

// A tile of the gradient of an input: the other's Gram matrix times the features. trace: that Gram matrix's.
template <int kWidth>
BDAM_DEVICE void gradient(const Plan& plan, const Input& in, const Input& other, int unit, float trace) {
  const int row_tile = unit % plan.tiles, column_tile = unit / plan.tiles;
  const Columns<kTile> weights{other.weights, plan.padded, row_tile * kTile};
  const Columns<kWidth> features{in.centred, in.padded_width, column_tile * kWidth};
  Product<kWidth> product;
  product.multiply(weights, features, plan.padded, false);
  constexpr int kAcross = Product<kWidth>::kAcross;
  const int first_row = row_tile * kTile + product.row, first_column = column_tile * kWidth + product.column;
  // What M(L) has besides, constant along a row but for the diagonal: centred features add up to zero.
  if (plan.unbiased) {
    float rest[2][2];
    Vec<2> x[2][2][kAcross];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = first_row + m * 16 + half * 8;
        rest[m][half] = trace * plan.per_q - other.squares[i] * plan.per_p;
#pragma unroll
        for (int n = 0; n < kAcross; ++n) {
          const int j = first_column + n * 8;
          const float* from = in.centred + static_cast<int64_t>(i) * in.padded_width + j;
          x[m][half][n] = j < in.padded_width ? *reinterpret_cast<const Vec<2>*>(from) : Vec<2>{};
        }
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
#pragma unroll
        for (int n = 0; n < kAcross; ++n) product.sums[m][n][v] += rest[m][v / 2] * x[m][v / 2][n].v[v % 2];
      }
    }
  }
  const float scale = plan.factor * *plan.grad;
  with_type(in.gradient.dtype, [&](auto type) {
    using Type = decltype(type);
    auto* to = in.gradient.as<typename Type::Bits>();
    product.for_each_pair([&](int row, int column, float first, float second) {
      const int i = row_tile * kTile + row, j = column_tile * kWidth + column;
      const int64_t at = static_cast<int64_t>(i) * in.width + j;
      if (i < plan.rows && j < in.width) to[at] = Type::bits(scale * first);
      if (i < plan.rows && j + 1 < in.width) to[at + 1] = Type::bits(scale * second);
    });
  });
}

// visit(which input, unit of it) for this block's share of two inputs' units.
template <class Visit>
BDAM_DEVICE void share(int of_x, int of_y, Visit visit) {
  for (int unit = block_index(); unit < of_x + of_y; unit += grid_size()) {
    const int which = unit >= of_x;
    visit(which, unit - which * of_x);
  }
}

// Whether this block is the last one that comes here, and so sees what all others wrote before. All threads get the
// answer.
BDAM_DEVICE bool comes_last(uint32_t* counter) {
  const Shared answer(kProductFloats, 1);
  barrier();
  if (thread_index() == 0) answer.store(0, take_ticket(counter) == static_cast<uint32_t>(grid_size() - 1));
  barrier();
  return answer.load(0);
}

BDAM_KERNEL(kThreads, 2) hsic_linear_kernel(BDAM_PARAMETER Plan plan) {
  const Input &x = plan.inputs[0], &y = plan.inputs[1];
  if (plan.centred_first()) {
    share(x.mean_units(), y.mean_units(), [&](int which, int unit) { centre(plan, plan.inputs[which], unit); });
    grid_barrier();
  }
  share(x.parts * plan.gram_tiles, y.parts * plan.gram_tiles,
        [&](int which, int unit) { gram(plan, plan.inputs[which], unit); });
  if (block_index() == 0 && thread_index() == 0) *plan.counter = 0;
  grid_barrier();
  for (int unit = block_index() + thread_index() / 32 * grid_size(); unit < plan.padded * plan.sums;
       unit += kWarps * grid_size()) {
    add_row(plan, unit);
  }
  if (!comes_last(plan.counter)) return;
  barrier();
  const Totals totals(plan);
  if (thread_index()) return;
  *plan.value = totals.value(plan);
  for (int i = 0; i < 2; ++i) plan.traces[i] = totals.squares[i];
}

// A block for each tile of the gradients.
template <int kWidth>
BDAM_KERNEL(kThreads, 2) hsic_linear_gradient_kernel(BDAM_PARAMETER Plan plan) {
  const int of_x = plan.gradient_units(0, kWidth), which = block_index() >= of_x;
  gradient<kWidth>(plan, plan.inputs[which], plan.inputs[1 - which], block_index() - which * of_x,
                   plan.unbiased ? plan.traces[1 - which] : 0.0f);
}

}  // namespace
}  // namespace hsic

int64_t hsic_linear_workspace(int64_t rows, int64_t x_width, int64_t y_width) {
  return hsic::Plan(rows, x_width, y_width).place_workspace(nullptr);
}

void hsic_linear_forward(const Tensor& x, const Tensor& y, const Tensor& value, const Tensor& saved,
                         const Tensor& workspace, double factor, double p, double q, bool unbiased, int64_t stream) {
  using namespace hsic;
  if (x.size[0] > kMostRows) {
    throw std::runtime_error("too many rows for one launch: " + std::to_string(x.size[0]));
  }
  Plan plan(x.size[0], x.size[1], y.size[1]);
  plan.place_saved(saved);
  plan.place_workspace(workspace.as<float>());
  plan.inputs[0].features = x;
  plan.inputs[1].features = y;
  plan.value = value.as<float>();
  plan.choose_estimator(factor, p, q, unbiased);
  launch_together(hsic_linear_kernel, plan.units(), kThreads, kProductFloats + 4 * kWarps, plan, stream);
}

void hsic_linear_backward(const Tensor& grad, const Tensor& saved, const Tensor& grad_x, const Tensor& grad_y,
                          double factor, double p, double q, bool unbiased, int64_t stream) {
  using namespace hsic;
  Plan plan(grad_x.size[0], grad_x.size[1], grad_y.size[1]);
  plan.place_saved(saved);
  plan.inputs[0].gradient = grad_x;
  plan.inputs[1].gradient = grad_y;
  plan.grad = grad.as<const float>();
  plan.choose_estimator(factor, p, q, unbiased);
  const int width = plan.gradient_width(multiprocessors());
  const auto kernel = width == kWideTile ? hsic_linear_gradient_kernel<kWideTile>
                      : width == kTile   ? hsic_linear_gradient_kernel<kTile>
                                         : hsic_linear_gradient_kernel<kNarrowTile>;
  const int units = plan.gradient_units(0, width) + plan.gradient_units(1, width);
  launch(kernel, units, kThreads, kProductFloats, plan, stream);
}

}  // namespace bdam
