// Attention of one token over the pages of its row, straight from where they lie: for tokens that
// are decoded one by one, whose time is that of reading the pages.
#pragma once

#include <limits>
#include <vector>

#include "pages.h"

namespace penstock {

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
  std::vector<float> scores, fades;  // of one group: [group, PART]
  std::vector<float> sums, tops, acc;  // of all heads; acc: [heads, dim]
  void fit(int64_t group, int64_t heads, int64_t dim) {
    scores.resize(group * PART);
    fades.resize(group);
    sums.assign(heads, 0.0f);
    tops.assign(heads, -std::numeric_limits<float>::infinity());
    acc.assign(heads * dim, 0.0f);
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
    const V s = capped(mul(load_some(scores + at, n), scale), form);
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
void weigh_group(const Layer& layer, int64_t h, int64_t group, const Scratch& s, float* acc) {
  constexpr int MOST = N == 0 ? 1 : N <= 4 ? 4 : N <= 8 ? 2 : 1;  // what the registers hold
  const int64_t dim = layer.value_dim;
  const float* fades = s.fades.data();
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

// Scores of one group of heads over the chunks, and what they weigh of the values.
template <class T, class K>
void attend_group(const Layer& layer, const Form& form, int64_t h, int64_t group, const T* q,
                  int64_t head_stride, int64_t count, int64_t place, Scratch& s) {
  for (int64_t g = 0; g < group; ++g) {
    float* scores = &s.scores[g * PART];
    with_sixteens(layer.key_dim, [&](auto n) {
      score<T, K, decltype(n)::value>(layer, q + g * head_stride, h, s.chunks, scores);
    });
    rescale<K>(layer.key_scales, layer.kv_heads, h, s.chunks, scores);
    s.fades[g] = soften(scores, count, form, s.tops[place + g], s.sums[place + g]);
    rescale<K>(layer.value_scales, layer.kv_heads, h, s.chunks, scores);
  }
  with_sixteens(layer.value_dim, [&](auto n) {
    weigh_group<K, decltype(n)::value>(layer, h, group, s, &s.acc[place * layer.value_dim]);
  });
}

// One token's queries over positions [from, to) of its row, for heads [first, last) of the cache: a
// part at a time for all of them, since they lie side by side. `q` and `out` are of the first head.
template <class T, class K>
void attend_one(const Layer& layer, const Form& form, const int32_t* table, int64_t first,
                int64_t last, int64_t group, const T* q, int64_t head_stride, int64_t from,
                int64_t to, Scratch& s, T* out) {
  const int64_t dim = layer.value_dim, heads = (last - first) * group;
  s.fit(group, heads, dim);
  for (int64_t at = from; at < to; at += PART) {
    const int64_t count = std::min(PART, to - at);
    cut(s.chunks, table, layer.block_size, at, at + count);
    for (int64_t h = first; h < last; ++h) {
      const int64_t place = (h - first) * group;
      attend_group<T, K>(layer, form, h, group, q + place * head_stride, head_stride, count, place, s);
    }
  }
  for (int64_t g = 0; g < heads; ++g)
    finish(&s.acc[g * dim], dim, s.tops[g], s.sums[g], form, first * group + g, out + g * dim);
}

}  // namespace penstock
