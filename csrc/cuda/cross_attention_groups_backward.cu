#include <algorithm>

#include "cross_attention_groups.cuh"
#include "cross_attention_walk.cuh"

namespace bdam {
namespace attention {
namespace groups {
namespace {

// The first blocks of a head walk from its keys, the others from its queries. Streamed, there is a launch of either, and
// queries leave their deltas to keys; else both compute them.
struct Parameters {
  Backward backward;
  Course course;

  BDAM_DEVICE const Call& call() const { return backward.walk.call; }
};

// What a group multiplies: its own tile of two matrices, and a chunk of the other two with two numbers a row.
template <class M>
struct Chunk {
  M own_x, own_y, x, y;
  Shared first, second;
};

// s = own x times x^T, grad = own y times y^T.
template <class M, int kTiles>
BDAM_DEVICE void multiply_both(const Chunk<M>& chunk, Tile (&s)[kTiles], Tile (&grad)[kTiles]) {
  begin_products();
  multiply_rows(s, chunk.own_x, chunk.x);
  multiply_rows(grad, chunk.own_y, chunk.y);
  end_products();
  wait_for_products(s, grad);
}

// Makes of scores and dP the weights, in s, and dS, in grad: make(s, grad, half, i) for all that this lane has, whose
// column of a pair is i % 2; before every four of them, next(column) with the first of the pair.
template <int kTiles, class Next, class Make>
BDAM_DEVICE void each_pair(Tile (&s)[kTiles], Tile (&grad)[kTiles], Next next, Make make) {
#pragma unroll
  for (int i = 0; i < 8 * kTiles; ++i) {
    if (i % 4 == 0) next(i / 4 * 8 + 2 * (lane_index() & 3));
    make(at(s[i / 8], i % 8), at(grad[i / 8], i % 8), i % 4 / 2, i % 2);
  }
}

// Of 16 keys; the other side are queries.
template <class Type>
struct OfKeys {
  using M = Rows<Type>;
  static constexpr int kNumbers = 2;
  Accumulator of_k[8], of_v[8];

  BDAM_DEVICE static const Tensor& own(const Parameters& p, const Place& place, int which) {
    return which ? p.call().v[1 - place.direction] : p.call().k[1 - place.direction];
  }
  BDAM_DEVICE static const Tensor& other(const Parameters& p, const Place& place, int which) {
    return which ? p.backward.walk.grad_out[place.direction] : p.call().q[place.direction];
  }
  // The logarithm or the delta of a query.
  BDAM_DEVICE static float number(const Parameters& p, const Place& place, int which, int query) {
    const Walk& walk = p.backward.walk;
    const Tensor& numbers = which ? walk.deltas[place.direction] : walk.logs[place.direction];
    return query < numbers.size[2] ? place.row_numbers(numbers)[query] : which ? 0.0f : INFINITY;
  }
  // Those of `rows` queries, which leave none.
  BDAM_DEVICE static void load_numbers(const Parameters& p, const Place& place, int rows, const Shared& logs,
                                       const Shared& deltas, int threads) {
    const Walk& walk = p.backward.walk;
    place.load_numbers(walk.logs[place.direction], 0, rows, INFINITY, logs, threads);
    store_deltas<M, 4>(place.rows<Type>(walk.out[place.direction]), place.rows<Type>(walk.grad_out[place.direction]), 0,
                       rows, deltas, threads);
  }

  BDAM_DEVICE void begin(const Parameters&, const Place&, int, bool) {}

  template <int kTiles>
  BDAM_DEVICE void add(const Parameters& p, const Chunk<M>& chunk, bool exist) {
    Tile s[kTiles], grad[kTiles];
    multiply_both(chunk, s, grad);
    if (exist) {
      Vec<2> log, delta;
      const auto load = [&](int query) {
        log = chunk.first.template load<2>(query);
        delta = chunk.second.template load<2>(query);
      };
      each_pair(s, grad, load, [&](float& x, float& dx, int, int i) {
        x = exp2(multiply_rounded(x, p.call().scale) - log.v[i]);
        dx = x * (dx - delta.v[i]);
      });
    }
    const Weights<M, kTiles> weights(s), grads(grad);
    begin_products();
    weights.add_product(of_v, chunk.y);
    grads.add_product(of_k, chunk.x);
    end_products();
    wait();
  }

  BDAM_DEVICE void wait() { wait_for_products(of_k, of_v); }

  // first: of the keys. What no query sees has computed with weights that are none.
  BDAM_DEVICE void store(const Parameters& p, const Place& place, int first) {
    const int from = 1 - place.direction, key = first + (lane_index() >> 2);
    const float of_score = p.call().scale * kLn2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (key + 8 * half >= p.call().k[from].size[2] || place.sees(p.call(), key + 8 * half)) continue;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        of_k[i].v[2 * half] = of_k[i].v[2 * half + 1] = of_v[i].v[2 * half] = of_v[i].v[2 * half + 1] = 0.0f;
      }
    }
    store_rows(of_k, {of_score, of_score}, place.rows<Type>(p.backward.grad_k[from]), first);
    store_rows(of_v, {1.0f, 1.0f}, place.rows<Type>(p.backward.grad_v[from]), first);
  }
};

// Of 16 queries; the other side are keys.
template <class Type>
struct OfQueries {
  using M = Rows<Type>;
  static constexpr int kNumbers = 1;
  Accumulator of_q[8];
  float log[2], delta[2];

  BDAM_DEVICE static const Tensor& own(const Parameters& p, const Place& place, int which) {
    return which ? p.backward.walk.grad_out[place.direction] : p.call().q[place.direction];
  }
  BDAM_DEVICE static const Tensor& other(const Parameters& p, const Place& place, int which) {
    return which ? p.call().v[1 - place.direction] : p.call().k[1 - place.direction];
  }
  // Whether a key is seen; one that does not exist has neither a score nor a gradient.
  BDAM_DEVICE static float number(const Parameters& p, const Place& place, int, int key) {
    return key < p.call().k[1 - place.direction].size[2] && place.sees(p.call(), key) ? 1.0f : 0.0f;
  }
  BDAM_DEVICE static void load_numbers(const Parameters& p, const Place& place, int rows, const Shared& visible,
                                       const Shared&, int threads) {
    const int keys = static_cast<int>(other(p, place, 0).size[2]);
    Visible{visible}.fill(p.call(), place, 0, rows, keys, threads);
  }

  // first: of the queries. leaves: whether deltas are wanted by others.
  BDAM_DEVICE void begin(const Parameters& p, const Place& place, int first, bool leaves) {
    const Walk& walk = p.backward.walk;
    const int of = place.direction, queries = static_cast<int>(walk.logs[of].size[2]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int query = first + (lane_index() >> 2) + 8 * half;
      log[half] = query < queries ? place.row_numbers(walk.logs[of])[query] : INFINITY;
      delta[half] =
          row_sum(part_of_delta<M>(place.rows<Type>(walk.out[of]), place.rows<Type>(walk.grad_out[of]), query));
      if (leaves && (lane_index() & 3) == 0 && query < queries) place.row_numbers(walk.deltas[of])[query] = delta[half];
    }
  }

  template <int kTiles>
  BDAM_DEVICE void add(const Parameters& p, const Chunk<M>& chunk, bool exist) {
    Tile s[kTiles], grad[kTiles];
    multiply_both(chunk, s, grad);
    if (exist) {
      Vec<2> visible;
      const auto load = [&](int key) { visible = chunk.first.template load<2>(key); };
      each_pair(s, grad, load, [&](float& x, float& dx, int half, int i) {
        x = visible.v[i] != 0 ? exp2(multiply_rounded(x, p.call().scale) - log[half]) : 0.0f;
        dx = x * (dx - delta[half]);
      });
    }
    const Weights<M, kTiles> grads(grad);
    begin_products();
    grads.add_product(of_q, chunk.x);
    end_products();
    wait();
  }

  BDAM_DEVICE void wait() { wait_for_products(of_q); }

  BDAM_DEVICE void store(const Parameters& p, const Place& place, int first) {
    const float of_score = p.call().scale * kLn2;
    store_rows(of_q, {of_score, of_score}, place.rows<Type>(p.backward.grad_q[place.direction]), first);
  }
};

template <class Visitor, class Type, bool kStreamed>
BDAM_DEVICE void walk(const Parameters& p, const Place& place, int block) {
  constexpr int kThreads = kGroups<kStreamed> * kGroupThreads, kOwnTiles = 2 * kGroups<kStreamed>;
  const Member me;
  const Others<Type, kStreamed> others{p.course.rows};
  const int own_rows = static_cast<int>(Visitor::own(p, place, 0).size[2]);
  const int other_rows = static_cast<int>(Visitor::other(p, place, 0).size[2]);
  const auto fetch = [&](int start, int most) {
    const int rows = min(most, whole_tiles(other_rows - start));
    for (int which = 0; which < 2; ++which) {
      others.matrix(which, start)
          .fetch(place.rows<Type>(Visitor::other(p, place, which)), start, rows, thread_index(), kThreads);
    }
  };
  // Of a chunk, a thread has one number.
  const int which = thread_index() / kChunk, row = thread_index() % kChunk;
  const auto number = [&](int start) {
    return which < Visitor::kNumbers ? Visitor::number(p, place, which, start + row) : 0.0f;
  };
  const auto store_number = [&](int start, float x) {
    if (which < Visitor::kNumbers) others.numbers(which, kOwnTiles, start).store(row, x);
  };

#pragma unroll 1
  for (int round = 0; round < p.course.rounds; ++round) {
    const int tile = me.tile<kStreamed>(block, p.course, round), first = tile + me.row;
    if (round > 0) barrier();  // the last tile has been read
    for (int w = 0; w < 2; ++w) {
      others.own(2 * me.group + w)
          .fetch(place.rows<Type>(Visitor::own(p, place, w)), tile, kGroupRows, me.thread, kGroupThreads);
    }
    if (round == 0) {
      fetch(0, kStreamed ? kChunk : p.course.rows);
      if constexpr (kStreamed) {
        store_number(0, number(0));
      } else {
        Visitor::load_numbers(p, place, whole_tiles(other_rows), others.numbers(0, kOwnTiles, 0),
                              others.numbers(1, kOwnTiles, 0), kThreads);
      }
    }
    Visitor visitor;
    visitor.begin(p, place, first, kStreamed);
    visitor.wait();  // for nothing: what it begins with is then in its registers
    each_chunk(other_rows, [&](auto tiles, int start) {
      const int next = start + kChunk;
      const bool goes_on = kStreamed && next < other_rows;
      if (kStreamed || start == 0) receive();
      if (goes_on) fetch(next, kChunk);
      const float next_number = goes_on ? number(next) : 0.0f;
      if (tile < own_rows) {
        const Chunk<Rows<Type>> chunk{others.own(2 * me.group),  others.own(2 * me.group + 1),
                                      others.matrix(0, start),   others.matrix(1, start),
                                      others.numbers(0, kOwnTiles, start), others.numbers(1, kOwnTiles, start)};
        visitor.template add<decltype(tiles)::value>(p, chunk, first < own_rows);
      }
      if (goes_on) store_number(next, next_number);
    });
    if (first < own_rows) visitor.store(p, place, first);
  }
}

template <class Type, bool kStreamed>
BDAM_KERNEL(kGroups<kStreamed>* kGroupThreads, kStreamed ? 1 : 3)
cross_attention_group_backward_kernel(BDAM_PARAMETER Parameters p) {
  const Place place(p.call());
  const int key_blocks = p.backward.walk.key_blocks[place.direction];
  if (place.block < key_blocks) {
    walk<OfKeys<Type>, Type, kStreamed>(p, place, place.block);
  } else {
    walk<OfQueries<Type>, Type, kStreamed>(p, place, place.block - key_blocks);
  }
}

template <class Type, bool kStreamed>
void start(Parameters p, bool of_keys, bool of_queries, int64_t stream) {
  Walk& walk = p.backward.walk;
  Call& call = walk.call;
  for (int of = 0; of < 2; ++of) {
    walk.key_blocks[of] = of_keys ? blocks_of<kStreamed>(p.course, call.k[1 - of].size[2]) : 0;
    call.blocks[of] = walk.key_blocks[of] + (of_queries ? blocks_of<kStreamed>(p.course, call.q[of].size[2]) : 0);
  }
  launch(cross_attention_group_backward_kernel<Type, kStreamed>, heads_in(call) * (call.blocks[0] + call.blocks[1]),
         kGroups<kStreamed> * kGroupThreads,
         static_cast<int>(Others<Type, kStreamed>::floats(p.course.rows, 2 * kGroups<kStreamed>, 2)), p, stream);
}

}  // namespace

void backward(const Backward& backward, int64_t stream) {
  const Call& call = backward.walk.call;
  with_kernel(call, [&](auto type, auto is_streamed) {
    using Type = decltype(type);
    const Parameters p{backward, course_of(call)};
    if constexpr (is_streamed) {
      start<Type, true>(p, false, true, stream);
      start<Type, true>(p, true, false, stream);
    } else {
      start<Type, false>(p, true, true, stream);
    }
  });
}

}  // namespace groups
}  // namespace attention
}  // namespace bdam
