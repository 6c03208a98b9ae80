#include "decode_mma.cuh"
// Attention of one new token of each row over its paged cache, in two launches: the cache is cut into splits, so
// that a few long rows fill a device, and what the splits found is merged. A warp takes some tokens at a time, so that
// their loads are under way together, and serves all query heads of a group with one read of their keys and values.

// q: [rows, heads, dim]; caches: [slots, kv_heads, dim], a slot being page * page_size + offset, with scales [slots,
// kv_heads] unless S is T; table: [rows, pages]; length: [rows]; partial: [rows, heads, splits, dim + 2], a sum of
// values, then the greatest score and the sum of weights it is relative to (0 for a split without tokens). dim is DIM
// at most, a multiple of what a lane holds of it; a block serves GROUP query heads at most, so a greater group has
// `parts` blocks. The last `window` tokens are seen, 0: all; softcap 0: none. Two blocks for each multiprocessor are
// said to the compiler because, left to itself, it spills a register for a higher occupancy.
template <class T, class S, int DIM, int GROUP, int WARPS>
__global__ void __launch_bounds__(WARPS * 32, 2)
    decode_split(const T* __restrict__ q, const S* __restrict__ k_cache, const S* __restrict__ v_cache,
                 const float* __restrict__ k_scale, const float* __restrict__ v_scale, const int* __restrict__ table,
                 const int* __restrict__ length, float* __restrict__ partial, float scale, float softcap, int window,
                 int page_size, int pages, int kv_heads, int group, int dim, int parts, int splits) {
  constexpr int N = DIM / 32;                 // of a head's dimensions in each lane
  constexpr int TOKENS = GROUP > 4 ? 2 : 4;  // of a warp at a time
  typedef Vec<S, N> Pack;
  __shared__ float sums[WARPS][GROUP][DIM];
  __shared__ float highest[WARPS][GROUP], weights[WARPS][GROUP];
  int head = blockIdx.x / parts, split = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  long long row = blockIdx.z, heads = (long long)kv_heads * group;
  int from = blockIdx.x % parts * GROUP, count = min(GROUP, group - from);  // this block's heads of the group
  int end = length[row], begin = window > 0 ? max(0, end - window) : 0;
  int span = (end - begin + splits - 1) / splits;
  int first = begin + split * span, last = min(first + span, end);
  bool holds = lane * N < dim;

  float query[GROUP][N] = {}, sum[GROUP][N] = {}, most[GROUP], weight[GROUP] = {};
#pragma unroll
  for (int g = 0; g < GROUP; ++g) {
    most[g] = -__int_as_float(0x7f800000);
    if (g >= count || !holds) continue;
    Vec<T, N> own = load_vector<Vec<T, N>>(q + (row * heads + head * group + from + g) * dim + lane * N);
#pragma unroll
    for (int i = 0; i < N; ++i) query[g][i] = float(own.v[i]) * scale;
  }
#pragma unroll 1
  for (int token = first + warp * TOKENS; token < last; token += WARPS * TOKENS) {
    Pack key[TOKENS] = {}, value[TOKENS] = {};
    float k_step[TOKENS], v_step[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; ++t) {
      int own = min(token + t, last - 1);  // what is behind the last is read, and not counted
      long long slot = (long long)table[row * pages + own / page_size] * page_size + own % page_size;
      long long at = slot * kv_heads + head;
      if (holds) key[t] = load_vector<Pack>(k_cache + at * dim + lane * N);
      if (holds) value[t] = load_vector<Pack>(v_cache + at * dim + lane * N);
      if constexpr (!is_same<T, S>::value) k_step[t] = k_scale[at], v_step[t] = v_scale[at];
    }
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
      float score[TOKENS], now = most[g];
#pragma unroll
      for (int t = 0; t < TOKENS; ++t) {
        score[t] = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) score[t] += query[g][i] * float(key[t].v[i]);
        score[t] = warp_sum(score[t]);
        if constexpr (!is_same<T, S>::value) score[t] *= k_step[t];
        if (softcap > 0) score[t] = softcap * tanhf(score[t] / softcap);
        if (token + t >= last) score[t] = -__int_as_float(0x7f800000);
        now = fmaxf(now, score[t]);
      }
      float keep = expf(most[g] - now);
      most[g] = now;
      weight[g] *= keep;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[g][i] *= keep;
#pragma unroll
      for (int t = 0; t < TOKENS; ++t) {
        float own = expf(score[t] - now);
        weight[g] += own;
        if constexpr (!is_same<T, S>::value) own *= v_step[t];
#pragma unroll
        for (int i = 0; i < N; ++i) sum[g][i] += own * float(value[t].v[i]);
      }
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
  for (int i = threadIdx.x; i < count * dim; i += WARPS * 32) {
    int g = i / dim, d = i % dim;
    float all = -__int_as_float(0x7f800000), total = 0, value = 0;
    for (int w = 0; w < WARPS; ++w) all = fmaxf(all, highest[w][g]);
    for (int w = 0; w < WARPS; ++w) {
      if (weights[w][g] == 0) continue;  // this warp had no token
      float keep = expf(highest[w][g] - all);
      total += weights[w][g] * keep;
      value += sums[w][g][d] * keep;
    }
    float* to = partial + ((row * heads + head * group + from + g) * splits + split) * (dim + 2);
    to[d] = value;
    if (d == 0) to[dim] = all, to[dim + 1] = total;
  }
}

// out: [rows, heads, dim]; 0 for a row without tokens. sinks: [heads], a logit without a value for each head, or null.
// One block per row and head, of a thread for each dimension.
template <class T>
__global__ void merge_splits(const float* __restrict__ partial, const float* __restrict__ sinks, T* __restrict__ out,
                             int splits) {
  int dim = blockDim.x;
  long long head = (long long)blockIdx.y * gridDim.x + blockIdx.x;
  const float* own = partial + head * splits * (dim + 2);
  float all = -__int_as_float(0x7f800000), total = 0, value = 0;
  for (int s = 0; s < splits; ++s) all = fmaxf(all, own[s * (dim + 2) + dim]);
  if (sinks) {
    float sink = sinks[blockIdx.x];
    all = fmaxf(all, sink), total = expf(sink - all);
  }
  for (int s = 0; s < splits; ++s) {
    const float* split = own + s * (dim + 2);
    if (split[dim + 1] == 0) continue;
    float keep = expf(split[dim] - all);
    total += split[dim + 1] * keep;
    value += split[threadIdx.x] * keep;
  }
  out[head * dim + threadIdx.x] = T(total > 0 ? value / total : 0);
}
