// The fibers and the watch over shared memory behind primitives_host.h.
#include "primitives_host.h"

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace bdam::host {
namespace {

constexpr int kWarp = 32, kGroup = 4 * kWarp;
constexpr size_t kStackBytes = 256 * 1024;

// When something happened, counted in barriers of the block and of a warp.
struct Moment {
  int epoch = -1, warp = -1, warp_epoch = -1;
};

// What is known of one float of shared memory: who wrote it last, and who read it since the last barrier.
struct Touched {
  int writer = -1, reader = -1, copier = -1;
  bool several_readers = false, several_warps = false;
  Moment written, read;
  int64_t write = 0;  // its number in the block
};

enum class Wait { none, barrier, grid_barrier, warp_barrier, shuffle, meeting, products, done };

// What a thread has under way to 4 floats of shared memory.
struct Copy {
  int to;
  const void* from;  // null for zeros
};

struct Context {
  ucontext_t start;
  jmp_buf resume;
  bool started = true;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;  // AddressSanitizer's
  Wait wait = Wait::none;
  int line = 0, mask = 0;
  float value = 0;
  void* brought = nullptr;
  void (*all)(void* const (&lanes)[kWarp]) = nullptr;
  std::vector<Copy> copies;
  std::vector<GroupProduct> products;
  int64_t shown = 0;  // the block's writes so far, when it last showed its own to products
};

struct Block {
  const std::function<void()>* body = nullptr;
  Context scheduler;
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
  void* scheduler_fake_stack = nullptr;
  std::vector<Fiber> fibers;
  std::vector<int> warp_epochs;
  std::vector<float> memory;
  std::vector<Touched> touched;
  int64_t index = 0, writes = 0;
  int current = 0, epoch = 0;
  bool started = false;
  std::string error;
};

// The block that runs; all that there are; how many the kernel has.
Block* block = nullptr;
std::vector<std::unique_ptr<Block>> blocks;
int64_t block_count = 0;

// swapcontext asks the operating system twice every time, a jump does not; AddressSanitizer takes it for an error.
void switch_context(Context& from, Context& to) {
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&from.start, &to.start);
#else
  if (_setjmp(from.resume)) return;
  if (to.started) _longjmp(to.resume, 1);
  to.started = true;
  setcontext(&to.start);
#endif
}

void to_scheduler(bool last = false) {
  Fiber& fiber = block->fibers[block->current];
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &fiber.fake_stack, block->scheduler_stack,
                                 block->scheduler_stack_size);
#endif
  switch_context(fiber.context, block->scheduler);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(fiber.fake_stack, nullptr, nullptr);
#endif
  (void)last;
}

void to_fiber(int thread) {
  block->current = thread;
  Fiber& fiber = block->fibers[thread];
  fiber.wait = Wait::none;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&block->scheduler_fake_stack, fiber.stack.get(), kStackBytes);
#endif
  switch_context(block->scheduler, fiber.context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(block->scheduler_fake_stack, nullptr, nullptr);
#endif
}

// Makes the running fiber wait for something.
Fiber& meet(Wait wait, int line) {
  Fiber& fiber = block->fibers[block->current];
  fiber.wait = wait;
  fiber.line = line;
  fiber.mask = 0;
  fiber.all = nullptr;
  return fiber;
}

void fiber_main() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &block->scheduler_stack, &block->scheduler_stack_size);
#endif
  (*block->body)();
  meet(Wait::done, 0);
  to_scheduler(true);
}

// Ends the run with an error; the fiber is never resumed.
void fail(const std::string& what) {
  block->error =
      what + " (thread " + std::to_string(block->current) + " of block " + std::to_string(block->index) + ")";
  block->fibers[block->current].wait = Wait::done;
  to_scheduler();
}

void start(int thread) {
  Fiber& fiber = block->fibers[thread];
  fiber.copies.clear();
  fiber.products.clear();
  fiber.shown = 0;
  fiber.context.started = false;
  ucontext_t& context = fiber.context.start;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  to_fiber(thread);
}

bool same_place(const Fiber& a, const Fiber& b) {
  return a.wait == b.wait && a.line == b.line && a.mask == b.mask && a.all == b.all;
}

// Whether threads [first, last) all wait in the same place for the same thing.
bool all_wait(int first, int last, Wait wait) {
  for (int thread = first; thread < last; ++thread) {
    const Fiber& fiber = block->fibers[thread];
    if (fiber.wait != wait || !same_place(fiber, block->fibers[first])) return false;
  }
  return true;
}

void exchange(int first) {
  float values[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) values[lane] = block->fibers[first + lane].value;
  for (int lane = 0; lane < kWarp; ++lane) {
    block->fibers[first + lane].value = values[lane ^ block->fibers[first + lane].mask];
  }
}

void meeting(int first) {
  void* lanes[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) lanes[lane] = block->fibers[first + lane].brought;
  block->fibers[first].all(lanes);
}

// Whether the lanes of a warp have all come to the same shuffle, meeting or barrier of theirs, which then takes place.
bool warp_meets(int first) {
  if (all_wait(first, first + kWarp, Wait::meeting)) {
    meeting(first);
    return true;
  }
  if (all_wait(first, first + kWarp, Wait::shuffle)) {
    exchange(first);
    return true;
  }
  if (!all_wait(first, first + kWarp, Wait::warp_barrier)) return false;
  ++block->warp_epochs[first / kWarp];
  return true;
}

std::string where(const Fiber& fiber) {
  if (fiber.wait == Wait::done) return "has ended";
  const bool at_barrier = fiber.wait == Wait::barrier || fiber.wait == Wait::warp_barrier;
  const char* what = at_barrier                         ? "barrier"
                     : fiber.wait == Wait::grid_barrier ? "barrier of the grid"
                     : fiber.wait == Wait::shuffle      ? "shuffle"
                     : fiber.wait == Wait::products     ? "wait for products"
                                                        : "warp's instruction";
  return std::string("waits at the ") + what + " of line " + std::to_string(fiber.line);
}

void report_divergence(int threads) {
  const Fiber& first = block->fibers[0];
  for (int thread = 1; thread < threads; ++thread) {
    const Fiber& other = block->fibers[thread];
    if (!same_place(first, other)) {
      throw std::runtime_error("divergence: thread 0 " + where(first) + ", thread " + std::to_string(thread) + " " +
                               where(other) + " (block " + std::to_string(block->index) + ")");
    }
  }
}

void resume_all(int threads) {
  ++block->epoch;
  for (int thread = 0; thread < threads && block->error.empty(); ++thread) to_fiber(thread);
}

// Runs a block until its threads have all ended, or come to a barrier of the grid.
void run_block(int threads) {
  if (!block->started) {
    block->started = true;
    for (int thread = 0; thread < threads && block->error.empty(); ++thread) start(thread);
  } else {
    resume_all(threads);
  }
  while (block->error.empty() && !all_wait(0, threads, Wait::done) && !all_wait(0, threads, Wait::grid_barrier)) {
    bool moved = false;
    if (all_wait(0, threads, Wait::barrier)) {
      moved = true;
      resume_all(threads);
    }
    for (int first = 0; first + kGroup <= threads && block->error.empty(); first += kGroup) {
      if (!all_wait(first, first + kGroup, Wait::products)) continue;
      moved = true;
      for (int i = 0; i < kGroup && block->error.empty(); ++i) to_fiber(first + i);
    }
    for (int first = 0; first < threads && block->error.empty(); first += kWarp) {
      while (block->error.empty() && warp_meets(first)) {
        moved = true;
        for (int lane = 0; lane < kWarp && block->error.empty(); ++lane) to_fiber(first + lane);
      }
    }
    if (!moved && block->error.empty()) report_divergence(threads);
  }
  if (!block->error.empty()) throw std::runtime_error(block->error);
}

void prepare(Block& fresh, int64_t index, int threads, int shared_floats, const std::function<void()>& body) {
  fresh.body = &body;
  fresh.index = index;
  fresh.epoch = 0;
  fresh.writes = 0;
  fresh.started = false;
  fresh.error.clear();
  if (static_cast<int>(fresh.fibers.size()) < threads) fresh.fibers.resize(threads);
  fresh.memory.assign(shared_floats, std::nanf(""));
  fresh.touched.assign(shared_floats, Touched());
  fresh.warp_epochs.assign(threads / kWarp, 0);
}

// All blocks, from barrier of the grid to barrier of the grid.
void run_together(int threads) {
  while (true) {
    for (int64_t i = block_count - 1; i >= 0; --i) {
      block = blocks[i].get();
      run_block(threads);
    }
    const Fiber& first = blocks[0]->fibers[0];
    for (int64_t i = 1; i < block_count; ++i) {
      const Fiber& other = blocks[i]->fibers[0];
      if (other.wait != first.wait || other.line != first.line) {
        throw std::runtime_error("divergence: block 0 " + where(first) + ", block " + std::to_string(i) + " " +
                                 where(other));
      }
    }
    if (first.wait == Wait::done) return;
  }
}

Moment now() {
  const int warp = block->current / kWarp;
  return {block->epoch, warp, block->warp_epochs[warp]};
}

// Whether a barrier of the block, or within a warp one of the warp, lies between something earlier and now.
bool ordered(const Moment& earlier) {
  const Moment present = now();
  return earlier.epoch != present.epoch || (earlier.warp == present.warp && earlier.warp_epoch != present.warp_epoch);
}

void fail_race(const char* does, int i, int other, const char* did) {
  fail("race: it " + std::string(does) + " float " + std::to_string(i) + " of shared memory, which thread " +
       std::to_string(other) + " " + did + " with no barrier in between");
}

void on_read(int i, Touched& t) {
  const int me = block->current;
  if (t.writer != me && !ordered(t.written)) fail_race("reads", i, t.writer, "wrote");
  const bool same_epoch = t.read.epoch == block->epoch;
  t.several_warps = same_epoch && (t.several_warps || t.read.warp != me / kWarp);
  t.several_readers = same_epoch && !ordered(t.read) && (t.several_readers || t.reader != me);
  t.reader = me;
  t.read = now();
}

void on_write(int i, Touched& t) {
  const int me = block->current;
  if (t.writer >= 0 && t.writer != me && !ordered(t.written)) fail_race("writes", i, t.writer, "wrote");
  const bool by_other_warp = t.read.epoch == block->epoch && t.several_warps;
  const bool by_other_lane = t.reader >= 0 && (t.reader != me || t.several_readers) && !ordered(t.read);
  if (by_other_warp || by_other_lane) fail_race("writes", i, t.reader, "or another read");
  t.writer = me;
  t.written = now();
  t.write = ++block->writes;
}

// An element of permuted rows of 64 in shared memory.
float element_of_rows(const GroupProduct& product, int from, int row, int column) {
  if (from % 256) fail("misaligned: rows of a product at float " + std::to_string(from));
  const int word_index = from + row * 32 + column / 2, piece = (word_index / 4 ^ word_index / 32) % 8;
  const int at = word_index / 32 * 32 + piece * 4 + word_index % 4;
  const int reader = block->current;
  block->current = reader / kGroup * kGroup + at % kGroup;  // some thread of the group
  const float* word = shared(0, static_cast<int>(block->memory.size()), at, 1, false);
  block->current = reader;
  const Touched& t = block->touched[at];
  if (t.write > block->fibers[t.writer].shown) fail("race: a product reads what was not shown to products");
  uint16_t halves[2];
  std::memcpy(halves, word, sizeof halves);
  return product.value(halves[column % 2]);
}

bool same_product(const GroupProduct& a, const GroupProduct& b) {
  return a.columns == b.columns && a.over_rows == b.over_rows && a.left_at == b.left_at && a.right_at == b.right_at &&
         a.step == b.step;
}

void multiply_group(int first, size_t index) {
  const GroupProduct& product = block->fibers[first].products[index];
  std::vector<float> a(64 * 16), b(16 * product.columns);
  for (int i = 0; i < 64 * 16; ++i) {
    if (product.left_at >= 0) a[i] = element_of_rows(product, product.left_at, i / 16, product.step * 16 + i % 16);
  }
  for (int i = 0; i < 16 * product.columns; ++i) {
    const int k = i / product.columns, n = i % product.columns;
    b[i] = product.over_rows ? element_of_rows(product, product.right_at, k, n)
                             : element_of_rows(product, product.right_at, n, product.step * 16 + k);
  }
  for (int thread = 0; thread < kGroup; ++thread) {
    const GroupProduct& of_thread = block->fibers[first + thread].products[index];
    if (!same_product(product, of_thread)) fail("divergence: threads of a group multiply differently");
    const int warp_row = thread / kWarp * 16, lane = thread % kWarp;
    for (int i = 0; i < 8 && product.left_at < 0; ++i) {
      // Word i / 2: of row lane / 4, 8 below, and 8 columns on the same.
      const int row = warp_row + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      a[row * 16 + column] = product.value(static_cast<uint16_t>(of_thread.left[i / 2] >> (16 * (i % 2))));
    }
  }
  for (int thread = 0; thread < kGroup; ++thread) {
    const GroupProduct& of_thread = block->fibers[first + thread].products[index];
    const int lane = thread % kWarp;
    for (int i = 0; i < product.columns / 2; ++i) {
      const int row = thread / kWarp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float sum = of_thread.adds ? of_thread.c[i] : 0.0f;
      for (int k = 0; k < 16; ++k) sum += a[row * 16 + k] * b[k * product.columns + column];
      of_thread.c[i] = sum;
    }
  }
}

}  // namespace

int thread_index() { return block->current; }
int block_index() { return static_cast<int>(block->index); }
int grid_size() { return static_cast<int>(block_count); }

void barrier(int line) {
  meet(Wait::barrier, line);
  to_scheduler();
}

void grid_barrier(int line) {
  meet(Wait::grid_barrier, line);
  to_scheduler();
}

void warp_barrier(int line) {
  meet(Wait::warp_barrier, line);
  to_scheduler();
}

void meet_in_warp(void* mine, void (*all)(void* const (&lanes)[kWarp]), int line) {
  Fiber& fiber = meet(Wait::meeting, line);
  fiber.brought = mine;
  fiber.all = all;
  to_scheduler();
}

void show_to_products() { block->fibers[block->current].shown = block->writes; }

void add_group_product(const GroupProduct& product) { block->fibers[block->current].products.push_back(product); }

void wait_for_group_products() {
  meet(Wait::products, 0);  // what is waited for tells places apart
  to_scheduler();
  // The group's first thread goes on first.
  const int first = block->current;
  if (first % kGroup) return;
  for (int thread = 1; thread < kGroup; ++thread) {
    if (block->fibers[first + thread].products.size() != block->fibers[first].products.size()) {
      fail("divergence: threads of a group wait for different products");
    }
  }
  for (size_t i = 0; i < block->fibers[first].products.size(); ++i) multiply_group(first, i);
  for (int thread = 0; thread < kGroup; ++thread) block->fibers[first + thread].products.clear();
}

float shuffle_xor(float value, int mask, int line) {
  Fiber& fiber = meet(Wait::shuffle, line);
  fiber.mask = mask;
  fiber.value = value;
  to_scheduler();
  return fiber.value;
}

float* shared(int offset, int count, int i, int width, bool write) {
  if (i < 0 || i + width > count || offset + count > static_cast<int>(block->memory.size())) {
    fail("out of bounds: float " + std::to_string(i) + " of a shared array of " + std::to_string(count));
  }
  if ((offset + i) % width) fail("misaligned: " + std::to_string(width) + " floats at " + std::to_string(offset + i));
  for (int k = 0; k < width; ++k) {
    Touched& t = block->touched[offset + i + k];
    if (t.copier >= 0) {
      fail("race: it touches float " + std::to_string(offset + i + k) + " of shared memory, to which thread " +
           std::to_string(t.copier) + " has a copy under way");
    }
    if (!write && t.writer < 0) fail("uninitialised: float " + std::to_string(i + k) + " of a shared array is read");
    write ? on_write(offset + i + k, t) : on_read(offset + i + k, t);
  }
  return block->memory.data() + offset + i;
}

void copy_async(int offset, int count, int i, const void* from) {
  shared(offset, count, i, 4, true);
  for (int k = 0; k < 4; ++k) block->touched[offset + i + k].copier = block->current;
  block->fibers[block->current].copies.push_back({offset + i, from});
}

void wait_for_copies() {
  for (const Copy& copy : block->fibers[block->current].copies) {
    for (int k = 0; k < 4; ++k) {
      Touched& t = block->touched[copy.to + k];
      t.copier = -1;
      t.written = now();
      t.write = ++block->writes;
    }
    float* to = block->memory.data() + copy.to;
    copy.from ? std::memcpy(to, copy.from, 16) : std::memset(to, 0, 16);
  }
  block->fibers[block->current].copies.clear();
}

void run(int64_t count, int threads, int shared_floats, bool together, const std::function<void()>& body) {
  if (threads % kWarp) throw std::runtime_error("a block must be whole warps, got " + std::to_string(threads));
  block_count = count;
  const int64_t at_once = together ? count : 1;
  while (static_cast<int64_t>(blocks.size()) < at_once) blocks.push_back(std::make_unique<Block>());
  if (together) {
    for (int64_t i = 0; i < count; ++i) prepare(*blocks[i], i, threads, shared_floats, body);
    return run_together(threads);
  }
  block = blocks[0].get();
  for (int64_t index = count - 1; index >= 0; --index) {
    prepare(*block, index, threads, shared_floats, body);
    run_block(threads);
    if (block->fibers[0].wait != Wait::done) {
      throw std::runtime_error("a barrier of the grid in a kernel that was not started by launch_together");
    }
  }
}

}  // namespace bdam::host
