// Runs C++'s kernels for another process, through stdin and stdout, where neither Python nor torch has to run: under an
// emulator of another processor, or over ssh on another machine.
//
// It first writes a line: lanes(), pairs_bfloat16() and the kernels' names. A request is: the kernel's place in that
// line, the numbers of blocks of memory and of arguments; the blocks' sizes in bytes; the arguments; the blocks. The
// answer is the blocks, as the kernel left them. All numbers have eight bytes.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../csrc/cpu/kernels.h"

namespace {

using bdam::Tensor;

// A tensor, whose memory is a part of a block, or absent if that is -1; or a number, in both forms.
struct Argument {
  int64_t block, offset, dtype, dims, size[Tensor::kMaxDims], stride[Tensor::kMaxDims], integer;
  double real;
};

struct Block {
  char* data;
  int64_t bytes;
};
using Blocks = std::vector<Block>;
using Arguments = std::vector<Argument>;

template <class Value>
Value convert(const Argument& from, const Blocks& blocks) {
  if constexpr (std::is_same_v<Value, Tensor>) {
    Tensor to;
    if (from.block >= 0) to.data = blocks.at(from.block).data + from.offset;
    to.dtype = static_cast<bdam::DType>(from.dtype);
    to.dims = static_cast<int>(from.dims);
    std::copy(std::begin(from.size), std::end(from.size), to.size);
    std::copy(std::begin(from.stride), std::end(from.stride), to.stride);
    return to;
  } else if constexpr (std::is_floating_point_v<Value>) {
    return static_cast<Value>(from.real);
  } else {
    return static_cast<Value>(from.integer);
  }
}

template <class... Parameters, size_t... i>
void apply(void (*kernel)(Parameters...), const Arguments& arguments, const Blocks& blocks, std::index_sequence<i...>) {
  if (arguments.size() != sizeof...(i)) throw std::invalid_argument("a kernel got another number of arguments");
  kernel(convert<std::decay_t<Parameters>>(arguments[i], blocks)...);
}

template <class... Parameters>
void apply(void (*kernel)(Parameters...), const Arguments& arguments, const Blocks& blocks) {
  apply(kernel, arguments, blocks, std::index_sequence_for<Parameters...>());
}

template <auto kernel>
void call(const Arguments& arguments, const Blocks& blocks) {
  apply(kernel, arguments, blocks);
}

struct Kernel {
  const char* name;
  void (*call)(const Arguments&, const Blocks&);
};
#define KERNEL(name) {#name, &call<&bdam::name>}

constexpr Kernel kernels[] = {
    KERNEL(selective_scan_forward),
    KERNEL(selective_scan_backward),
    KERNEL(causal_conv1d_forward),
    KERNEL(causal_conv1d_backward),
    KERNEL(cross_attention_forward),
    KERNEL(cross_attention_backward),
    KERNEL(pooled_cross_attention_forward),
    KERNEL(pooled_cross_attention_backward),
    KERNEL(hsic_forward),
    KERNEL(hsic_backward),
    KERNEL(hsic_gaussian_forward),
    KERNEL(hsic_gaussian_backward),
    KERNEL(hsic_permuted),
};

// False at the end of the input.
template <class Value>
bool read(Value* to, size_t count) {
  return std::fread(to, sizeof(Value), count, stdin) == count;
}

bool serve_one() {
  int64_t header[3];
  if (!read(header, 3)) return false;
  const auto [place, block_count, argument_count] = header;
  std::vector<int64_t> sizes(block_count);
  Arguments arguments(argument_count);
  Blocks blocks;
  if (!read(sizes.data(), sizes.size()) || !read(arguments.data(), arguments.size())) return false;
  for (const int64_t bytes : sizes) {
    // Aligned as torch's.
    constexpr int64_t kAlignment = 64;
    blocks.push_back({static_cast<char*>(std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment)), bytes});
    if (!read(blocks.back().data, bytes)) return false;
  }
  kernels[place].call(arguments, blocks);
  for (const auto& [data, bytes] : blocks) {
    std::fwrite(data, 1, bytes, stdout);
    std::free(data);
  }
  std::fflush(stdout);
  return true;
}

}  // namespace

int main() {
  std::printf("%d %d", bdam::lanes(), bdam::pairs_bfloat16());
  for (const auto& kernel : kernels) std::printf(" %s", kernel.name);
  std::puts("");
  std::fflush(stdout);
  while (serve_one()) {
  }
}
