#include "common.cuh"
// Rotates queries and keys by their positions, and writes keys and values to their slots of the paged cache: one
// launch for what is otherwise four.

// q: [tokens, q_heads, dim], rotated in place; k, v: [tokens, kv_heads, dim], only read; cosine, sine:
// [positions, dim / 2]; slot: [tokens], page * page size + offset, negative for a token that is not kept; caches:
// [slots, kv_heads, dim]. Dimension i turns with i + dim / 2. One block per token; one thread per pair, in turns.
template <class T>
__global__ void rotary_cache(T* __restrict__ q, const T* __restrict__ k, const T* __restrict__ v,
                             const int* __restrict__ position, const long long* __restrict__ slot,
                             const float* __restrict__ cosine, const float* __restrict__ sine,
                             T* __restrict__ k_cache, T* __restrict__ v_cache, int q_heads, int kv_heads, int dim) {
  int token = blockIdx.x, half = dim / 2;
  const float* c = cosine + (long long)position[token] * half;
  const float* s = sine + (long long)position[token] * half;
  T* own_q = q + (long long)token * q_heads * dim;
  for (int i = threadIdx.x; i < q_heads * half; i += blockDim.x) {
    int head = i / half, d = i % half;
    T* at = own_q + head * dim + d;
    float a = float(at[0]), b = float(at[half]);
    at[0] = T(a * c[d] - b * s[d]);
    at[half] = T(b * c[d] + a * s[d]);
  }
  long long to = slot[token];
  if (to < 0) return;
  const T* own_k = k + (long long)token * kv_heads * dim;
  const T* own_v = v + (long long)token * kv_heads * dim;
  T* new_k = k_cache + to * kv_heads * dim;
  T* new_v = v_cache + to * kv_heads * dim;
  for (int i = threadIdx.x; i < kv_heads * half; i += blockDim.x) {
    int d = i % half, first = i / half * dim + d;
    float a = float(own_k[first]), b = float(own_k[first + half]);
    new_k[first] = T(a * c[d] - b * s[d]);
    new_k[first + half] = T(b * c[d] + a * s[d]);
    new_v[first] = own_v[first];
    new_v[first + half] = own_v[first + half];
  }
}
