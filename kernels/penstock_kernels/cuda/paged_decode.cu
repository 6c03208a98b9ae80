#include "common.cuh"
// Attention of one new token of each row over its paged cache, in two launches: the cache is cut into splits, so
// that a few long rows fill a device, and what the splits found is merged. A warp takes a token at a time and
// serves all query heads of a group with one read of its key and value.

// q: [rows, kv_heads * GROUP, DIM]; caches: [slots, kv_heads, DIM], a slot being page * page_size + offset; table:
// [rows, pages]; length: [rows]; partial: [rows, heads, splits, DIM + 2], a sum of values, then the greatest score
// and the sum of weights it is relative to (0 for a split without tokens). Two blocks for each multiprocessor are
// said to the compiler because, left to itself, it spills a register for a higher occupancy.
template <class T, int DIM, int GROUP, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 2)
    decode_split(const T* __restrict__ q, const T* __restrict__ k_cache, const T* __restrict__ v_cache,
                 const int* __restrict__ table, const int* __restrict__ length, float* __restrict__ partial, float scale,
                 int page_size, int pages, int kv_heads, int splits) {
  constexpr int N = DIM / 32;  // of a head's dimensions in each lane
  typedef Vec<T, N> Pack;
  __shared__ float sums[WARPS][GROUP][DIM];
  __shared__ float highest[WARPS][GROUP], weights[WARPS][GROUP];
  int head = blockIdx.x, split = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  long long row = blockIdx.z, heads = (long long)kv_heads * GROUP;
  int span = (length[row] + splits - 1) / splits;
  int first = split * span, last = min(first + span, length[row]);

  float query[GROUP][N], sum[GROUP][N] = {}, most[GROUP], weight[GROUP] = {};
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
    Pack own = load_vector<Pack>(q + (row * heads + head * GROUP + g) * DIM + lane * N);
#pragma unroll
    for (int i = 0; i < N; ++i) query[g][i] = float(own.v[i]) * scale;
    most[g] = -__int_as_float(0x7f800000);
  }
#pragma unroll 1
  for (int token = first + warp; token < last; token += WARPS) {
    long long slot = (long long)table[row * pages + token / page_size] * page_size + token % page_size;
    long long at = (slot * kv_heads + head) * DIM + lane * N;
    Pack key = load_vector<Pack>(k_cache + at), value = load_vector<Pack>(v_cache + at);
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) score += query[g][i] * float(key.v[i]);
      score = warp_sum(score);
      float now = fmaxf(most[g], score), keep = expf(most[g] - now), own = expf(score - now);
      most[g] = now;
      weight[g] = weight[g] * keep + own;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[g][i] = sum[g][i] * keep + own * float(value.v[i]);
    }
  }
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
#pragma unroll
    for (int i = 0; i < N; ++i) sums[warp][g][lane * N + i] = sum[g][i];
    if (lane == 0) highest[warp][g] = most[g], weights[warp][g] = weight[g];
  }
  __syncthreads();

#pragma unroll 1
  for (int i = threadIdx.x; i < GROUP * DIM; i += WARPS * 32) {
    int g = i / DIM, d = i % DIM;
    float all = -__int_as_float(0x7f800000), total = 0, value = 0;
    for (int w = 0; w < WARPS; ++w) all = fmaxf(all, highest[w][g]);
    for (int w = 0; w < WARPS; ++w) {
      if (weights[w][g] == 0) continue;  // this warp had no token
      float keep = expf(highest[w][g] - all);
      total += weights[w][g] * keep;
      value += sums[w][g][d] * keep;
    }
    float* to = partial + ((row * heads + head * GROUP + g) * splits + split) * (DIM + 2);
    to[d] = value;
    if (d == 0) to[DIM] = all, to[DIM + 1] = total;
  }
}

// out: [rows, heads, DIM]; 0 for a row without tokens. One block of DIM threads per row and head.
template <class T, int DIM>
__global__ void __launch_bounds__(DIM)
    merge_splits(const float* __restrict__ partial, T* __restrict__ out, int splits) {
  long long head = (long long)blockIdx.y * gridDim.x + blockIdx.x;
  const float* own = partial + head * splits * (DIM + 2);
  float all = -__int_as_float(0x7f800000), total = 0, value = 0;
  for (int s = 0; s < splits; ++s) all = fmaxf(all, own[s * (DIM + 2) + DIM]);
  for (int s = 0; s < splits; ++s) {
    const float* split = own + s * (DIM + 2);
    if (split[DIM + 1] == 0) continue;
    float keep = expf(split[DIM] - all);
    total += split[DIM + 1] * keep;
    value += split[threadIdx.x] * keep;
  }
  out[head * DIM + threadIdx.x] = T(total > 0 ? value / total : 0);
}
