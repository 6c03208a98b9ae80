// Sixteen floats as one register of AVX-512.
#pragma once

#include <immintrin.h>

#include "numbers.h"

namespace penstock {

using V = __m512;

inline V zero() { return _mm512_setzero_ps(); }
inline V splat(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V div(V a, V b) { return _mm512_div_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V larger(V a, V b) { return _mm512_max_ps(a, b); }
inline V smaller(V a, V b) { return _mm512_min_ps(a, b); }
inline V size_of(V a) { return _mm512_abs_ps(a); }
inline float sum(V a) { return _mm512_reduce_add_ps(a); }
inline float largest(V a) { return _mm512_reduce_max_ps(a); }

inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline V widened(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
inline V load(const bf16* p) { return widened(_mm256_loadu_si256((const __m256i*)p)); }
inline V load(const f16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline V of_bytes(__m128i bytes, const int8_t*) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
inline V of_bytes(__m128i bytes, const f8*) {
  const __m512i wide = _mm512_cvtepu8_epi32(bytes);
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x80)), 24);
  const __m512i rest = _mm512_slli_epi32(_mm512_and_si512(wide, _mm512_set1_epi32(0x7f)), 20);
  return mul(_mm512_castsi512_ps(_mm512_or_si512(sign, rest)), splat(0x1p120f));
}
inline V load(const int8_t* p) { return of_bytes(_mm_loadu_si128((const __m128i*)p), p); }
inline V load(const f8* p) { return of_bytes(_mm_loadu_si128((const __m128i*)p), p); }

inline __mmask16 first(int64_t n) { return __mmask16((1u << n) - 1); }
inline V load(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline V load(const bf16* p, int64_t n) { return widened(_mm256_maskz_loadu_epi16(first(n), p)); }
inline V load(const f16* p, int64_t n) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
}
template <class T>
inline V load(const T* p, int64_t n) {
  return of_bytes(_mm_maskz_loadu_epi8(first(n), p), p);
}

inline __m256i rounded(V x) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
#endif
}
inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
inline void store(bf16* p, V x) { _mm256_storeu_si256((__m256i*)p, rounded(x)); }
inline void store(f16* p, V x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, 0)); }
inline void store(float* p, V x, int64_t n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline void store(bf16* p, V x, int64_t n) { _mm256_mask_storeu_epi16(p, first(n), rounded(x)); }
inline void store(f16* p, V x, int64_t n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(x, 0));
}

inline void store(int8_t* p, V x, int64_t n) {
  _mm_mask_storeu_epi8(p, first(n), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x)));
}
inline void store(f8* p, V x, int64_t n) {
  float each[16];
  store(each, x);
  for (int64_t i = 0; i < n; ++i) narrow(each[i], p + i);
}
inline void store(int8_t* p, V x) { store(p, x, LANES); }
inline void store(f8* p, V x) { store(p, x, LANES); }

inline V nearest(V x) { return _mm512_roundscale_ps(x, 0); }
inline V scaled(V x, V n) { return _mm512_scalef_ps(x, n); }

// The sums of sixteen vectors, in their order.
inline V sums(V a[16]) {
  for (int i = 0; i < 8; ++i) {
    const V lo = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    a[i] = add(lo, _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
    a[i] = add(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)),
               _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
  }
  for (int i = 0; i < 2; ++i) {
    a[i] = add(_mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0x88),
               _mm512_shuffle_f32x4(a[2 * i], a[2 * i + 1], 0xdd));
  }
  return add(_mm512_shuffle_f32x4(a[0], a[1], 0x88), _mm512_shuffle_f32x4(a[0], a[1], 0xdd));
}

// The sixteen vectors as rows become the columns.
inline void transpose(V a[16]) {
  V b[16];
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 2; ++j) {
      const __m512d x = _mm512_castps_pd(b[4 * i + j]), y = _mm512_castps_pd(b[4 * i + 2 + j]);
      a[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      a[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  for (int j = 0; j < 4; ++j) {
    const V x = a[j], y = a[4 + j], z = a[8 + j], w = a[12 + j];
    const V even = _mm512_shuffle_f32x4(x, y, 0x88), odd = _mm512_shuffle_f32x4(x, y, 0xdd);
    const V also = _mm512_shuffle_f32x4(z, w, 0x88), too = _mm512_shuffle_f32x4(z, w, 0xdd);
    b[j] = _mm512_shuffle_f32x4(even, also, 0x88);
    b[4 + j] = _mm512_shuffle_f32x4(odd, too, 0x88);
    b[8 + j] = _mm512_shuffle_f32x4(even, also, 0xdd);
    b[12 + j] = _mm512_shuffle_f32x4(odd, too, 0xdd);
  }
  std::copy(b, b + 16, a);
}

}  // namespace penstock
