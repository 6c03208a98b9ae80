// The pages of a layer, the rows of a step, and how keys and values are kept in their slots.
#pragma once

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

// -- what all attention has ----------------------------------------------------------------------

// c tanh(x / c), where a form has a c; tanh(x) = 1 - 2 / (exp(2 x) + 1).
inline V capped(V x, const Form& form) {
  if (form.softcap == 0) return x;
  const V e = exponential(mul(x, splat(float(2.0 / form.softcap))));
  const V y = sub(splat(1.0f), div(splat(2.0f), add(e, splat(1.0f))));
  return mul(y, splat(float(form.softcap)));
}

// What was summed up, divided by all weights, a head's sink among them.
template <class T>
void finish(const float* acc, int64_t dim, float top, float total, const Form& form, int64_t head,
            T* out) {
  float by = 1.0f;
  if (form.sinks != nullptr) {
    const float sink = form.sinks[head], high = std::max(top, sink);
    by = std::exp(top - high);
    total = total * by + std::exp(sink - high);
  }
  const V share = splat(by / total);
  by_sixteen(dim, [&](int64_t at, int64_t n) {
    store_some(out + at, mul(load_some(acc + at, n), share), n);
  });
}

}  // namespace penstock
