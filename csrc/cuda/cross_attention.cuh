// What the kernels of bidirectional cross-attention share: a call, the place of a block in it, which keys a query sees,
// and dropout. A block works on one head in one direction: the queries of one stream, the keys and values of the other.
#pragma once

#include "kernels.h"
#include "matrix.cuh"
#include "philox.cuh"

namespace bdam {
namespace attention {

constexpr int kMaxWarps = 12;
// Blocks that fill a GPU: with as many, each does more.
constexpr int64_t kManyBlocks = 1024;

// Of streams a and b: (B, H, L, d), and masks (B, L) of bool, absent or true where a key is padding.
struct Call {
  Tensor q[2], k[2], v[2], mask[2];
  float scale;  // of scores, the exponents of two
  float keep_scale;
  uint32_t threshold, seed[2];
  int heads, warps;
  int blocks[2];  // of a head, by direction
};

inline Call call_of(const Tensor (&q)[2], const Tensor (&k)[2], const Tensor (&v)[2], const Tensor (&mask)[2],
                    double scale, int64_t threshold, int64_t seed) {
  Call call{{q[0], q[1]}, {k[0], k[1]}, {v[0], v[1]}, {mask[0], mask[1]}};
  call.scale = static_cast<float>(scale * kLog2e);
  call.keep_scale = 65536.0f / (65536 - threshold);
  call.threshold = static_cast<uint32_t>(threshold);
  call.seed[0] = static_cast<uint32_t>(seed);
  call.seed[1] = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
  call.heads = static_cast<int>(q[0].size[1]);
  return call;
}

inline int64_t heads_in(const Call& call) { return call.q[0].size[0] * call.heads; }
inline int tiles_of(const Tensor& t) { return ceil_divide<int>(t.size[2], kTileRows); }

struct Place {
  int block, direction, batch, head, index;  // block: of its head and direction; index: batch * heads + head

  BDAM_DEVICE explicit Place(const Call& call) {
    const int blocks = call.blocks[0] + call.blocks[1], of_head = block_index() % blocks;
    direction = of_head >= call.blocks[0];
    block = direction ? of_head - call.blocks[0] : of_head;
    index = block_index() / blocks;
    batch = index / call.heads;
    head = index % call.heads;
  }
  // The same, of which the compiler knows nothing: what follows from it is computed where it is wanted, not kept.
  BDAM_DEVICE Place forgotten() const {
    Place place = *this;
    place.batch = opaque(batch);
    place.head = opaque(head);
    place.direction = opaque(direction);
    return place;
  }
  template <class Type>
  BDAM_DEVICE GlobalRows<Type> rows(const Tensor& t) const {
    return {t.as<typename Type::Bits>() + batch * t.stride[0] + head * t.stride[1], t.stride[2],
            static_cast<int>(t.size[2]), static_cast<int>(t.size[3])};
  }
  // Of a dense (B, H, L).
  BDAM_DEVICE float* row_numbers(const Tensor& t) const { return t.as<float>() + index * t.size[2]; }
  // `rows` of them from `first` on, into shared memory; `missing` for those that do not exist.
  BDAM_DEVICE void load_numbers(const Tensor& t, int first, int rows, float missing, const Shared& to,
                                int threads) const {
    for (int i = thread_index(); i < rows; i += threads) {
      to.store(i, first + i < t.size[2] ? row_numbers(t)[first + i] : missing);
    }
  }
  BDAM_DEVICE bool sees(const Call& call, int key) const {
    const Tensor& mask = direction ? call.mask[0] : call.mask[1];
    return !mask || !mask.as<uint8_t>()[batch * mask.stride[0] + key * mask.stride[1]];
  }
};

// Which of some keys a query sees, 1 or 0, in shared memory.
struct Visible {
  Shared memory;

  // Of `rows` keys from `first` on, of which `keys` exist.
  BDAM_DEVICE void fill(const Call& call, const Place& place, int first, int rows, int keys, int threads) const {
    for (int i = thread_index(); i < rows; i += threads) {
      memory.store(i, first + i < keys && place.sees(call, first + i) ? 1.0f : 0.0f);
    }
  }
};

// Which weights dropout keeps, a bit each, in shared memory: a word holds those of two queries and a tile of 16 keys.
struct KeepBits {
  Shared memory;
  int tiles;  // of keys

  BDAM_DEVICE static int floats(int queries, int keys) { return queries / 2 * (keys / kTileRows); }

  // As reference.dropout_keep decides it; by `warps` warps, of which this is the `warp`th. queries: an even number.
  BDAM_DEVICE void fill(const Call& call, const Place& place, int first_query, int queries, int first_key, int warp,
                        int warps) const {
    const int lane = lane_index();
    for (int pair = warp; pair < queries / 2; pair += warps) {
      for (int block = first_key / 128; block * 128 < first_key + tiles * kTileRows; ++block) {
        uint32_t words[4] = {static_cast<uint32_t>(block * 16 + (lane & 15)),
                             static_cast<uint32_t>(first_query + 2 * pair + (lane >> 4)),
                             static_cast<uint32_t>(place.index), static_cast<uint32_t>(place.direction)};
        philox(words, call.seed[0], call.seed[1]);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const uint32_t bits = ballot((words[i / 2] >> (16 * (i % 2)) & 0xffff) >= call.threshold);
          const int tile = block * 8 + i - first_key / kTileRows;
          if (lane == i && tile >= 0 && tile < tiles) memory.store(pair * tiles + tile, F32::value(bits));
        }
      }
    }
  }
  BDAM_DEVICE uint32_t word(int query, int tile) const { return F32::bits(memory.load(query / 2 * tiles + tile)); }
  BDAM_DEVICE static bool keeps(uint32_t word, int query, int key) { return word >> (query % 2 * 16 + key) & 1; }
};

// use(j) for the first `tiles` of kTiles tiles in registers.
template <int kTiles, class Use>
BDAM_DEVICE void each_tile(int tiles, Use use) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j < tiles) use(j);
  }
}

// visit(x, half, column) for this lane's elements of a tile: x is in row lane / 4 + 8 half.
template <class Visit>
BDAM_DEVICE void each_element(Tile& tile, Visit visit) {
#pragma unroll
  for (int i = 0; i < 8; ++i) visit(tile.half[i / 4].v[i % 4], i % 4 / 2, i / 4 * 8 + (lane_index() & 3) * 2 + i % 2);
}

// run(matrix) with the narrowest Matrix that holds `width` elements of the dtype in a row; of float32, there are fewer.
template <class Run>
void with_matrix(DType dtype, int64_t width, Run run) {
  const auto with_width = [&](auto type) {
    using Type = decltype(type);
    if constexpr (sizeof(typename Type::Bits) == 2) {
      if (width <= 32) return run(static_cast<Matrix<Type, 32>*>(nullptr));
      if (width > 64 && width <= 96) return run(static_cast<Matrix<Type, 96>*>(nullptr));
    }
    if (width <= 64) return run(static_cast<Matrix<Type, 64>*>(nullptr));
    if (width <= 128) return run(static_cast<Matrix<Type, 128>*>(nullptr));
    return run(static_cast<Matrix<Type, 192>*>(nullptr));
  };
  if (dtype == DType::f32) return with_width(F32());
  if (dtype == DType::bf16) return with_width(BF16());
  return with_width(F16());
}

}  // namespace attention
}  // namespace bdam
