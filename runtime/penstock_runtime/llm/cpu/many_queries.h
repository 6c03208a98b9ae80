// Attention of several tokens of one row at once: pages are laid out anew, a block at a time, so
// that scores and sums become products of matrices that stay in the cache.
#pragma once

#include <limits>
#include <vector>

#include "pages.h"

namespace penstock {

constexpr int64_t BLOCK = 64;  // positions at a time
constexpr int64_t QUERIES = 64;  // rows of a tile: tokens times heads of one group

// How a product is made: of floats, or of pairs of bf16, which the processor adds up as floats. Both
// go by units of 32 bits.
struct Floats {
  static constexpr int64_t EACH = 1;
  static V more(V sum, const float* a, V b) { return fma(splat(*a), b, sum); }
};
#if defined(PENSTOCK_AVX512) && defined(__AVX512BF16__)
#define PENSTOCK_PAIRS 1
struct Pairs {
  static constexpr int64_t EACH = 2;
  static V more(V sum, const float* a, V b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)splat(*a), (__m512bh)b);
  }
};
#endif

// How much of a product the registers hold: rows, and vectors of each.
#ifdef PENSTOCK_AVX512
constexpr int ROWS = 6, WIDE = 4;
#else
constexpr int ROWS = 6, WIDE = 1;
#endif

// -- c = fade * c + a b for R rows and W vectors; a: [rows, steps], b: [steps, width] -------------

template <class P, int R, int W>
void product(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t steps,
             const float* fade, float* c, int64_t c_stride) {
  V sum[R][W];
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w)
      sum[r][w] = fade == nullptr ? zero() : mul(load(c + r * c_stride + w * LANES), splat(fade[r]));
  for (int64_t s = 0; s < steps; ++s) {
    V part[W];
    for (int w = 0; w < W; ++w) part[w] = load(b + s * b_stride + w * LANES);
    for (int r = 0; r < R; ++r)
      for (int w = 0; w < W; ++w) sum[r][w] = P::more(sum[r][w], a + r * a_stride + s, part[w]);
  }
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w) store(c + r * c_stride + w * LANES, sum[r][w]);
}

template <class P, int W>
void product_rows(int64_t rows, const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                  int64_t steps, const float* fade, float* c, int64_t c_stride) {
  auto by = [&]<int R>(int64_t r) {
    product<P, R, W>(a + r * a_stride, a_stride, b, b_stride, steps,
                     fade == nullptr ? nullptr : fade + r, c + r * c_stride, c_stride);
  };
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS) by.template operator()<ROWS>(r);
  for (; r + 2 <= rows; r += 2) by.template operator()<2>(r);
  for (; r < rows; ++r) by.template operator()<1>(r);
}

template <class P>
void product_all(int64_t rows, int64_t width, const float* a, int64_t a_stride, const float* b,
                 int64_t b_stride, int64_t steps, const float* fade, float* c, int64_t c_stride) {
  int64_t w = 0;
  for (; w + WIDE * LANES <= width; w += WIDE * LANES)
    product_rows<P, WIDE>(rows, a, a_stride, b + w, b_stride, steps, fade, c + w, c_stride);
  for (; w < width; w += LANES)
    product_rows<P, 1>(rows, a, a_stride, b + w, b_stride, steps, fade, c + w, c_stride);
}

// -- laying out ----------------------------------------------------------------------------------

template <class T, class K>
struct Laid {  // as floats
  using P = Floats;
  static void query(const T* q, int64_t dim, float* to) {
    by_sixteen(dim, [&](int64_t at, int64_t n) { store(to + at, load_some(q + at, n), n); });
  }
  static V units(const K* p) { return load(p); }
  static void weights(const float* p, float* to) { std::memcpy(to, p, BLOCK * sizeof(float)); }
  static void values(const K* v, const K*, float by, int64_t at, float* to) {
    store(to + at, mul(load(v + at), splat(by)));
  }
};
#ifdef PENSTOCK_PAIRS
template <>
struct Laid<bf16, bf16> {  // as pairs: of dimensions in queries and keys, of positions in values
  using P = Pairs;
  static void query(const bf16* q, int64_t dim, float* to) { std::memcpy(to, q, dim * 2); }
  static V units(const bf16* p) { return _mm512_loadu_ps((const float*)p); }
  static void weights(const float* p, float* to) {
    for (int64_t at = 0; at < BLOCK; at += 2 * LANES) {
      const auto pair = _mm512_cvtne2ps_pbh(load(p + at + LANES), load(p + at));
      _mm512_storeu_ps(to + at / 2, (V)pair);
    }
  }
  static void values(const bf16* v, const bf16* next, float, int64_t at, float* to) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(v + at)));
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(next + at)));
    store(to + at, _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16))));
  }
};
#endif

struct Tiled {  // what one thread works in
  std::vector<float> queries, keys, values, scores, weights, acc, tops, totals, fades;
  std::vector<int64_t> slots;
  void fit(int64_t key_dim, int64_t value_dim) {
    queries.resize(QUERIES * key_dim);
    keys.resize(key_dim * BLOCK);
    values.resize(BLOCK * value_dim);
    scores.resize(QUERIES * BLOCK);
    weights.resize(QUERIES * BLOCK);
    acc.resize(QUERIES * value_dim);
    for (auto* each : {&tops, &totals, &fades}) each->resize(QUERIES);
    slots.resize(BLOCK);
  }
};

// Keys of a block as [units, positions]; values as [positions, dim], or pairs of positions.
template <class T, class K>
void lay(const Layer& layer, int64_t h, Tiled& s) {
  using L = Laid<T, K>;
  const int64_t heads = layer.kv_heads, dim = layer.key_dim, wide = layer.value_dim;
  constexpr int64_t each = L::P::EACH;
  for (int64_t t = 0; t < BLOCK; t += LANES)
    for (int64_t d = 0; d < dim; d += LANES * each) {
      V a[16];
      for (int i = 0; i < 16; ++i) {
        const int64_t at = s.slots[t + i] * heads + h;
        a[i] = L::units((const K*)layer.keys + at * dim + d);
        if constexpr (sizeof(K) == 1) a[i] = mul(a[i], splat(layer.key_scales[at]));
      }
      transpose(a);
      for (int i = 0; i < 16; ++i) store(&s.keys[(d / each + i) * BLOCK + t], a[i]);
    }
  for (int64_t t = 0; t < BLOCK; t += each) {
    const int64_t at = s.slots[t] * heads + h, next = s.slots[t + each - 1] * heads + h;
    const K* values = (const K*)layer.values;
    const float by = sizeof(K) == 1 ? layer.value_scales[at] : 1.0f;
    for (int64_t d = 0; d < wide; d += LANES)
      L::values(values + at * wide, values + next * wide, by, d, &s.values[t / each * wide]);
  }
}

// -- one tile ------------------------------------------------------------------------------------

// scores of positions [first, end) of one query -> weights, with the running top and total; the
// rest of the block weighs nothing.
inline void soften_block(float* scores, int64_t first, int64_t end, const Form& form, float& top,
                         float& total, float& fade) {
  const V scale = splat(float(form.scale));
  V high = splat(-1e30f);
  for (int64_t at = 0; at < BLOCK; at += LANES) {
    V x = capped(mul(load(scores + at), scale), form);
    if (at < first || at + LANES > end) {
      store(scores + at, x);
      for (int64_t i = at; i < at + LANES; ++i)
        if (i < first || i >= end) scores[i] = -1e30f;
      x = load(scores + at);
    }
    store(scores + at, x);
    high = larger(high, x);
  }
  const float before = top;
  top = std::max(top, largest(high));
  V more = zero();
  for (int64_t at = 0; at < BLOCK; at += LANES) {
    const V p = exponential(sub(load(scores + at), splat(top)));
    store(scores + at, p);
    more = add(more, p);
  }
  fade = std::exp(before - top);
  total = total * fade + sum(more);
}

// Tokens [0, count) of a row, the first at position `first`, for one group of heads. `q` and `out`
// are of the first token and head.
template <class T, class K>
void attend_many(const Layer& layer, const Form& form, const int32_t* table, int64_t h,
                 int64_t group, const T* q, int64_t token_stride, int64_t head_stride,
                 int64_t first, int64_t count, Tiled& s, T* out, int64_t out_stride) {
  using L = Laid<T, K>;
  using P = typename L::P;
  const int64_t units = layer.key_dim / P::EACH, dim = layer.value_dim, rows = count * group;
  const int64_t size = layer.block_size, last = first + count;
  s.fit(layer.key_dim, dim);
  std::fill(s.tops.begin(), s.tops.end(), -1e30f);
  std::fill(s.totals.begin(), s.totals.end(), 0.0f);
  std::fill(s.acc.begin(), s.acc.end(), 0.0f);
  for (int64_t r = 0; r < rows; ++r)
    L::query(q + r / group * token_stride + r % group * head_stride, layer.key_dim,
             &s.queries[r * units]);
  const int64_t from = form.window > 0 ? std::max<int64_t>(0, first + 1 - form.window) : 0;
  for (int64_t at = from; at < last; at += BLOCK) {
    for (int64_t t = 0; t < BLOCK; ++t) {  // behind the end, the last once more
      const int64_t place = std::min(at + t, last - 1);
      s.slots[t] = int64_t(table[place / size]) * size + place % size;
    }
    lay<T, K>(layer, h, s);
    product_all<P>(rows, BLOCK, s.queries.data(), units, s.keys.data(), BLOCK, units, nullptr,
                   s.scores.data(), BLOCK);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t end = first + r / group + 1;
      const int64_t begin = form.window > 0 ? std::max<int64_t>(0, end - form.window) : 0;
      float* scores = &s.scores[r * BLOCK];
      soften_block(scores, begin - at, end - at, form, s.tops[r], s.totals[r], s.fades[r]);
      L::weights(scores, &s.weights[r * BLOCK]);
    }
    product_all<P>(rows, dim, s.weights.data(), BLOCK, s.values.data(), dim, BLOCK / P::EACH,
                   s.fades.data(), s.acc.data(), dim);
  }
  for (int64_t r = 0; r < rows; ++r)
    finish(&s.acc[r * dim], dim, s.tops[r], s.totals[r], form, h * group + r % group,
           out + r / group * out_stride + r % group * dim);
}

// Whether a layer's heads can be laid out so.
template <class T, class K>
bool many_fit(const Layer& layer, int64_t group) {
  const int64_t step = LANES * Laid<T, K>::P::EACH;
  return layer.key_dim % step == 0 && layer.value_dim % LANES == 0 && group <= QUERIES;
}

}  // namespace penstock
