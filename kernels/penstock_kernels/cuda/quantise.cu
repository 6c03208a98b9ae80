#include "common.cuh"
// Floats as small integers with one scale for each group of a row's elements, and back. The greatest magnitude
// of a group becomes the greatest integer; ties round to even. A group of zeros has scale 0.

__device__ __forceinline__ int quantised(float x, float inverse, int limit) {
  int q = __float2int_rn(x * inverse);
  return min(max(q, -limit), limit);
}

// One warp per group of `group` elements (a multiple of 2 where BITS is 4). x: [groups * group]; scale:
// [groups]; out: a byte each, or two elements in a byte, the first in the low half.
template <class T, int BITS>
__global__ void quantise(const T* __restrict__ x, unsigned char* __restrict__ out, float* __restrict__ scale,
                         int groups, int group) {
  constexpr int LIMIT = (1 << (BITS - 1)) - 1;
  int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
  if (warp >= groups) return;
  const T* from = x + (long long)warp * group;
  float highest = 0;
  for (int i = lane; i < group; i += 32) highest = fmaxf(highest, fabsf(float(from[i])));
  highest = warp_max(highest);
  float inverse = highest > 0 ? LIMIT / highest : 0;
  if (lane == 0) scale[warp] = highest / LIMIT;
  if (BITS == 8) {
    unsigned char* to = out + (long long)warp * group;
    for (int i = lane; i < group; i += 32) to[i] = quantised(float(from[i]), inverse, LIMIT);
  } else {
    unsigned char* to = out + (long long)warp * group / 2;
    for (int i = lane; i < group / 2; i += 32) {
      int low = quantised(float(from[2 * i]), inverse, LIMIT), high = quantised(float(from[2 * i + 1]), inverse, LIMIT);
      to[i] = (low & 15) | (high & 15) << 4;
    }
  }
}

// The way back: out[i] = q[i] * scale[i / group]. One thread makes two elements, which one byte holds where BITS
// is 4.
template <class D, int BITS>
__global__ void dequantise(const unsigned char* __restrict__ q, const float* __restrict__ scale,
                           D* __restrict__ out, long long size, int group) {
  long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 2;
  if (i >= size) return;
  int low, high = 0;
  if (BITS == 8) {
    low = (signed char)q[i];
    if (i + 1 < size) high = (signed char)q[i + 1];
  } else {
    low = (signed char)(q[i / 2] << 4) >> 4;
    high = (signed char)q[i / 2] >> 4;
  }
  out[i] = D(low * scale[i / group]);
  if (i + 1 < size) out[i + 1] = D(high * scale[(i + 1) / group]);
}
