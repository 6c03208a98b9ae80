// Sixteen floats at a time, and the types that they are read from and written to. With AVX-512 each
// operation is an instruction or two; without, it is a loop of sixteen that the compiler vectorises.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define PENSTOCK_AVX512 1
#include <immintrin.h>
#endif

namespace penstock {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct f8 {  // e4m3fn
  uint8_t bits;
};

inline constexpr int64_t LANES = 16;

inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// -- one at a time -------------------------------------------------------------------------------

inline float widen(float x) { return x; }
inline float widen(bf16 x) { return as_float(uint32_t(x.bits) << 16); }
inline float widen(int8_t x) { return float(x); }
// The bits of e4m3 are those of a float that is 2^120 times smaller, its subnormal ones too.
inline float widen(f8 x) {
  return as_float((uint32_t(x.bits & 0x80) << 24) | (uint32_t(x.bits & 0x7f) << 20)) * 0x1p120f;
}
inline float widen(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  if (rest >= 0x7c00) return as_float(sign | 0x7f800000 | ((rest & 0x3ff) << 13));
  return as_float(sign | as_bits(as_float(rest << 13) * 0x1p112f));
}

inline void narrow(float x, float* to) { *to = x; }
inline void narrow(float x, bf16* to) {
  const uint32_t bits = as_bits(x);
  to->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void narrow(float x, f16* to) {
  const uint32_t bits = as_bits(x), sign = (bits >> 16) & 0x8000;
  const float size = std::fabs(x);
  if (!(size < 65520.0f)) {
    to->bits = uint16_t(sign | (x != x ? 0x7e00 : 0x7c00));
  } else if (size < 0x1p-14f) {  // subnormal: adding 0.5 leaves its bits at the end of the fraction
    to->bits = uint16_t(sign | (as_bits(size + 0.5f) - 0x3f000000));
  } else {
    const uint32_t rest = as_bits(size);
    to->bits = uint16_t(sign | ((rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13));
  }
}
inline void narrow(float x, int8_t* to) { *to = int8_t(std::nearbyint(x)); }
inline void narrow(float x, f8* to) {
  const uint32_t sign = (as_bits(x) >> 24) & 0x80;
  const float size = std::min(std::fabs(x), 448.0f);
  if (size < 0x1p-6f) {  // subnormal: a multiple of 2^-9
    to->bits = uint8_t(sign | uint32_t(std::nearbyint(size * 512.0f)));
  } else {
    const uint32_t rest = as_bits(size);
    to->bits = uint8_t(sign | ((rest - 0x3c000000 + 0x7ffff + ((rest >> 20) & 1)) >> 20));
  }
}

// -- sixteen at a time ---------------------------------------------------------------------------

#ifdef PENSTOCK_AVX512

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

inline V exponential(V x) {
  x = larger(smaller(x, splat(88.0f)), splat(-87.3f));
  const V n = _mm512_roundscale_ps(mul(x, splat(1.44269504f)), 0);
  V r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  V y = splat(1.9875691500e-4f);
  y = fma(y, r, splat(1.3981999507e-3f));
  y = fma(y, r, splat(8.3334519073e-3f));
  y = fma(y, r, splat(4.1665795894e-2f));
  y = fma(y, r, splat(1.6666665459e-1f));
  y = fma(y, r, splat(5.0000001201e-1f));
  y = fma(y, mul(r, r), add(r, splat(1.0f)));
  return _mm512_scalef_ps(y, n);
}

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

#else

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
inline V exponential(V x) { PENSTOCK_EACH x.x[i] = std::exp(x.x[i]); return x; }
inline V sums(V a[16]) {
  V r;
  for (int i = 0; i < 16; ++i) r.x[i] = sum(a[i]);
  return r;
}

inline void transpose(V a[16]) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < i; ++j) std::swap(a[i].x[j], a[j].x[i]);
}

#endif

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
