#include "common.cuh"
// out[r, c] = silu(both[r, c]) * both[r, width + c]: the gated half of a transformer's MLP, whose two inputs one
// matrix product gave side by side. width is a multiple of 16 / sizeof(T); one thread makes one vector.
template <class T>
__global__ void silu_mul(const T* __restrict__ both, T* __restrict__ out, int width) {
  constexpr int N = 16 / sizeof(T);
  typedef Vec<T, N> Pack;
  long long row = blockIdx.y;
  int c = (blockIdx.x * blockDim.x + threadIdx.x) * N;
  if (c >= width) return;
  Pack gate = load_vector<Pack>(both + row * 2 * width + c), up = load_vector<Pack>(both + row * 2 * width + width + c);
  Pack made;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float g = float(gate.v[i]);
    made.v[i] = T(g / (1 + expf(-g)) * float(up.v[i]));
  }
  store_vector(out + row * width + c, made);
}
