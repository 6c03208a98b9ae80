// Attention over pages on the CPU: new keys and values are stored in their slots, and each packed
// row attends to its own pages. Called through plain C, so that it is built in seconds and does not
// depend on torch's classes; threads are torch's.

#include <ATen/Parallel.h>

#include <atomic>
#include <vector>

#include "many_queries.h"
#include "one_query.h"
#include "pages.h"
#include "turn.h"

namespace penstock {

struct Tile {  // tokens of one row that one thread takes at a time
  int64_t row, first, count;
};

inline std::vector<Tile> tiles_of(const Step& step, int64_t group) {
  const int64_t most = std::max<int64_t>(1, QUERIES / group);
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < step.rows; ++row)
    for (int64_t at = step.starts[row]; at < step.starts[row + 1]; at += most)
      tiles.push_back({row, at, std::min<int64_t>(most, step.starts[row + 1] - at)});
  return tiles;
}

constexpr int64_t FEW = 6;  // queries of a tile that are not worth laying pages out for

template <class T, class K>
void attend_tile(const Layer& layer, const Step& step, const Form& form, const Heads& q,
                 int64_t heads, T* out, const Tile& tile, int64_t first, int64_t last,
                 Scratch& scratch, Tiled& tiled) {
  const int64_t group = heads / layer.kv_heads, dim = layer.value_dim;
  const int32_t* table = step.tables + tile.row * step.pages;
  const int64_t back = step.contexts[tile.row] - step.starts[tile.row + 1];
  const T* queries = (const T*)q.data + tile.first * q.token_stride;
  T* to = out + tile.first * heads * dim;
  if (tile.count > 1 && tile.count * group >= FEW && many_fit<T, K>(layer, group)) {
    for (int64_t h = first; h < last; ++h)
      attend_many<T, K>(layer, form, table, h, group, queries + h * group * q.head_stride,
                        q.token_stride, q.head_stride, tile.first + back, tile.count, tiled,
                        to + h * group * dim, heads * dim);
    return;
  }
  for (int64_t t = 0; t < tile.count; ++t) {
    const int64_t end = tile.first + t + back + 1;
    const int64_t from = form.window > 0 ? std::max<int64_t>(0, end - form.window) : 0;
    attend_one<T, K>(layer, form, table, first, last, group,
                     queries + t * q.token_stride + first * group * q.head_stride, q.head_stride,
                     from, end, scratch, to + (t * heads + first * group) * dim);
  }
}

template <class T, class K>
void attend_rows(const Layer& layer, const Step& step, const Form& form, const Heads& q,
                 int64_t heads, T* out) {
  const std::vector<Tile> tiles = tiles_of(step, heads / layer.kv_heads);
  const int64_t most = at::get_num_threads();
  // Heads of one row are better read together, as long as there is enough for all threads.
  const int64_t apart = int64_t(tiles.size()) < 2 * most && most > 1 ? layer.kv_heads : 1;
  const int64_t works = int64_t(tiles.size()) * apart, heads_each = layer.kv_heads / apart;
  std::atomic<int64_t> next{0};
  // One by one from a counter: the works differ too much in size to be shared out before.
  at::parallel_for(0, std::min(most, works), 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    Tiled tiled;
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t work; (work = next++) < works;) {
        const int64_t first = work % apart * heads_each;
        attend_tile<T, K>(layer, step, form, q, heads, out, tiles[work / apart], first,
                          first + heads_each, scratch, tiled);
      }
  });
}

// With `how`, queries and keys are turned first; the queries are then in `turned`.
template <class T, class K>
void attend(const Layer& layer, const Step& step, const Form& form, const Turn* how, const Heads& q,
            const Heads& k, const Heads& v, int64_t heads, T* turned, T* out) {
  if (how != nullptr) {
    turn_and_keep<T, K>(layer, step, *how, q, k, v, heads, turned);
    const Heads ready{turned, heads * layer.key_dim, layer.key_dim};
    return attend_rows<T, K>(layer, step, form, ready, heads, out);
  }
  at::parallel_for(0, step.tokens, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) keep_token<T, K>(layer, step, k, v, t);
  });
  attend_rows<T, K>(layer, step, form, q, heads, out);
}

template <class T>
void attend_as(const Layer& layer, const Step& step, const Form& form, const Turn* how,
               const Heads& q, const Heads& k, const Heads& v, int64_t heads, void* turned,
               void* out) {
  T *to = (T*)out, *between = (T*)turned;
  if (layer.stored == INT8)
    return attend<T, int8_t>(layer, step, form, how, q, k, v, heads, between, to);
  if (layer.stored == FP8)
    return attend<T, f8>(layer, step, form, how, q, k, v, heads, between, to);
  attend<T, T>(layer, step, form, how, q, k, v, heads, between, to);
}

extern "C" void penstock_attend(const Layer* layer, const Step* step, const Form* form,
                                const Turn* how, int64_t kind, int64_t heads, void* turned,
                                void* out, const void* q, int64_t q_token, int64_t q_head,
                                const void* k, int64_t k_token, int64_t k_head, const void* v,
                                int64_t v_token, int64_t v_head) {
  const Heads queries{q, q_token, q_head}, keys{k, k_token, k_head}, values{v, v_token, v_head};
  auto* as = kind == BF16 ? attend_as<bf16> : kind == F16 ? attend_as<f16> : attend_as<float>;
  as(*layer, *step, *form, how, queries, keys, values, heads, turned, out);
}

}  // namespace penstock
