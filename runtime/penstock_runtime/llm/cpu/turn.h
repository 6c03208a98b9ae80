// Queries and keys turned by their positions (rotary embedding), and kept.
#pragma once

#include <ATen/Parallel.h>

#include <vector>

#include "pages.h"

namespace penstock {

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

}  // namespace penstock
