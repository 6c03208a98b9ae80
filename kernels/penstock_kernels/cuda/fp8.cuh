// Numbers of eight bits as a cache stores them: integers, and floats of four bits of exponent (e4m3, without
// infinities). By arithmetic alone, so that one source serves devices that have such numbers and those that do not.
#pragma once
#include "common.cuh"

struct e4m3 {
  unsigned char bits;
  e4m3() = default;
  // Ties to even; what is no number, or too great for one, becomes NaN.
  __device__ __forceinline__ explicit e4m3(float x) {
    unsigned whole = __float_as_uint(x), sign = whole >> 24 & 0x80;
    whole &= 0x7fffffff;
    if (whole >= 0x43f00000) whole = 0x7f;  // 480 and more
    else if (whole < 0x3c800000) whole = __float_as_uint(__uint_as_float(whole) + 16384.0f) - 0x46800000;
    else whole = (whole - 0x3c000000 + 0x7ffff + (whole >> 20 & 1)) >> 20;
    bits = sign | whole;
  }
  // NaN reads as 480: its scale is NaN then too.
  __device__ __forceinline__ explicit operator float() const {
    return __uint_as_float((bits & 0x80u) << 24 | (bits & 0x7fu) << 20) * 1.329227995784916e36f;  // 2^120
  }
};

template <class T>
struct stored_limit {
  static constexpr float value = 0;
};
template <>
struct stored_limit<signed char> {
  static constexpr float value = 127;
};
template <>
struct stored_limit<e4m3> {
  static constexpr float value = 448;
};
