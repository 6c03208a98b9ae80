#include "gemv_mma.cuh"
// A few rows times a weight of small integers, which become floats in registers: it is read once, and nothing of it
// is written anywhere. A warp makes some outputs of all rows.

constexpr int OUTPUTS = 2, EACH = 8;  // outputs of a warp; integers of a lane at a time

// x: [rows, inputs]; data: [outputs, inputs * BITS / 8], two integers in a byte where BITS is 4, the first in the low
// half; scale: [outputs, inputs / group]; bias: [outputs] or null; y: [rows, outputs]. inputs and group are multiples
// of EACH; rows is at most ROWS.
template <class T, int BITS, int ROWS>
__global__ void gemv(const T* __restrict__ x, const unsigned char* __restrict__ data, const float* __restrict__ scale,
                     const float* __restrict__ bias, T* __restrict__ y, int rows, int inputs, int outputs, int group) {
  constexpr int BYTES = EACH * BITS / 8;
  typedef Vec<unsigned char, BYTES> Bytes;
  typedef Vec<T, EACH> Pack;
  int lane = threadIdx.x % 32, first = (blockIdx.x * blockDim.x + threadIdx.x) / 32 * OUTPUTS;
  if (first >= outputs) return;
  int groups = inputs / group;
  float sum[OUTPUTS][ROWS] = {};
#pragma unroll 2
  for (int k = lane * EACH; k < inputs; k += 32 * EACH) {
    float w[OUTPUTS][EACH];
#pragma unroll
    for (int o = 0; o < OUTPUTS; ++o) {
      long long output = min(first + o, outputs - 1);
      Bytes own = load_vector<Bytes>(data + (output * inputs + k) * BITS / 8);
      float step = scale[output * groups + k / group];
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        int q;
        if constexpr (BITS == 8) q = (signed char)own.v[i];
        else q = i % 2 ? (signed char)own.v[i / 2] >> 4 : (signed char)(own.v[i / 2] << 4) >> 4;
        w[o][i] = q * step;
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      if (r >= rows) continue;
      Pack own = load_vector<Pack>(x + (long long)r * inputs + k);
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
#pragma unroll
        for (int o = 0; o < OUTPUTS; ++o) sum[o][r] += w[o][i] * float(own.v[i]);
      }
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; ++o) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float all = warp_sum(sum[o][r]);
      if (lane || r >= rows || first + o >= outputs) continue;
      y[(long long)r * outputs + first + o] = T(bias ? all + bias[first + o] : all);
    }
  }
}
