// Kernels with one fault each, and one without, for the test that the host's primitives report what is wrong.
#include "python.h"

#include <map>
#include <string>

#include "warpgroup.cuh"

namespace bdam {
namespace {

struct None {};
constexpr int kThreads = 64;

BDAM_KERNEL(kThreads, 1) none(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads);
  memory.store(thread_index(), 1.0f);
  barrier();
  memory.load((thread_index() + 1) % kThreads);
  shuffle_xor(1.0f, 16);
  barrier();
  memory.store(thread_index(), 3.0f);
  warp_barrier();
  memory.load(thread_index() ^ 1);
  barrier();
  memory.store((thread_index() + 5) % kThreads, 2.0f);
}

alignas(16) const float kSource[4 * kThreads] = {};

BDAM_KERNEL(kThreads, 1) none_on_tensor_cores(BDAM_PARAMETER None) {
  const Shared memory(0, 4 * kThreads);
  memory.copy_async(4 * thread_index(), kSource + 4 * thread_index(), thread_index() % 2);
  wait_for_copies();
  barrier();
  const Left a = memory.load_matrices<false>(4 * (thread_index() % 32));
  Accumulator c;
  multiply(BF16(), c, a, Right{{a.w[0], ballot(true)}});
}

BDAM_KERNEL(kThreads, 1) copy_not_awaited(BDAM_PARAMETER None) {
  const Shared memory(0, 4 * kThreads);
  memory.copy_async(4 * thread_index(), kSource, true);
  barrier();
  memory.load(4 * thread_index());
}

BDAM_KERNEL(kThreads, 1) copy_after_read(BDAM_PARAMETER None) {
  const Shared memory(0, 4 * kThreads);
  memory.store(thread_index(), 1.0f);
  barrier();
  memory.load(thread_index());
  if (thread_index() == 40) memory.copy_async(0, kSource, true);
}

BDAM_KERNEL(kThreads, 1) divergent_product(BDAM_PARAMETER None) {
  Accumulator c;
  if (thread_index() != 3) multiply(F16(), c, Left(), Right());
}

BDAM_KERNEL(kThreads, 1) different_matrices(BDAM_PARAMETER None) {
  const Shared memory(0, 4 * kThreads);
  memory.copy_async(4 * thread_index(), kSource, true);
  wait_for_copies();
  barrier();
  thread_index() % 2 ? memory.load_matrices<true>(0) : memory.load_matrices<false>(0);
}

BDAM_KERNEL(kThreads, 1) divergent_barrier(BDAM_PARAMETER None) {
  if (thread_index() < 40) barrier();
}

BDAM_KERNEL(kThreads, 1) different_barriers(BDAM_PARAMETER None) {
  if (thread_index() % 2) {
    barrier();
  } else {
    barrier();
  }
}

BDAM_KERNEL(kThreads, 1) divergent_shuffle(BDAM_PARAMETER None) {
  if (thread_index() != 3) shuffle_xor(1.0f, 1);
}

BDAM_KERNEL(kThreads, 1) out_of_bounds(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads - 1);
  memory.store(thread_index(), 1.0f);
}

BDAM_KERNEL(kThreads, 1) uninitialised(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads);
  if (thread_index() != 7) memory.store(thread_index(), 1.0f);
  barrier();
  memory.load(thread_index());
}

BDAM_KERNEL(kThreads, 1) misaligned(BDAM_PARAMETER None) {
  const Shared memory(0, 8);
  if (thread_index() == 0) memory.store<4>(2, Vec<4>());
}

BDAM_KERNEL(kThreads, 1) read_after_write(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads);
  memory.store(thread_index(), 1.0f);
  warp_barrier();  // orders the lanes of a warp, not two warps
  memory.load((thread_index() + 32) % kThreads);
}

BDAM_KERNEL(kThreads, 1) shuffle_for_barrier(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads);
  memory.store(thread_index(), 1.0f);
  shuffle_xor(1.0f, 1);
  memory.load(thread_index() ^ 1);
}

BDAM_KERNEL(kThreads, 1) write_after_read(BDAM_PARAMETER None) {
  const Shared memory(0, kThreads);
  memory.store(thread_index(), 1.0f);
  barrier();
  memory.load(0);
  if (thread_index() == kThreads - 1) memory.store(0, 2.0f);
}

BDAM_KERNEL(kThreads, 1) write_after_write(BDAM_PARAMETER None) {
  const Shared memory(0, 1);
  if (thread_index() < 2) memory.store(0, 1.0f);
}

using Rows = Matrix<BF16, 64>;
constexpr int kRowsFloats = 64 * Rows::kFloats;

// A product of a group's rows with themselves, from float `first` of shared memory on.
void multiply_group(int first, bool show, bool all) {
  const Rows rows{Shared(first, kRowsFloats)};
  for (int i = thread_index(); i < kRowsFloats; i += kGroupThreads) rows.memory.store(i, 0.0f);
  if (show) show_to_products();
  barrier();
  Tile c[1];
  begin_products();
  if (all || thread_index() != 3) multiply_rows(c, rows, rows);
  end_products();
  wait_for_products(c);
}

BDAM_KERNEL(kGroupThreads, 1) none_of_a_group(BDAM_PARAMETER None) { multiply_group(256, true, true); }
BDAM_KERNEL(kGroupThreads, 1) product_not_shown(BDAM_PARAMETER None) { multiply_group(256, false, true); }
BDAM_KERNEL(kGroupThreads, 1) misaligned_product(BDAM_PARAMETER None) { multiply_group(32, true, true); }
BDAM_KERNEL(kGroupThreads, 1) divergent_group(BDAM_PARAMETER None) { multiply_group(256, true, false); }

BDAM_KERNEL(kGroupThreads, 1) product_overwritten(BDAM_PARAMETER None) {
  const Rows rows{Shared(0, kRowsFloats)};
  for (int i = thread_index(); i < kRowsFloats; i += kGroupThreads) rows.memory.store(i, 0.0f);
  show_to_products();
  barrier();
  Tile c[1];
  begin_products();
  multiply_rows(c, rows, rows);
  end_products();
  rows.memory.store(thread_index(), 1.0f);
  wait_for_products(c);
}

BDAM_KERNEL(kThreads, 1) grid_barriers(BDAM_PARAMETER None) {
  grid_barrier();
  barrier();
  grid_barrier();
}

BDAM_KERNEL(kThreads, 1) divergent_blocks(BDAM_PARAMETER None) {
  if (block_index() < grid_size() - 1) grid_barrier();
}

void run(const std::string& name) {
  static const std::map<std::string, void (*)(const None)> kernels = {
      {"none", none},
      {"none_on_tensor_cores", none_on_tensor_cores},
      {"copy_not_awaited", copy_not_awaited},
      {"copy_after_read", copy_after_read},
      {"divergent_product", divergent_product},
      {"different_matrices", different_matrices},
      {"divergent_barrier", divergent_barrier},
      {"different_barriers", different_barriers},
      {"divergent_shuffle", divergent_shuffle},
      {"out_of_bounds", out_of_bounds},
      {"uninitialised", uninitialised},
      {"misaligned", misaligned},
      {"read_after_write", read_after_write},
      {"shuffle_for_barrier", shuffle_for_barrier},
      {"write_after_read", write_after_read},
      {"write_after_write", write_after_write},
      {"grid_barriers", grid_barriers},
      {"divergent_blocks", divergent_blocks},
      {"none_of_a_group", none_of_a_group},
      {"product_not_shown", product_not_shown},
      {"misaligned_product", misaligned_product},
      {"divergent_group", divergent_group},
      {"product_overwritten", product_overwritten},
  };
  constexpr int kFloats = 4 * kThreads;
  if (name == "divergent_blocks" || name == "grid_barriers") {
    return launch_together(kernels.at(name), 2, kThreads, kFloats, None(), 0);
  }
  if (name == "grid_barrier_alone") return launch(grid_barriers, 2, kThreads, kFloats, None(), 0);
  const bool of_a_group = name.find("group") != name.npos || name.find("product_") != name.npos ||
                          name == "misaligned_product";
  of_a_group ? launch(kernels.at(name), 2, kGroupThreads, 256 + kRowsFloats, None(), 0)
             : launch(kernels.at(name), 2, kThreads, kFloats, None(), 0);
}

PyMethodDef functions[] = {BDAM_FUNCTION(run), {}};
PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_faults", nullptr, 0, functions, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace bdam

PyMODINIT_FUNC PyInit__faults() { return PyModuleDef_Init(&bdam::definition); }
