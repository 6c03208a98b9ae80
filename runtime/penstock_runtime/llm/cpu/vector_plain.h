// Sixteen floats as a loop, of which the compiler makes the most.
#pragma once

#include "numbers.h"

namespace penstock {

struct V {
  float x[16];
};
#define PENSTOCK_EACH _Pragma("omp simd") for (int i = 0; i < 16; ++i)

inline V splat(float x) { V r; PENSTOCK_EACH r.x[i] = x; return r; }
inline V zero() { return splat(0.0f); }
inline V add(V a, V b) { PENSTOCK_EACH a.x[i] += b.x[i]; return a; }
inline V sub(V a, V b) { PENSTOCK_EACH a.x[i] -= b.x[i]; return a; }
inline V mul(V a, V b) { PENSTOCK_EACH a.x[i] *= b.x[i]; return a; }
inline V div(V a, V b) { PENSTOCK_EACH a.x[i] /= b.x[i]; return a; }
#ifdef __FMA__
inline V fma(V a, V b, V c) {
  PENSTOCK_EACH c.x[i] = __builtin_fmaf(a.x[i], b.x[i], c.x[i]);
  return c;
}
#else
inline V fma(V a, V b, V c) { PENSTOCK_EACH c.x[i] += a.x[i] * b.x[i]; return c; }
#endif
inline V larger(V a, V b) { PENSTOCK_EACH a.x[i] = a.x[i] > b.x[i] ? a.x[i] : b.x[i]; return a; }
inline V smaller(V a, V b) { PENSTOCK_EACH a.x[i] = a.x[i] < b.x[i] ? a.x[i] : b.x[i]; return a; }
inline V size_of(V a) { PENSTOCK_EACH a.x[i] = std::fabs(a.x[i]); return a; }
inline float sum(V a) {
  float s = 0.0f;
  for (int i = 0; i < 16; ++i) s += a.x[i];
  return s;
}
inline float largest(V a) { return *std::max_element(a.x, a.x + 16); }
template <class T>
inline V load(const T* p) { V r; PENSTOCK_EACH r.x[i] = widen(p[i]); return r; }
template <class T>
inline V load(const T* p, int64_t n) {
  V r = zero();
  for (int64_t i = 0; i < n; ++i) r.x[i] = widen(p[i]);
  return r;
}
template <class T>
inline void store(T* p, V x) { PENSTOCK_EACH narrow(x.x[i], p + i); }
template <class T>
inline void store(T* p, V x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) narrow(x.x[i], p + i);
}
inline V nearest(V x) { PENSTOCK_EACH x.x[i] = std::nearbyint(x.x[i]); return x; }
inline V scaled(V x, V n) {
  PENSTOCK_EACH x.x[i] *= as_float(uint32_t(int32_t(n.x[i]) + 127) << 23);
  return x;
}
inline V sums(V a[16]) {
  V r;
  for (int i = 0; i < 16; ++i) r.x[i] = sum(a[i]);
  return r;
}

inline void transpose(V a[16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) std::swap(a[i].x[j], a[j].x[i]);
}

}  // namespace penstock
