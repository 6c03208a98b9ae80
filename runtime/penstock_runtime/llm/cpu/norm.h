// The root-mean-square norm in the ways that models write it.
#pragma once

#include "vector.h"

namespace penstock {

enum Kind : int64_t { F32, BF16, F16, INT8, FP8 };  // what a tensor holds
enum Style : int64_t {
  ROUNDED,  // weight * rounded(x / rms): Llama
  ONE_ADDED,  // x / rms * (1 + weight), rounded at the end: Gemma
  PLAIN,  // x / rms * weight, rounded at the end
};

template <class T>
void normalise(const T* x, const T* weight, int64_t dim, float epsilon, int64_t style, T* out) {
  V squares = zero();
  by_sixteen(dim, [&](int64_t at, int64_t n) {
    const V part = load_some(x + at, n);
    squares = fma(part, part, squares);
  });
  const V by = splat(1.0f / std::sqrt(sum(squares) / float(dim) + epsilon));
  const V more = splat(style == ONE_ADDED ? 1.0f : 0.0f);
  by_sixteen(dim, [&](int64_t at, int64_t n) {
    V y = mul(load_some(x + at, n), by);
    if (style == ROUNDED) y = as_kept(y, out);
    store_some(out + at, mul(y, add(load_some(weight + at, n), more)), n);
  });
}

}  // namespace penstock
