// The types that numbers are kept in, and each as a float and back.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

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

}  // namespace penstock
