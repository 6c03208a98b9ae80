// Philox 4x32-10 (Salmon et al. 2011), as in the engine's `philox`: a counter of token, position and stream under a
// key of the seed.
#pragma once
#include "common.cuh"

struct Words {
  unsigned w[4];
};
__device__ __forceinline__ Words philox4(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned k0, unsigned k1) {
#pragma unroll
  for (int i = 0; i < 10; ++i) {
    unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}
// Between 0 and 1 and neither of them, of 52 bits.
__device__ __forceinline__ double uniform64(unsigned long long position, unsigned long long seed, unsigned stream) {
  Words r = philox4(0, unsigned(position), unsigned(position >> 32), stream, unsigned(seed), unsigned(seed >> 32));
  double bits = double((unsigned long long)r.w[0] << 20 | r.w[1] >> 12);
  double unit = (bits + 0.5) * 2.220446049250313e-16;  // 2^-52
  return unit < 1 ? unit : 1 - 1.1102230246251565e-16;
}
