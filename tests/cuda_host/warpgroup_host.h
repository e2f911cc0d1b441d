// csrc/cuda/warpgroup.cuh for the host: products by the definition, in float32, when they are waited for. So a result that is
// read before, or an operand that is overwritten, shows.
#pragma once

#include "primitives_host.h"

namespace bdam {

inline void begin_products() {}
inline void end_products() {}
inline void show_to_products() { host::show_to_products(); }

template <class... Results>
void wait_for_products(Results&...) {
  host::wait_for_group_products();
}

namespace host {

template <class Type>
float value_of(uint16_t bits) {
  return Type::value(bits);
}

}  // namespace host

template <class M, int kTiles>
void multiply_rows(Tile (&c)[kTiles], const M& x, const M& y) {
  for (int step = 0; step < M::kSteps; ++step) {
    host::GroupProduct product{c[0].half[0].v, 16 * kTiles, step > 0, false, x.memory.offset(),
                               y.memory.offset(), step, {}, host::value_of<typename M::Type>};
    host::add_group_product(product);
  }
}

template <class M>
void add_product_of_group(Accumulator (&total)[8], const Left& x, const M& m, int row) {
  host::GroupProduct product{total[0].v, 64, true, true, -1, m.memory.offset() + row * M::kFloats, 0, {},
                             host::value_of<typename M::Type>};
  for (int i = 0; i < 4; ++i) product.left[i] = x.w[i];
  host::add_group_product(product);
}

}  // namespace bdam
