// Attention over pages on the CPU: new keys and values are stored in their slots, and each packed
// row attends to its own pages. Called through plain C, so that it is built in seconds and does not
// depend on torch's classes; threads are torch's.

#include <ATen/Parallel.h>

#include <atomic>
#include <limits>
#include <vector>

#include "norm.h"
#include "vector.h"

namespace penstock {

extern "C" {
struct Layer {  // keys, values: [blocks, block size, kv heads, dim]; scales: [.., .., kv heads]
  void* keys;
  void* values;
  float* key_scales;
  float* value_scales;
  int64_t kv_heads, key_dim, value_dim, block_size;
  int64_t stored;  // Kind of what is kept
};
struct Step {  // rows of packed tokens; tables: [rows, pages]
  const int32_t* tables;
  const int32_t* contexts;
  const int32_t* starts;
  const int64_t* slots;
  int64_t rows, pages, tokens;
};
struct Form {
  double scale, softcap;  // softcap 0: none
  int64_t window;         // 0: none
  const float* sinks;     // [heads], or null
};
}

struct Heads {  // [tokens, heads, dim], the last dense
  const void* data;
  int64_t token_stride, head_stride;
};

// -- keeping -------------------------------------------------------------------------------------

template <class T>
void keep(T* to, float*, const T* from, int64_t dim) {
  std::memcpy(to, from, dim * sizeof(T));
}

inline float most(const int8_t*) { return 127.0f; }
inline float most(const f8*) { return 448.0f; }

template <class K, class T>
void keep(K* to, float* scale, const T* from, int64_t dim) {
  V top = zero();
  by_sixteen(dim, [&](int64_t at, int64_t n) { top = larger(top, size_of(load_some(from + at, n))); });
  *scale = largest(top) / most(to);
  const V by = splat(std::max(*scale, 1e-30f));
  by_sixteen(dim, [&](int64_t at, int64_t n) {
    store_some(to + at, div(load_some(from + at, n), by), n);
  });
}

template <class T, class K>
void keep_token(const Layer& layer, const Step& step, const Heads& k, const Heads& v, int64_t t) {
  for (int64_t h = 0; h < layer.kv_heads; ++h) {
    const int64_t at = step.slots[t] * layer.kv_heads + h;
    keep((K*)layer.keys + at * layer.key_dim, layer.key_scales + at,
         (const T*)k.data + t * k.token_stride + h * k.head_stride, layer.key_dim);
    keep((K*)layer.values + at * layer.value_dim, layer.value_scales + at,
         (const T*)v.data + t * v.token_stride + h * v.head_stride, layer.value_dim);
  }
}

// -- scores --------------------------------------------------------------------------------------

// A query as it is multiplied: floats, or pairs of bf16 where the processor multiplies those.
template <class T, class K, int N>
struct Query {
  V part[N];
  explicit Query(const T* q) {
    for (int j = 0; j < N; ++j) part[j] = load(q + j * LANES);
  }
  V with(const K* k) const {
    V s = mul(part[0], load(k));
    for (int j = 1; j < N; ++j) s = fma(part[j], load(k + j * LANES), s);
    return s;
  }
};
#if defined(PENSTOCK_AVX512) && defined(__AVX512BF16__)
template <int N>
  requires(N % 2 == 0)
struct Query<bf16, bf16, N> {
  __m512bh part[N / 2];
  explicit Query(const bf16* q) {
    for (int j = 0; j < N / 2; ++j) part[j] = (__m512bh)_mm512_loadu_si512(q + j * 32);
  }
  V with(const bf16* k) const {
    V s = zero();
    for (int j = 0; j < N / 2; ++j)
      s = _mm512_dpbf16_ps(s, part[j], (__m512bh)_mm512_loadu_si512(k + j * 32));
    return s;
  }
};
#endif

// The products of a query with `count` (at most 16) keys; what is behind them repeats the last.
template <int N, class T, class K>
inline V products(const Query<T, K, N>& q, const K* keys, int64_t stride, int64_t count) {
  V each[16];
  if (count == LANES) {
    for (int t = 0; t < 16; ++t) each[t] = q.with(keys + t * stride);
  } else {
    for (int t = 0; t < 16; ++t) each[t] = q.with(keys + std::min<int64_t>(t, count - 1) * stride);
  }
  return sums(each);
}

template <class T, class K>
inline V products(const T* q, const K* keys, int64_t dim, int64_t stride, int64_t count) {
  float found[16] = {};
  for (int64_t t = 0; t < count; ++t) {
    V s = zero();
    by_sixteen(dim, [&](int64_t at, int64_t n) {
      s = fma(load_some(q + at, n), load_some(keys + t * stride + at, n), s);
    });
    found[t] = sum(s);
  }
  return load(found);
}

// -- one query of one group of heads -------------------------------------------------------------

constexpr int64_t PART = 256;  // positions whose scores are held at a time

struct Chunk {  // at most 16 positions of one page
  int64_t slot, count, at;
};

struct Scratch {
  std::vector<Chunk> chunks;
  std::vector<float> scores, sums, tops, fades, acc;  // scores: [group, PART]; acc: [group, dim]
  void fit(int64_t group, int64_t dim) {
    scores.resize(group * PART);
    sums.resize(group);
    tops.resize(group);
    fades.resize(group);
    acc.resize(group * dim);
  }
};

// The chunks of positions [from, to) of a row.
inline void cut(std::vector<Chunk>& chunks, const int32_t* table, int64_t size, int64_t from,
                int64_t to) {
  chunks.clear();
  for (int64_t at = from; at < to;) {
    const int64_t inside = at % size;
    const int64_t count = std::min({LANES, size - inside, to - at});
    chunks.push_back({int64_t(table[at / size]) * size + inside, count, at - from});
    at += count;
  }
}

template <class T, class K, int N>
void score(const Layer& layer, const T* q, int64_t h, const std::vector<Chunk>& chunks, float* out) {
  const int64_t stride = layer.kv_heads * layer.key_dim;
  const K* keys = (const K*)layer.keys + h * layer.key_dim;
  if constexpr (N > 0) {
    const Query<T, K, N> query(q);
    for (const Chunk& c : chunks)
      store(out + c.at, products<N>(query, keys + c.slot * stride, stride, c.count), c.count);
  } else {
    for (const Chunk& c : chunks)
      store(out + c.at, products(q, keys + c.slot * stride, layer.key_dim, stride, c.count), c.count);
  }
}

// Scores times a scale of their own, where what is kept has one.
template <class K>
void rescale(const float* scales, int64_t kv_heads, int64_t h, const std::vector<Chunk>& chunks,
             float* scores) {
  if constexpr (sizeof(K) == 1) {
    for (const Chunk& c : chunks)
      for (int64_t t = 0; t < c.count; ++t)
        scores[c.at + t] *= scales[(c.slot + t) * kv_heads + h];
  }
}

// scores -> exp(scores - top), with the running top and sum; what was summed before is to be
// multiplied by what is returned.
inline float soften(float* scores, int64_t count, const Form& form, float& top, float& total) {
  const V scale = splat(float(form.scale));
  V high = splat(-std::numeric_limits<float>::infinity());
  by_sixteen(count, [&](int64_t at, int64_t n) {
    V s = mul(load_some(scores + at, n), scale);
    if (form.softcap != 0) {  // c tanh(s / c), tanh(x) = 1 - 2 / (exp(2 x) + 1)
      const V e = exponential(mul(s, splat(float(2.0 / form.softcap))));
      s = sub(splat(1.0f), div(splat(2.0f), add(e, splat(1.0f))));
      s = mul(s, splat(float(form.softcap)));
    }
    store_some(scores + at, s, n);
    if (n == LANES) {
      high = larger(high, s);
    } else {
      for (int64_t i = 0; i < n; ++i) high = larger(high, splat(scores[at + i]));
    }
  });
  const float before = top;
  top = std::max(top, largest(high));
  const V down = splat(top);
  V more = zero();
  by_sixteen(count, [&](int64_t at, int64_t n) {
    const V p = exponential(sub(load_some(scores + at, n), down));
    store_some(scores + at, p, n);
    more = add(more, n == LANES ? p : load(scores + at, n));
  });
  const float fade = std::exp(before - top);
  total = total * fade + sum(more);
  return fade;
}

// acc[h] = acc[h] * fade[h] + sum over positions of scores[h] * values, for H heads at once.
template <class K, int H, int N>
void weigh(const Layer& layer, int64_t h, const std::vector<Chunk>& chunks, const float* scores,
           const float* fades, float* acc) {
  const int64_t stride = layer.kv_heads * layer.value_dim;
  const K* values = (const K*)layer.values + h * layer.value_dim;
  V sum[H][N];
  for (int g = 0; g < H; ++g)
    for (int j = 0; j < N; ++j)
      sum[g][j] = mul(load(acc + g * layer.value_dim + j * LANES), splat(fades[g]));
  for (const Chunk& c : chunks) {
    const K* v = values + c.slot * stride;
    for (int64_t t = 0; t < c.count; ++t, v += stride) {
      V p[H];
      for (int g = 0; g < H; ++g) p[g] = splat(scores[g * PART + c.at + t]);
      for (int j = 0; j < N; ++j) {
        const V part = load(v + j * LANES);
        for (int g = 0; g < H; ++g) sum[g][j] = fma(p[g], part, sum[g][j]);
      }
    }
  }
  for (int g = 0; g < H; ++g)
    for (int j = 0; j < N; ++j) store(acc + g * layer.value_dim + j * LANES, sum[g][j]);
}

template <class K>
void weigh_any(const Layer& layer, int64_t h, const std::vector<Chunk>& chunks, const float* scores,
               float fade, float* acc) {
  const int64_t dim = layer.value_dim, stride = layer.kv_heads * dim;
  const K* values = (const K*)layer.values + h * dim;
  by_sixteen(dim, [&](int64_t at, int64_t n) {
    V sum = mul(load_some(acc + at, n), splat(fade));
    for (const Chunk& c : chunks)
      for (int64_t t = 0; t < c.count; ++t)
        sum = fma(splat(scores[c.at + t]), load_some(values + (c.slot + t) * stride + at, n), sum);
    store_some(acc + at, sum, n);
  });
}

template <class K, int N>
void weigh_group(const Layer& layer, int64_t h, int64_t group, Scratch& s) {
  constexpr int MOST = N == 0 ? 1 : N <= 4 ? 4 : N <= 8 ? 2 : 1;  // what the registers hold
  const int64_t dim = layer.value_dim;
  const float* fades = s.fades.data();
  float* acc = s.acc.data();
  int64_t g = 0;
  if constexpr (N > 0) {
    for (; g + MOST <= group; g += MOST)
      weigh<K, MOST, N>(layer, h, s.chunks, &s.scores[g * PART], fades + g, acc + g * dim);
    if constexpr (MOST == 4)
      for (; g + 2 <= group; g += 2)
        weigh<K, 2, N>(layer, h, s.chunks, &s.scores[g * PART], fades + g, acc + g * dim);
    for (; g < group; ++g)
      weigh<K, 1, N>(layer, h, s.chunks, &s.scores[g * PART], fades + g, acc + g * dim);
  } else {
    for (; g < group; ++g)
      weigh_any<K>(layer, h, s.chunks, &s.scores[g * PART], fades[g], acc + g * dim);
  }
}

// How many sixteens a dimension has, as a constant for those that are usual; else 0.
template <class F>
inline void with_sixteens(int64_t dim, F&& f) {
  switch (dim) {
    case 64: return f(std::integral_constant<int, 4>());
    case 128: return f(std::integral_constant<int, 8>());
    case 32: return f(std::integral_constant<int, 2>());
    case 80: return f(std::integral_constant<int, 5>());
    case 96: return f(std::integral_constant<int, 6>());
    case 256: return f(std::integral_constant<int, 16>());
    default: return f(std::integral_constant<int, 0>());
  }
}

// One token's queries of one group of heads over positions [from, to) of its row.
template <class T, class K>
void attend_one(const Layer& layer, const Form& form, const int32_t* table, int64_t h,
                int64_t group, const T* q, int64_t head_stride, int64_t from, int64_t to,
                Scratch& s, T* out) {
  const int64_t dim = layer.value_dim;
  s.fit(group, dim);
  std::fill(s.sums.begin(), s.sums.end(), 0.0f);
  std::fill(s.tops.begin(), s.tops.end(), -std::numeric_limits<float>::infinity());
  std::fill(s.acc.begin(), s.acc.end(), 0.0f);
  for (int64_t at = from; at < to; at += PART) {
    const int64_t count = std::min(PART, to - at);
    cut(s.chunks, table, layer.block_size, at, at + count);
    for (int64_t g = 0; g < group; ++g) {
      float* scores = &s.scores[g * PART];
      with_sixteens(layer.key_dim, [&](auto n) {
        score<T, K, decltype(n)::value>(layer, q + g * head_stride, h, s.chunks, scores);
      });
      rescale<K>(layer.key_scales, layer.kv_heads, h, s.chunks, scores);
      s.fades[g] = soften(scores, count, form, s.tops[g], s.sums[g]);
      rescale<K>(layer.value_scales, layer.kv_heads, h, s.chunks, scores);
    }
    with_sixteens(dim, [&](auto n) {
      weigh_group<K, decltype(n)::value>(layer, h, group, s);
    });
  }
  for (int64_t g = 0; g < group; ++g) {
    float total = s.sums[g], by = 1.0f;
    if (form.sinks != nullptr) {
      const float sink = form.sinks[h * group + g], top = std::max(s.tops[g], sink);
      by = std::exp(s.tops[g] - top);
      total = total * by + std::exp(sink - top);
    }
    const V share = splat(by / total);
    by_sixteen(dim, [&](int64_t at, int64_t n) {
      store_some(out + g * dim + at, mul(load_some(&s.acc[g * dim + at], n), share), n);
    });
  }
}

// -- turning -------------------------------------------------------------------------------------

struct Turn {  // cosine, sine: [tokens, key dim]; norms: [key dim] each, or null
  const void* cosine;
  const void* sine;
  const void* q_norm;
  const void* k_norm;
  double epsilon;
  int64_t style;
};

// A head's query or key, normalised if there are weights for that, turned by its position. Rounded
// wherever the model's own code rounds.
template <class T>
void turn(const T* from, const T* norm, const Turn& how, int64_t t, int64_t dim, T* to) {
  const T* cosine = (const T*)how.cosine + t * dim;
  const T* sine = (const T*)how.sine + t * dim;
  const T* kind = nullptr;
  T held[1024];
  if (norm != nullptr) {
    normalise(from, norm, dim, float(how.epsilon), how.style, held);
    from = held;
  }
  const int64_t half = dim / 2;
  by_sixteen(half, [&](int64_t at, int64_t n) {
    const V a = load_some(from + at, n), b = load_some(from + half + at, n);
    const V left = as_kept(mul(a, load_some(cosine + at, n)), kind);
    const V down = as_kept(mul(b, load_some(sine + at, n)), kind);
    const V right = as_kept(mul(b, load_some(cosine + half + at, n)), kind);
    const V up = as_kept(mul(a, load_some(sine + half + at, n)), kind);
    store_some(to + at, sub(left, down), n);
    store_some(to + half + at, add(right, up), n);
  });
}

template <class T, class K>
void turn_and_keep(const Layer& layer, const Step& step, const Turn& how, const Heads& q,
                   const Heads& k, const Heads& v, int64_t heads, T* turned) {
  const int64_t dim = layer.key_dim;
  at::parallel_for(0, step.tokens, 16, [&](int64_t begin, int64_t end) {
    std::vector<T> keys(layer.kv_heads * dim);
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h)
        turn((const T*)q.data + t * q.token_stride + h * q.head_stride, (const T*)how.q_norm, how,
             t, dim, turned + (t * heads + h) * dim);
      for (int64_t h = 0; h < layer.kv_heads; ++h)
        turn((const T*)k.data + t * k.token_stride + h * k.head_stride, (const T*)how.k_norm, how,
             t, dim, &keys[h * dim]);
      keep_token<T, K>(layer, step, Heads{keys.data(), 0, dim}, v, t);
    }
  });
}

// -- all rows ------------------------------------------------------------------------------------

constexpr int64_t TILE = 8;  // tokens of one row that one thread takes at a time

struct Tile {
  int64_t row, first, count;
};

inline std::vector<Tile> tiles_of(const Step& step) {
  std::vector<Tile> tiles;
  for (int64_t row = 0; row < step.rows; ++row)
    for (int64_t at = step.starts[row]; at < step.starts[row + 1]; at += TILE)
      tiles.push_back({row, at, std::min<int64_t>(TILE, step.starts[row + 1] - at)});
  return tiles;
}

template <class T, class K>
void attend_tile(const Layer& layer, const Step& step, const Form& form, const Heads& q,
                 int64_t heads, T* out, const Tile& tile, int64_t h, Scratch& scratch) {
  const int64_t group = heads / layer.kv_heads;
  const int32_t* table = step.tables + tile.row * step.pages;
  const int64_t back = step.contexts[tile.row] - step.starts[tile.row + 1];
  for (int64_t t = tile.first; t < tile.first + tile.count; ++t) {
    const int64_t to = t + back + 1;
    const int64_t from = form.window > 0 ? std::max<int64_t>(0, to - form.window) : 0;
    attend_one<T, K>(layer, form, table, h, group,
                     (const T*)q.data + t * q.token_stride + h * group * q.head_stride,
                     q.head_stride, from, to, scratch, out + (t * heads + h * group) * layer.value_dim);
  }
}

template <class T, class K>
void attend_rows(const Layer& layer, const Step& step, const Form& form, const Heads& q,
                 int64_t heads, T* out) {
  const std::vector<Tile> tiles = tiles_of(step);
  const int64_t works = int64_t(tiles.size()) * layer.kv_heads;
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), works);
  std::atomic<int64_t> next{0};
  // One by one from a counter: the works differ too much in size to be shared out before.
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t thread = begin; thread < end; ++thread)
      for (int64_t work; (work = next++) < works;)
        attend_tile<T, K>(layer, step, form, q, heads, out, tiles[work / layer.kv_heads],
                          work % layer.kv_heads, scratch);
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
