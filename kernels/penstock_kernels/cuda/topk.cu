#include "common.cuh"
// The highest k values of each row, highest first, ties by the lower column, NaN last: the order of
// penstock_kernels.topk. With SOFTMAX the values given are the row's probabilities. One block per row.

// A key that is greater for what comes first; 0 for nothing at all.
__device__ __forceinline__ unsigned long long place_of(float x, unsigned column) {
  unsigned bits = __float_as_uint(x), ordered;
  if (x != x) ordered = 0;
  else if (x == 0) ordered = 0x80000000u;  // -0 equals 0
  else ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (unsigned long long)ordered << 32 | ~column;
}
__device__ __forceinline__ unsigned long long greater(unsigned long long a, unsigned long long b) {
  return a > b ? a : b;
}

template <class T, bool SOFTMAX, int THREADS>
__global__ void __launch_bounds__(THREADS)
    top_k(const T* __restrict__ values, float* __restrict__ scores, int* __restrict__ columns, int width, int k) {
  __shared__ unsigned long long best[THREADS / 32];
  const T* row = values + (long long)blockIdx.x * width;
  int t = threadIdx.x;

  float highest = 0, scale = 1;
  if (SOFTMAX) {
    float own = -__int_as_float(0x7f800000);
    for (int c = t; c < width; c += THREADS) own = fmaxf(own, float(row[c]));
    highest = block_max<THREADS>(own);
    float sum = 0;
    for (int c = t; c < width; c += THREADS) sum += expf(float(row[c]) - highest);
    scale = 1 / block_sum<THREADS>(sum);
  }

  // Each turn finds the greatest key below the last one: no list to sort, and nothing to remember.
  unsigned long long last = ~0ull;
  for (int turn = 0; turn < k; ++turn) {
    unsigned long long own = 0;
    for (int c = t; c < width; c += THREADS) {
      unsigned long long key = place_of(float(row[c]), c);
      if (key < last) own = greater(own, key);
    }
#pragma unroll
    for (int d = 16; d; d /= 2) own = greater(own, __shfl_xor_sync(FULL_WARP, own, d));
    if (t % 32 == 0) best[t / 32] = own;
    __syncthreads();
    own = best[0];
#pragma unroll
    for (int w = 1; w < THREADS / 32; ++w) own = greater(own, best[w]);
    last = own;
    if (t == 0) {
      unsigned column = ~(unsigned)own;
      float x = float(row[column]);
      long long at = (long long)blockIdx.x * k + turn;
      columns[at] = column;
      scores[at] = SOFTMAX ? expf(x - highest) * scale : x;
    }
    __syncthreads();
  }
}
