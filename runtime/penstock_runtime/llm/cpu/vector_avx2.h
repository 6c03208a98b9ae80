// Sixteen floats as two registers of AVX2.
#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace penstock {

struct V {
  __m256 lo, hi;
};

#define PENSTOCK_BOTH(name, call)                                    \
  inline V name(V a, V b) { return {call(a.lo, b.lo), call(a.hi, b.hi)}; }
PENSTOCK_BOTH(add, _mm256_add_ps)
PENSTOCK_BOTH(sub, _mm256_sub_ps)
PENSTOCK_BOTH(mul, _mm256_mul_ps)
PENSTOCK_BOTH(div, _mm256_div_ps)
PENSTOCK_BOTH(larger, _mm256_max_ps)
PENSTOCK_BOTH(smaller, _mm256_min_ps)
inline V splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline V size_of(V a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline float sum(V a) {
  const __m256 x = _mm256_add_ps(a.lo, a.hi);
  __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
inline float largest(V a) {
  const __m256 x = _mm256_max_ps(a.lo, a.hi);
  __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  y = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256 widened(const bf16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline V load(const bf16* p) { return {widened(p), widened(p + 8)}; }
inline __m256 widened(const f16* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline V load(const f16* p) { return {widened(p), widened(p + 8)}; }
inline __m256 widened(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
inline V load(const int8_t* p) { return {widened(p), widened(p + 8)}; }
inline __m256 widened(const f8* p) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x80)), 24);
  const __m256i rest = _mm256_slli_epi32(_mm256_and_si256(wide, _mm256_set1_epi32(0x7f)), 20);
  return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(sign, rest)), _mm256_set1_ps(0x1p120f));
}
inline V load(const f8* p) { return {widened(p), widened(p + 8)}; }
template <class T>
inline V load(const T* p, int64_t n) {
  float held[16] = {};
  for (int64_t i = 0; i < n; ++i) held[i] = widen(p[i]);
  return load(held);
}

inline __m256i rounded(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  return _mm256_srli_epi32(up, 16);
}
inline void store(float* p, V x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
inline void store(bf16* p, V x) {  // packing goes by halves, which are put in their order after
  const __m256i both = _mm256_packus_epi32(rounded(x.lo), rounded(x.hi));
  _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(both, 0xd8));
}
inline void store(f16* p, V x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.lo, 0));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.hi, 0));
}
template <class T>
inline void store(T* p, V x, int64_t n) {
  float held[16];
  store(held, x);
  for (int64_t i = 0; i < n; ++i) narrow(held[i], p + i);
}
template <class T>
inline void store(T* p, V x) { store(p, x, LANES); }

inline V nearest(V x) { return {_mm256_round_ps(x.lo, 8), _mm256_round_ps(x.hi, 8)}; }
inline __m256 power(__m256 n) {
  const __m256i whole = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(whole, 23));
}
inline V scaled(V x, V n) { return mul(x, {power(n.lo), power(n.hi)}); }
inline V sums(V a[16]) {
  float found[16];
  for (int i = 0; i < 16; ++i) found[i] = sum(a[i]);
  return load(found);
}
inline void transpose(V a[16]) {
  float held[16][16];
  for (int i = 0; i < 16; ++i) store(held[i], a[i]);
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) std::swap(held[i][j], held[j][i]);
  for (int i = 0; i < 16; ++i) a[i] = load(held[i]);
}

}  // namespace penstock
