// Sixteen floats at a time: load and store by any type, arithmetic, sums; what a processor has for it
// is chosen here.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PENSTOCK_AVX512 1
#include "vector_avx512.h"
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PENSTOCK_AVX2 1
#include "vector_avx2.h"
#else
#include "vector_plain.h"
#endif

namespace penstock {

// By a polynomial after Cephes; off by 2 units in the last place.
inline V exponential(V x) {
  x = larger(smaller(x, splat(88.0f)), splat(-87.3f));
  const V n = nearest(mul(x, splat(1.44269504f)));
  V r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  V y = splat(1.9875691500e-4f);
  y = fma(y, r, splat(1.3981999507e-3f));
  y = fma(y, r, splat(8.3334519073e-3f));
  y = fma(y, r, splat(4.1665795894e-2f));
  y = fma(y, r, splat(1.6666665459e-1f));
  y = fma(y, r, splat(5.0000001201e-1f));
  y = fma(y, mul(r, r), add(r, splat(1.0f)));
  return scaled(y, n);
}

// A value as it is after it was written as T.
inline V as_kept(V x, const float*) { return x; }
template <class T>
inline V as_kept(V x, const T*) {
  T held[16];
  store(held, x);
  return load(held);
}
#ifdef PENSTOCK_AVX512
inline V as_kept(V x, const bf16*) { return widened(rounded(x)); }
inline V as_kept(V x, const f16*) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, 0)); }
#endif

// Calls f(at, n, whole) for each sixteen of `count`: n is 16 but for the rest at the end.
template <class F>
inline void by_sixteen(int64_t count, F&& f) {
  int64_t at = 0;
  for (; at + LANES <= count; at += LANES) f(at, LANES);
  if (at < count) f(at, count - at);
}
template <class T>
inline V load_some(const T* p, int64_t n) { return n == LANES ? load(p) : load(p, n); }
template <class T>
inline void store_some(T* p, V x, int64_t n) { n == LANES ? store(p, x) : store(p, x, n); }

}  // namespace penstock
