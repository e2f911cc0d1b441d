// Products of a warpgroup, 4 warps that are neighbours, on Hopper's tensor cores (wgmma, sm_90a). Each warp has 16 of 64
// rows in registers, as Tiles. What is in shared memory are rows of Matrix<Type, 64>, whose permutation is one that the
// instruction knows where they begin at a multiple of 1024 bytes. Products run in their order while the threads go on;
// until wait_for_products nobody may touch what they read or write.
#pragma once

#include "matrix.cuh"

namespace bdam {

constexpr int kGroupWarps = 4, kGroupThreads = 32 * kGroupWarps, kGroupRows = kGroupWarps * kTileRows;

}  // namespace bdam

#ifndef __CUDACC__
#include "warpgroup_host.h"
#else

namespace bdam {
namespace wgmma {

// Of rows that begin at an address in shared memory: permuted in groups of 8, which are 1024 bytes apart.
BDAM_DEVICE uint64_t descriptor(uint32_t address) {
  constexpr uint64_t kGroup = 1024 / 16, kPermuted = 1;
  return (address & 0x3ffff) >> 4 | kGroup << 16 | kGroup << 32 | kPermuted << 62;
}

// Lists of asm operands: the floats of 1 to 4 tiles, and of 8 accumulators.
#define BDAM_SET(x) "=f"((x).v[0]), "=f"((x).v[1]), "=f"((x).v[2]), "=f"((x).v[3])
#define BDAM_ADD(x) "+f"((x).v[0]), "+f"((x).v[1]), "+f"((x).v[2]), "+f"((x).v[3])
#define BDAM_TILES_1(use, c) use(c[0].half[0]), use(c[0].half[1])
#define BDAM_TILES_2(use, c) BDAM_TILES_1(use, c), use(c[1].half[0]), use(c[1].half[1])
#define BDAM_TILES_3(use, c) BDAM_TILES_2(use, c), use(c[2].half[0]), use(c[2].half[1])
#define BDAM_TILES_4(use, c) BDAM_TILES_3(use, c), use(c[3].half[0]), use(c[3].half[1])
#define BDAM_COLUMNS_64(use, c) use(c[0]), use(c[1]), use(c[2]), use(c[3]), use(c[4]), use(c[5]), use(c[6]), use(c[7])
#define BDAM_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define BDAM_16 BDAM_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define BDAM_24 BDAM_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define BDAM_32 BDAM_24 ", %24, %25, %26, %27, %28, %29, %30, %31"

// c = or += 64 rows at a times 16 kTiles rows at b, both as descriptors, contracted over 16 columns.
#define BDAM_OF_ROWS(type, name, columns, tiles, floats, a, b, add)                                              \
  template <bool kAdd>                                                                                           \
  BDAM_DEVICE void of_rows(type, Tile (&c)[tiles], uint64_t x, uint64_t y) {                                     \
    if constexpr (kAdd) {                                                                                        \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, " add ", 0; wgmma.mma_async.sync.aligned.m64n" columns        \
                   "k16.f32." name "." name " {" floats "}, " a ", " b ", p, 1, 1, 0, 0; }"                      \
                   : BDAM_TILES_##tiles(BDAM_ADD, c)                                                             \
                   : "l"(x), "l"(y), "r"(1));                                                                    \
    } else {                                                                                                     \
      asm volatile("{ .reg .pred p; setp.ne.b32 p, " add ", 0; wgmma.mma_async.sync.aligned.m64n" columns        \
                   "k16.f32." name "." name " {" floats "}, " a ", " b ", p, 1, 1, 0, 0; }"                      \
                   : BDAM_TILES_##tiles(BDAM_SET, c)                                                             \
                   : "l"(x), "l"(y), "r"(0));                                                                    \
    }                                                                                                            \
  }
#define BDAM_OF_ROWS_OF(type, name)                                          \
  BDAM_OF_ROWS(type, name, "16", 1, BDAM_8, "%8", "%9", "%10")               \
  BDAM_OF_ROWS(type, name, "32", 2, BDAM_16, "%16", "%17", "%18")            \
  BDAM_OF_ROWS(type, name, "48", 3, BDAM_24, "%24", "%25", "%26")            \
  BDAM_OF_ROWS(type, name, "64", 4, BDAM_32, "%32", "%33", "%34")
BDAM_OF_ROWS_OF(BF16, "bf16")
BDAM_OF_ROWS_OF(F16, "f16")

// c += 64 x 16 in registers times 16 rows at b, contracted over the rows.
#define BDAM_OVER_ROWS(type, name)                                                                               \
  BDAM_DEVICE void over_rows(type, Accumulator (&c)[8], const Left& x, uint64_t y) {                             \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %37, 0; wgmma.mma_async.sync.aligned.m64n64k16.f32." name "." name \
                 " {" BDAM_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"                                      \
                 : BDAM_COLUMNS_64(BDAM_ADD, c)                                                                  \
                 : "r"(x.w[0]), "r"(x.w[1]), "r"(x.w[2]), "r"(x.w[3]), "l"(y), "r"(1));                          \
  }
BDAM_OVER_ROWS(BF16, "bf16")
BDAM_OVER_ROWS(F16, "f16")

// Keeps what is done with accumulators on its side of here.
BDAM_DEVICE void pin(Accumulator& c) { asm volatile("" : BDAM_ADD(c)::"memory"); }
BDAM_DEVICE void pin(Tile& c) { asm volatile("" : BDAM_ADD(c.half[0]), BDAM_ADD(c.half[1])::"memory"); }

}  // namespace wgmma

// Before products, wherever their registers have been touched.
BDAM_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
BDAM_DEVICE void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits for all products; these are what they made.
template <class... Results>
BDAM_DEVICE void wait_for_products(Results&... results) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  const auto pin_all = [](auto& array) {
#pragma unroll
    for (int i = 0; i < static_cast<int>(sizeof array / sizeof array[0]); ++i) wgmma::pin(array[i]);
  };
  (pin_all(results), ...);
}

// After wait_for_copies and before a barrier: products then find what was copied.
BDAM_DEVICE void show_to_products() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// c (64 x 16 kTiles) = x y^T, of the first 64 rows of x and the first 16 kTiles of y.
template <class M, int kTiles>
BDAM_DEVICE void multiply_rows(Tile (&c)[kTiles], const M& x, const M& y) {
  const uint64_t a = wgmma::descriptor(x.memory.address(0)), b = wgmma::descriptor(y.memory.address(0));
  static_assert(M::kBytes == 2 && M::D == 64);
  wgmma::of_rows<false>(typename M::Type(), c, a, b);
#pragma unroll
  for (int step = 1; step < M::kSteps; ++step) {
    wgmma::of_rows<true>(typename M::Type(), c, a + 2 * step, b + 2 * step);
  }
}

// total (64 x 64) += x (64 x 16) times the 16 rows of m from `row` on.
template <class M>
BDAM_DEVICE void add_product_of_group(Accumulator (&total)[8], const Left& x, const M& m, int row) {
  wgmma::over_rows(typename M::Type(), total, x, wgmma::descriptor(m.memory.address(row * M::kFloats)));
}

}  // namespace bdam
#endif
