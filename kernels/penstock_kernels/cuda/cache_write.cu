#include "fp8.cuh"
// New keys and values to their slots of the paged cache: as they are, or with eight bits and a scale for each token
// and head, the greatest magnitude becoming the greatest number.

template <class T, class S>
__device__ __forceinline__ void write_head(const T* __restrict__ from, S* __restrict__ to, float* __restrict__ scale,
                                           int dim) {
  int lane = threadIdx.x % 32;
  if constexpr (is_same<T, S>::value) {
    for (int i = lane; i < dim; i += 32) to[i] = from[i];
  } else {
    float highest = 0;
    for (int i = lane; i < dim; i += 32) highest = fmaxf(highest, fabsf(float(from[i])));
    float step = warp_max(highest) / stored_limit<S>::value, divisor = fmaxf(step, 1e-30f);
    if (lane == 0) *scale = step;
    for (int i = lane; i < dim; i += 32) {
      float x = float(from[i]) / divisor;
      if constexpr (is_same<S, signed char>::value) to[i] = S(__float2int_rn(x));
      else to[i] = S(x);
    }
  }
}

// k: [tokens, kv_heads, key_dim], v: [tokens, kv_heads, value_dim]; slot: [tokens], page * page size + offset,
// negative for a token that is not kept; caches: [slots, kv_heads, dim]; scales: [slots, kv_heads], null where S is T.
// One warp per token and head, for keys and (the second half of the warps) for values.
template <class T, class S>
__global__ void cache_write(const T* __restrict__ k, const T* __restrict__ v, const long long* __restrict__ slot,
                            S* __restrict__ k_cache, S* __restrict__ v_cache, float* __restrict__ k_scale,
                            float* __restrict__ v_scale, int heads, int kv_heads, int key_dim, int value_dim) {
  int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (warp >= 2 * heads) return;
  bool values = warp >= heads;
  long long head = values ? warp - heads : warp, to = slot[head / kv_heads];
  if (to < 0) return;
  to = to * kv_heads + head % kv_heads;
  if (values) write_head(v + head * value_dim, v_cache + to * value_dim, v_scale ? v_scale + to : nullptr, value_dim);
  else write_head(k + head * key_dim, k_cache + to * key_dim, k_scale ? k_scale + to : nullptr, key_dim);
}
